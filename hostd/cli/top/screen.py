"""Owns the terminal while `top` runs, and gives it back as it was: after a key, a signal, a stop or an exception.

Keys, signals and what the host says only wake the loop, so that none of them finds the terminal half restored.
"""

from __future__ import annotations

import asyncio
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
    from collections.abc import Callable
    from types import TracebackType

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

    async def shown() -> int | None:
        screen = _Screen(console, state)
        return await screen.show(Watch(session, first, interval_s, screen.wake))

    return asyncio.run(shown())


class _Screen:
    """The loop around the picture. It draws when it is woken."""

    def __init__(self, console: Console, state: State) -> None:
        self._console = console
        self._state = state
        self._news = asyncio.Event()
        self._came: set[int] = set()
        self.wake = self._news.set

    async def show(self, watch: Watch) -> int | None:
        loop = asyncio.get_running_loop()
        for number in _NOTED:
            loop.add_signal_handler(number, self._note, number)
        watching = [loop.create_task(watch.look()), loop.create_task(watch.listen())]
        for task in watching:
            task.add_done_callback(lambda _: self.wake())
        try:
            while True:
                with (
                    Keyboard(self.wake) as keyboard,
                    Live(console=self._console, screen=True, auto_refresh=False) as live,
                ):
                    await self._run(live, watch, keyboard, watching)
                if signal.SIGTSTP not in self._came:
                    return next((number for number in (signal.SIGTERM, signal.SIGHUP) if number in self._came), None)
                self._stop_here()
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)

    async def _run(self, live: Live, watch: Watch, keyboard: Keyboard, watching: list[asyncio.Task[None]]) -> None:
        while not (self._state.is_over or self._came & {*_ENDING, signal.SIGTSTP}):
            shown = self._draw(live, watch)
            await self._news.wait()
            self._news.clear()
            for task in watching:
                if task.done():
                    task.result()  # which raises: they go on for ever
            for key in keyboard.pressed():
                self._state = press(self._state, key, page=shown.page, most_scroll=shown.most_scroll)

    def _draw(self, live: Live, watch: Watch) -> Frame:
        console = self._console
        made = frame(watch.scene, self._state, console.width, console.height, is_ascii=console.options.ascii_only)
        live.update(made.picture(), refresh=True)
        return made

    def _note(self, number: int) -> None:
        self._came.add(number)
        self.wake()

    def _stop_here(self) -> None:
        """Stop as Ctrl-Z does to any program; returns when the shell has it go on."""
        loop = asyncio.get_running_loop()
        loop.remove_signal_handler(signal.SIGTSTP)
        os.kill(os.getpid(), signal.SIGTSTP)
        loop.add_signal_handler(signal.SIGTSTP, self._note, signal.SIGTSTP)
        self._came.discard(signal.SIGTSTP)


class Keyboard:
    """The keys of the terminal as they are pressed, without Enter and without an echo; a context manager.

    `on_key` is called on the running loop. Without a terminal on standard input there are no keys. Those that are left
    at the end are dropped: they were not meant for the shell.
    """

    def __init__(self, on_key: Callable[[], object]) -> None:
        self._on_key = on_key
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
            asyncio.get_running_loop().add_reader(self._fd, self._on_key)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._before is not None:
            asyncio.get_running_loop().remove_reader(self._fd)
            termios.tcsetattr(self._fd, termios.TCSAFLUSH, self._before)

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
