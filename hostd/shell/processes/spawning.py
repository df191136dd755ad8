"""What the system is asked for when a worker or a template is started: a process, and what it begins with.

Needs little, because a supervisor imports it before all else (`early`). Which processes there are is in `spawner`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

import hostd_workers
from hostd_workers.wire.light import NamedTuple
from hostd_workers.wire.template import CONTROL_FD, NOTE_FD, PAGE_FD

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# Started by path rather than imported: the supervisor imports nothing of the workers but the wire.
_WORKERS = os.path.dirname(os.path.realpath(hostd_workers.__file__))  # noqa: PTH120 - pathlib is imported later
BOOTSTRAP = os.path.join(_WORKERS, "_bootstrap", "run.py")  # noqa: PTH118 - as above

_DEFAULTS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
"""A worker begins with the system's defaults, whatever the supervisor ignores or was told to ignore."""


class TemplateProcess(NamedTuple):
    """A process of a template: its socket, what it notes in memory, and our end of the pipe that it prints into.

    `pidfd` refers to it for as long as it is open; `environment` is what it was started with.
    """

    pid: int
    pidfd: int
    environment: Mapping[str, str]
    control: socket.socket
    note_fd: int
    output_fd: int

    def close(self) -> None:
        """Close all but the pidfd, which goes with the proof of its end."""
        self.control.close()
        os.close(self.note_fd)
        os.close(self.output_fd)


def new_worker(python: str | None, environment: Mapping[str, str], page_fd: int | None) -> tuple[int, int, int]:
    """Start a worker, which gets a page of figures as `PAGE_FD`; return its number, its pidfd, and its log.

    Raises OSError if the system makes no process.
    """
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        log_read, log_write = log_pipe()
        ours.callback(os.close, log_read)
        theirs.callback(os.close, log_write)
        page = [] if page_fd is None else [(os.POSIX_SPAWN_DUP2, page_fd, PAGE_FD)]
        pid, pidfd = _started(python, environment, log_write, page)
        ours.pop_all()
    return pid, pidfd, log_read


def new_template(python: str | None, environment: Mapping[str, str], modules: Iterable[str]) -> TemplateProcess:
    """Start a template that imports these modules. Raises OSError if the system makes no process."""
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        control, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.enter_context(control)
        theirs.enter_context(end)
        control.setblocking(False)
        note_fd = os.memfd_create("hostd-template", os.MFD_CLOEXEC)
        ours.callback(os.close, note_fd)
        os.write(note_fd, json.dumps(list(modules)).encode())
        output_read, output_write = log_pipe()
        ours.callback(os.close, output_read)
        theirs.callback(os.close, output_write)
        # Above those that they are to be in the template, or one would be closed for the other.
        high = []
        for fd in (end.fileno(), note_fd):
            high.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, NOTE_FD + 1))
            theirs.callback(os.close, high[-1])
        given = [(os.POSIX_SPAWN_DUP2, high[0], CONTROL_FD), (os.POSIX_SPAWN_DUP2, high[1], NOTE_FD)]
        pid, pidfd = _started(python, environment, output_write, given)
        ours.pop_all()
    return TemplateProcess(pid, pidfd, environment, control, note_fd, output_read)


def log_pipe() -> tuple[int, int]:
    """Return the ends of a pipe for what a worker prints. Raises OSError."""
    log_read, log_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    # The worker's end must block, or its prints would fail when the log is behind.
    os.set_blocking(log_write, True)
    return log_read, log_write


def _started(
    python: str | None, environment: Mapping[str, str], output_fd: int, given: Sequence[tuple[Any, ...]]
) -> tuple[int, int]:
    interpreter = python or sys.executable
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, output_fd, 1),
        (os.POSIX_SPAWN_DUP2, output_fd, 2),
        *given,
    ]
    # A session of its own: no signal of a terminal reaches it, and its helpers are found by their session.
    pid = os.posix_spawn(
        interpreter,
        [interpreter, BOOTSTRAP],
        environment,
        file_actions=actions,
        setsid=True,
        setsigmask=[],
        setsigdef=_DEFAULTS,
    )
    try:
        return pid, os.pidfd_open(pid)
    except OSError:  # a child that is not reaped keeps its number
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
