"""The fronts of a host: processes that serve the clients of others, started, watched and started again.

Rules
1. The listening sockets are the supervisor's, for as long as it lives: while a front ends and starts again, connections
   wait in their queue, and none is refused.
2. A front is a child of this process's first thread and ends with it (PR_SET_PDEATHSIG, set by the front itself). It
   is in the supervisor's session, so nobody takes it for what a worker left (`processes/spawner`, rule 3), and in a
   process group of its own, so a terminal's Ctrl-C is not for it.
3. A front says when it serves, or why it does not. At the start of the host that ends the start; a front that ends
   later is started again, each time later if it keeps ending, and that is told as a trouble of the host.
4. A front says all the time that its event loop runs. One that has said nothing between `_SILENT_LOOKS` looks is
   killed. Looks are counted and not seconds: a supervisor that stood still has looked once, and blames nobody.

What a front does is in `hostd.fronts`, or in another package, of which only the metadata is read here: a front is a
command, a socket, and a process.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import logging
import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING, Final

from hostd.config.values import is_loopback
from hostd.fronts.process import BEAT, ORDER_VARIABLE, SERVES, WORD_BYTES
from hostd.plugins import types
from hostd.shell.listening import listening
from hostd.shell.own_log import about
from hostd.shell.processes.environment import oom_score_adj_of_workers
from hostd.shell.processes.spawner import describe_exit
from hostd.shell.work.closing import Closing
from hostd_workers.wire.errors import FailedPreconditionError, InvalidArgumentError
from hostd_workers.wire.installing import install_extras
from hostd_workers.wire.light import NamedTuple
from hostd_workers.wire.light_dataclass import dataclass

if TYPE_CHECKING:
    import asyncio
    import socket
    from pathlib import Path

    from hostd.config.settings import HostConfig
    from hostd.fronts.process import Order

_log = logging.getLogger(__name__)

_RUN: Final = "import sys; sys.path[:] = filter(None, sys.path); from hostd.fronts.process import run; run()"
"""With `-c` the current directory comes first on the path, as "", and a `queue.py` there would be executed."""

_LISTEN_FD: Final = 3
_WORD_FD: Final = 4
_ABOVE: Final = 8
"""Descriptors from here on are none of those that a front gets."""
_NEEDS: Final = {
    "http": ("starlette", "uvicorn", "httptools", "orjson", "numpy"),
    "grpc": ("hpack", "google.protobuf", "orjson", "numpy"),
}
"""The packages of each protocol of ours, which is also the scheme of its URLs and the extra that brings them."""

_FIRST_WAIT_S: Final = 0.1
_LONGEST_WAIT_S: Final = 10.0
_DOUBLINGS: Final = 10
"""More make no difference, and after a thousand the number is none that a float can be."""

_STABLE_S: Final = 60.0
"""A front that has lived so long has not been ending again and again."""

_TOLD_AFTER: Final = 3
_END_S: Final = 3.0
"""What all fronts get for the answers that they have begun, when the models are gone already."""

_BODIES: Final = 4
"""Of the largest bodies how many a front holds at a time, if the configuration does not say."""

_LOOK_S: Final = 5.0
"""Between two looks at what fronts have said, and between two beats of theirs."""

_SILENT_LOOKS: Final = 6
"""A machine that is short of everything stalls a process for 10 s, and to read the largest body takes as long."""

_STARTING_LOOKS: Final = 24
"""To start takes a second; with a cold disk and 20 models that load beside it, a minute."""

_SILENT_TOLD: Final = 2
"""Looks without a beat after which that is told."""


class _Kind(NamedTuple):
    """What a front is: the function that its process calls, what it speaks, and what somebody without a token may do.

    The latter holds at an address of this machine, if the configuration does not say. Of a front of another package
    nothing is known but that it speaks over TCP.
    """

    serve: str
    protocol: str = "tcp"
    role_here: str = "call"


_OURS: Final = {
    "http": _Kind("hostd.fronts.http_server:serve", "http"),
    "grpc": _Kind("hostd.fronts.grpc_server:serve", "grpc"),
    "modelmesh": _Kind("hostd.fronts.modelmesh.server:serve", "grpc", role_here="load"),
}


@dataclass(eq=False)
class _Front:
    """One front: what it is, where it listens, and its process; `ends` counts how often it has ended soon.

    `word_fd` reads what it says; `first` is what the host's start waits for. `silent_looks` counts those since its last
    beat, of which it may have `allowed_looks`.
    """

    name: str
    kind: _Kind
    address: str
    listener: socket.socket
    url: str
    first: asyncio.Future[str]
    pid: int = 0
    pidfd: int = -1
    word_fd: int = -1
    started_s: float = 0.0
    ends: int = 0
    last_end: str = ""
    silent_looks: int = 0
    allowed_looks: int = _STARTING_LOOKS

    @property
    def silence(self) -> str:
        return f"its event loop stands still for {self.silent_looks * _LOOK_S:.0f} s"


class Fronts(Closing):
    """All fronts of one host."""

    def __init__(self, loop: asyncio.AbstractEventLoop, config: HostConfig) -> None:
        """Listen at the addresses of the configuration; nothing is served before `start`.

        Raises `FailedPreconditionError` for an address that is not free, and if packages are missing;
        `InvalidArgumentError` for a front that no package has.
        """
        self._loop = loop
        self._config = config
        self._known: dict[str, _Front] = {}
        self._waiting: dict[str, asyncio.TimerHandle] = {}
        self._is_closed = False
        ours = {name: getattr(config.fronts, name) for name in _OURS}
        for name, address in {**ours, **config.fronts.others}.items():
            if address is not None:
                kind = _OURS.get(name) or _of_a_package(name)
                _check_installed(name, kind.protocol)
                listener, host = listening(name, address)
                is_secret = config.fronts.certificate is not None and name in _OURS
                scheme = f"{kind.protocol}s" if is_secret else kind.protocol
                url = f"{scheme}://{host}:{listener.getsockname()[1]}"
                self._known[name] = _Front(name, kind, address, listener, url, loop.create_future())
        self._looking = loop.call_later(_LOOK_S, self._look)

    def __repr__(self) -> str:
        return f"<Fronts {self.urls}>"

    @property
    def urls(self) -> dict[str, str]:
        """Where they are reached, by name."""
        return {front.name: front.url for front in self._known.values()}

    @property
    def troubles(self) -> list[str]:
        """Return why a front does not serve as it should."""
        ending = [
            f"the {front.name} front ends again and again: {front.last_end}; its words are in the host's log"
            for front in self._known.values()
            if front.ends >= _TOLD_AFTER
        ]
        silent = [
            f"the {front.name} front (process {front.pid}) does not answer: {front.silence}; after "
            f"{front.allowed_looks * _LOOK_S:.0f} s it is killed and started again"
            for front in self._known.values()
            if front.silent_looks >= _SILENT_TOLD
        ]
        return ending + silent

    async def start(self) -> None:
        """Start all fronts, and return when they serve. Call it in the thread that ends with the process.

        Raises `FailedPreconditionError` with what a front says that does not.
        """
        for front in self._known.values():
            self._start(front)
        for front in self._known.values():
            if said := await front.first:
                raise FailedPreconditionError(f"the {front.name} front does not start: {said}")

    def close(self) -> None:
        """End all fronts, and stop listening."""
        self._is_closed = True
        self._looking.cancel()
        for waiting in self._waiting.values():
            waiting.cancel()
        for front in self._known.values():
            front.listener.close()
            if front.pidfd >= 0:
                self._forget_word(front)
                self._loop.remove_reader(front.pidfd)
                signal.pidfd_send_signal(front.pidfd, signal.SIGTERM)
        end_s = time.monotonic() + _END_S
        for front in self._known.values():
            if front.pidfd >= 0:
                _see_it_end(front, end_s)

    def _start(self, front: _Front) -> None:
        self._waiting.pop(front.name, None)
        try:
            front.pid, front.pidfd, front.word_fd = _spawned(front, self._order_of(front))
        except OSError as error:
            front.last_end = f"it cannot be started: {error.strerror}"
            self._decide(front, front.last_end)
            self._start_later(front)
            return
        front.started_s, front.last_end = self._loop.time(), ""
        front.silent_looks, front.allowed_looks = 0, _STARTING_LOOKS
        self._loop.add_reader(front.pidfd, self._on_exit, front)
        self._loop.add_reader(front.word_fd, self._on_word, front)

    def _on_word(self, front: _Front) -> None:
        said = os.read(front.word_fd, WORD_BYTES)
        if not said:
            self._forget_word(front)
        front.silent_looks = 0
        word = said.replace(BEAT, b"")
        if word == SERVES:
            _log.info("front %s serves at %s", front.name, front.url, extra=about(pid=front.pid))
            front.allowed_looks = _SILENT_LOOKS
            self._decide(front, "")
        elif word:
            front.last_end = word.decode("utf-8", "replace")

    def _look(self) -> None:
        self._looking = self._loop.call_later(_LOOK_S, self._look)
        for front in self._known.values():
            if front.pidfd >= 0:
                front.silent_looks += 1
                if front.silent_looks >= front.allowed_looks:
                    front.last_end = front.silence
                    signal.pidfd_send_signal(front.pidfd, signal.SIGKILL)

    def _forget_word(self, front: _Front) -> None:
        if front.word_fd >= 0:
            self._loop.remove_reader(front.word_fd)
            os.close(front.word_fd)
            front.word_fd = -1

    def _decide(self, front: _Front, why_not: str) -> None:
        """Tell the host's start, if it waits for that, why a front does not serve; "" if it does."""
        if not front.first.done():
            front.first.set_result(why_not)

    def _order_of(self, front: _Front) -> Order:
        section = self._config.fronts
        anonymous = section.anonymous or (front.kind.role_here if is_loopback(front.address) else "none")
        return {
            "name": front.name,
            "serve": front.kind.serve,
            "endpoint": self._config.endpoint,
            "listen_fd": _LISTEN_FD,
            "word_fd": _WORD_FD,
            "beat_s": _LOOK_S,
            "parent": os.getpid(),
            "oom_score_adj": oom_score_adj_of_workers(),
            "anonymous": anonymous,
            "tokens": _text(section.tokens),
            "certificate": _text(section.certificate),
            "key": _text(section.key),
            "max_in_flight": self._config.workers.max_in_flight,
            "max_body_bytes": section.max_body_bytes,
            "max_bodies_bytes": section.max_bodies_bytes or _BODIES * section.max_body_bytes,
        }

    def _on_exit(self, front: _Front) -> None:
        self._loop.remove_reader(front.pidfd)
        if front.word_fd >= 0:  # its last word and its end come together
            self._on_word(front)
            self._forget_word(front)
        front.silent_looks = 0
        front.last_end = front.last_end or describe_exit(front.pidfd) or "of its own will"
        _reap(front)
        self._decide(front, front.last_end)
        if self._loop.time() - front.started_s > _STABLE_S:
            front.ends = 0
        self._start_later(front)

    def _start_later(self, front: _Front) -> None:
        wait_s = min(_FIRST_WAIT_S * 2 ** min(front.ends, _DOUBLINGS), _LONGEST_WAIT_S)
        front.ends += 1
        _log.warning("front %s ended (%s); it is started again in %.1f s", front.name, front.last_end, wait_s)
        if not self._is_closed:
            self._waiting[front.name] = self._loop.call_later(wait_s, self._start, front)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # what it is a part of is missing
        return False


def _of_a_package(name: str) -> _Kind:
    try:
        found = types.reference(types.FRONTS, name, ())
        if found is None:
            raise types.unknown(types.FRONTS, name, ())
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"fronts.others.{name}: {error.message}", details=error.details) from None
    return _Kind(found)


def _check_installed(name: str, protocol: str) -> None:
    if missing := [package for package in _NEEDS.get(protocol, ()) if not _is_installed(package)]:
        raise FailedPreconditionError(
            f"the {name} front needs {', '.join(missing)}, which {sys.executable} does not have; install with: "
            f"{install_extras(protocol)}"
        )


def _spawned(front: _Front, order: Order) -> tuple[int, int, int]:
    """Start the process of a front; return its number, its pidfd, and what reads its word. Raises OSError."""
    environment = {**os.environ, ORDER_VARIABLE: json.dumps(order), "PYTHONUNBUFFERED": "1"}
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        word_read, word_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        ours.callback(os.close, word_read)
        theirs.callback(os.close, word_write)
        # Above those that they are to be in the front, or one would be closed for the other.
        high = []
        for fd in (front.listener.fileno(), word_write):
            high.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE))
            theirs.callback(os.close, high[-1])
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-c", _RUN],
            environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, high[0], _LISTEN_FD),
                (os.POSIX_SPAWN_DUP2, high[1], _WORD_FD),
            ],
            setpgroup=0,
            setsigmask=[],
            setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
        )
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:  # no descriptor is left, say; nobody would see how it ends
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        ours.pop_all()
    return pid, pidfd, word_read


def _reap(front: _Front) -> None:
    os.waitid(os.P_PIDFD, front.pidfd, os.WEXITED)
    os.close(front.pidfd)
    front.pidfd = -1


def _see_it_end(front: _Front, end_s: float) -> None:
    poller = select.poll()
    poller.register(front.pidfd, select.POLLIN)
    if not poller.poll(max(end_s - time.monotonic(), 0) * 1000):
        signal.pidfd_send_signal(front.pidfd, signal.SIGKILL)
    _reap(front)
