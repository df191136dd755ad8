"""Running the supervisor: what it and the reaper begin with, what it is told, and what is done when it has ended."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time

from .collecting import end_all, remove, tell_of
from .names import FORWARDED, GROUPS_FD_VARIABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .door import Door

PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
AT_ONCE = signal.SIGQUIT
MAY_BE_IGNORED, ASK_TO_END = (signal.SIGINT, signal.SIGHUP), (signal.SIGTERM, signal.SIGINT)
IGNORED_BY_PYTHON = signal.SIGPIPE, signal.SIGXFSZ
AT_LAST_S = 10.0
"""What a supervisor may take that was asked twice, before it is killed; it kills 100 GiB of workers meanwhile."""


def keep(remove_dir: str, embedder_fd: int = -1, door: Door | None = None) -> int | None:
    """Fork the supervisor, in which this returns None, and clean up after it; return its status as a shell would.

    `embedder_fd` is the pidfd of a process with which it ends, -1 for none.
    """
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    ignored = heed_signals()
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())  # each waits for the one that it is for
    groups_fd = os.memfd_create("groups", 0)  # the supervisor writes the path of its workers' control group
    keeper = os.getpid()
    supervisor = os.fork()
    # Their command lines are the same, and `top` shows this.
    libc.prctl(PR_SET_NAME, b"hostd:reaper" if supervisor else b"hostd", 0, 0, 0)
    if not supervisor:
        if embedder_fd >= 0:
            os.close(embedder_fd)
        become_supervisor(keeper, groups_fd, door)
        return None
    wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake_write)
    for number in {*FORWARDED, AT_ONCE} - ignored:
        signal.signal(number, lambda _number, _frame: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    supervisor_fd = os.pidfd_open(supervisor)
    poller = select.poll()
    for fd in (supervisor_fd, wake_read, *([embedder_fd] if embedder_fd >= 0 else [])):
        poller.register(fd, select.POLLIN)
    if door is not None:
        door.open(poller)
    watch(poller, supervisor_fd, wake_read, door)
    _, status = os.waitpid(supervisor, 0)
    tell_of(end_all(os.fsdecode(os.pread(groups_fd, 4096, 0))))  # PATH_MAX
    if door is not None:
        door.close()
    if remove_dir and (door is None or door.is_locked(remove_dir)):
        remove(remove_dir)
    if door is not None:
        door.say_farewell()
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def heed_signals() -> set[signal.Signals]:
    """Let this process begin as one does whose starter ignored no signal; return those that it may ignore, and does."""
    ignored = {number for number in signal.valid_signals() if signal.getsignal(number) == signal.SIG_IGN}
    # SIGCHLD among them: ignored, it would leave no child to wait for (waitpid(2)).
    for number in ignored - {*MAY_BE_IGNORED, *IGNORED_BY_PYTHON}:
        signal.signal(number, signal.SIG_DFL)
    return ignored & {*MAY_BE_IGNORED}


def become_supervisor(keeper: int, groups_fd: int, door: Door | None) -> None:
    """Be what a program is that the keeper has executed, with a group of its own: a terminal's Ctrl-C comes once."""
    os.setpgid(0, 0)
    os.environ |= {"HOSTD_REAPER_PID": str(keeper), GROUPS_FD_VARIABLE: str(groups_fd)}
    if door is not None:
        os.environ |= door.environment
        door.leave_to_keeper()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def open_standard_descriptors() -> None:
    """Have 0, 1 and 2 lead to nowhere if they are closed, or the next file or socket would be one of them."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            stream = open(fd, "w" if fd else "r", encoding="utf-8", closefd=False)  # noqa: SIM115 - as above
            setattr(sys, name, stream)


def watch(poller: select.poll, supervisor_fd: int, wake_fd: int, door: Door | None) -> None:
    """Pass on what the supervisor is to hear of, until it has ended; kill it if it does not end when asked again."""
    asked, at_last_s = 0, None
    while supervisor_fd not in (ready := {fd for fd, _ in poller.poll(_left_ms(at_last_s))}):
        numbers = [*os.read(wake_fd, 64)] if wake_fd in ready else []
        if door is not None:
            numbers.append(door.attend(ready))
        elif ready and not numbers:  # the embedding process is gone, and nothing else would be told
            numbers.append(signal.SIGKILL)
        if at_last_s is not None and not _left_ms(at_last_s):
            numbers.append(signal.SIGKILL)
        for number in numbers:
            if number in (*FORWARDED, AT_ONCE, signal.SIGKILL):
                signal.pidfd_send_signal(supervisor_fd, signal.SIGKILL if number == AT_ONCE else number)
            asked += number in ASK_TO_END
        if asked > 1 and at_last_s is None:  # it may be stopped, and not even have heard of the first
            signal.pidfd_send_signal(supervisor_fd, signal.SIGCONT)
            at_last_s = time.monotonic() + AT_LAST_S


def _left_ms(at_last_s: float | None) -> float | None:
    return None if at_last_s is None else max(0.0, at_last_s - time.monotonic()) * 1000
