"""Owns the terminal while `top` runs, and gives it back as it was: after a key, a signal, a stop or an exception.

Signals only ring a bell that the loop hears, so that none of them finds the terminal half restored.
"""

from __future__ import annotations

import codecs
import os
import select
import signal
import sys
import termios
import tty
from typing import TYPE_CHECKING, Any

from rich.live import Live

from hostd.cli.top.look import look
from hostd.cli.top.state import State, keys, press
from hostd.cli.top.view import Frame, frame
from hostd.cli.top.watch import Watch

if TYPE_CHECKING:
    from types import FrameType, TracebackType

    from rich.console import Console

    from hostd.cli.session import Session

_ESCAPE_WAIT_S = 0.05
"""How long after an escape the rest of a key may take to come; one that stays alone is the Escape key itself."""

_READ_BYTES = 1024
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_NOTED = (*_ENDING, signal.SIGTSTP, signal.SIGWINCH)


def show(session: Session, console: Console, state: State, interval_s: float) -> int | None:
    """Show what happens until a key or a signal ends it; returns the signal. Ctrl-C is a key, and none of those."""
    with session.client() as client:
        first = look(client)
    with Bell() as bell, Signals(bell) as signals, Watch(session, first, interval_s, bell.ring) as watch:
        while True:
            with Keyboard() as keyboard, Live(console=console, screen=True, auto_refresh=False) as live:
                state = _run(live, watch, bell, signals, keyboard, state)
            if signals.take(signal.SIGTSTP):
                signals.stop_here()
                continue
            return next((number for number in (signal.SIGTERM, signal.SIGHUP) if signals.take(number)), None)


def _run(live: Live, watch: Watch, bell: Bell, signals: Signals, keyboard: Keyboard, state: State) -> State:
    while True:
        shown = _draw(live, watch, state)
        select.select([bell.fileno(), *keyboard.sources()], [], [])
        bell.hush()
        for key in keyboard.pressed():
            state = press(state, key, page=shown.page, most_scroll=shown.most_scroll)
        if state.is_over or signals.has(*_ENDING, signal.SIGTSTP):
            return state


def _draw(live: Live, watch: Watch, state: State) -> Frame:
    console = live.console
    made = frame(watch.scene, state, console.width, console.height, is_ascii=console.options.ascii_only)
    live.update(made.picture(), refresh=True)
    return made


class Bell:
    """Wakes the loop, from any thread and from signal handlers; a context manager."""

    def __enter__(self) -> Bell:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        fd, self._fd = self._fd, -1
        os.close(fd)

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._fd

    def ring(self) -> None:
        """Wake the loop now, or when it comes to wait."""
        if self._fd >= 0:
            os.eventfd_write(self._fd, 1)

    def hush(self) -> None:
        """Forget the rings so far."""
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            return


class Signals:
    """Notes signals and rings, instead of what they do else; a context manager."""

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._came: set[int] = set()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        self._before = {number: signal.signal(number, self._note) for number in _NOTED}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature of handlers
        self._came.add(number)
        self._bell.ring()

    def has(self, *numbers: int) -> bool:
        """Say whether one of these signals came."""
        return not self._came.isdisjoint(numbers)

    def take(self, number: int) -> bool:
        """Say whether a signal came, and forget it."""
        is_there = number in self._came
        self._came.discard(number)
        return is_there

    def stop_here(self) -> None:
        """Stop as Ctrl-Z does to any program; returns when the shell has it go on."""
        noting = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, noting)


class Keyboard:
    """The keys of the terminal as they are pressed, without Enter and without an echo; a context manager.

    Without a terminal on standard input there are none. Keys that are left at the end are dropped: they were not meant
    for the shell.
    """

    def __init__(self) -> None:
        self._fd = sys.stdin.fileno()
        self._before: list[Any] | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def __enter__(self) -> Keyboard:
        if os.isatty(self._fd):
            self._before = termios.tcgetattr(self._fd)
            tty.setcbreak(self._fd)
            quiet = termios.tcgetattr(self._fd)
            quiet[0] &= ~termios.IXON  # a stray Ctrl-S would stop the picture, and with it every key
            termios.tcsetattr(self._fd, termios.TCSANOW, quiet)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._before is not None:
            termios.tcsetattr(self._fd, termios.TCSAFLUSH, self._before)

    def sources(self) -> list[int]:
        """Return what to wait for."""
        return [] if self._before is None else [self._fd]

    def pressed(self) -> list[str]:
        """Return the keys that have been pressed; the end of the input is like the key that quits."""
        text = ""
        while self._has_more(_ESCAPE_WAIT_S if text.endswith("\x1b") else 0):
            data = os.read(self._fd, _READ_BYTES)
            if not data:
                return [*keys(text), "quit"]
            text += self._decoder.decode(data)
        return keys(text)

    def _has_more(self, within_s: float) -> bool:
        return self._before is not None and bool(select.select([self._fd], [], [], within_s)[0])
