"""Worker processes: how they come into being, how they end, and the proof that they are gone.

Rules
1. Processes are spawned from one thread that lives as long as the supervisor: PR_SET_PDEATHSIG fires when the *thread*
   that forked ends (prctl(2)).
2. A process is signalled through its pidfd only, so never a stranger that got its number.
3. Every worker is a subreaper, and so is the supervisor. While a worker lives, all its descendants, daemonised ones
   too, are in its tree; when it dies they become children of the supervisor. A child of the supervisor that is not a
   registered worker is therefore what a dead worker left, and is killed.
4. A worker is gone when its process and every descendant are reaped. There is no time-out: a proof comes or is waited
   for.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import hostd_workers
from hostd.shell import memory
from hostd.shell.crashes import CRASHES
from hostd.shell.own_log import about
from hostd.shell.proc import children_of, descendants_of
from hostd.shell.shared_memory import Held

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hostd.core.events import Memory, WorkerId

_log = logging.getLogger(__name__)

# Started by path rather than imported: the supervisor imports nothing of the workers but the wire.
BOOTSTRAP = Path(hostd_workers.__file__).resolve().parent / "_bootstrap" / "run.py"

_STILL_WAITING_S = 5.0
"""How often to say in the log that a process is hard to kill (uninterruptible sleep, mostly a dead disk)."""


@dataclass(frozen=True)
class WorkerProcess:
    """A process of a worker: `pidfd` refers to it for as long as it is open, `log_fd` reads its output."""

    worker_id: WorkerId
    pid: int
    pidfd: int
    log_fd: int


class Processes:
    """The processes of all workers."""

    def __init__(self) -> None:
        self._own: set[int] = set()
        # Held while a child exists that is not registered yet, so that `_orphans` never sees one.
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Processes {sorted(self._own)}>"

    def spawn(self, worker_id: WorkerId, python: str | None, environment: dict[str, str]) -> WorkerProcess:
        """Start a worker. Raises OSError if the system makes no process. Call it from the spawning thread only."""
        interpreter = python or sys.executable
        argv = [interpreter, str(BOOTSTRAP)]
        log_read, log_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            # The worker's end must block, or its prints would fail when the log is behind.
            os.set_blocking(log_write, True)
            actions = [
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, log_write, 1),
                (os.POSIX_SPAWN_DUP2, log_write, 2),
            ]
            with self._lock:
                # A session of its own: no signal of a terminal reaches it, and its helpers are found by their session.
                pid = os.posix_spawn(
                    interpreter,
                    argv,
                    environment,
                    file_actions=actions,
                    setsid=True,
                    setsigmask=[],
                    setsigdef=_DEFAULTS,
                )
                self._own.add(pid)
        except BaseException:  # ValueError too: an environment from a file may hold what no environment can
            os.close(log_read)
            raise
        finally:
            os.close(log_write)
        return WorkerProcess(worker_id, pid, os.pidfd_open(pid), log_read)

    def end(self, process: WorkerProcess, measured: Memory | None = None) -> tuple[int, int]:
        """Kill what is left of a worker's tree, wait for the proof, and return `(freed_bytes, processes)`.

        `freed_bytes` is what the tree alone held just before the kill, and of shared memory what is gone after it;
        `measured` is a sample from just now, if there is one. Blocks; call it in a thread.
        """
        _signal(process.pidfd, signal.SIGSTOP)  # what is stopped cannot fork away from the list that follows
        with contextlib.ExitStack() as stack:
            tree = _open_all(descendants_of(process.pid), stack)
            freed_bytes = memory.private_bytes_of([process.pid, *tree], measured)
            shared = stack.enter_context(Held([process.pid, *tree]))
            with self._lock:
                self._own.update(tree)
            tree[process.pid] = process.pidfd
            _kill(tree)
            with self._lock:
                # Before they are reaped: after it a new worker may have one of their numbers.
                self._own.difference_update(tree)
                _reap(tree)
            freed_bytes += shared.let_go()
        os.close(process.pidfd)
        count = len(tree)
        while orphans := self._orphans():
            with contextlib.ExitStack() as stack:
                escaped = _open_all(orphans, stack)
                freed_bytes += memory.private_bytes_of(escaped)
                shared = stack.enter_context(Held(escaped))
                count += len(escaped)
                _kill(escaped)
                _reap(escaped)
                freed_bytes += shared.let_go()
        return freed_bytes, count

    def _orphans(self) -> list[int]:
        with self._lock:
            return [pid for pid in children_of(os.getpid()) if pid not in self._own]


_DEFAULTS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
"""A worker begins with the system's defaults, whatever the supervisor ignores or was told to ignore."""


def describe_exit(pidfd: int) -> str:
    """Say how the process ended, without reaping it; "" if it has not ended or is reaped."""
    try:
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except (ChildProcessError, OSError):
        return ""
    if result is None:
        return ""
    if result.si_code == os.CLD_EXITED:
        return f"exit code {result.si_status}"
    return f"killed by {_name_of(result.si_status)}"


def is_sigkill(how: str) -> bool:
    """Say whether that is how `describe_exit` tells of SIGKILL."""
    return how == f"killed by {signal.SIGKILL.name}"


def is_crash(how: str) -> bool:
    """Say whether that is how `describe_exit` tells of a signal on which faulthandler reports first."""
    return how.removeprefix("killed by ") in CRASHES


def _name_of(number: int) -> str:
    # Python has names for the first and the last real-time signal only.
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _open_all(pids: Iterable[int], stack: contextlib.ExitStack) -> dict[int, int]:
    """Return a pidfd for each process that is still there; `stack` closes them."""
    opened = {}
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            opened[pid] = os.pidfd_open(pid)
            stack.callback(os.close, opened[pid])
    return opened


def _signal(pidfd: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)


def _kill(opened: dict[int, int]) -> None:
    """Kill these processes, and wait for the end of each."""
    for pidfd in opened.values():
        _signal(pidfd, signal.SIGKILL)
    for pid, pidfd in opened.items():
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        while not poller.poll(_STILL_WAITING_S * 1000):
            _log.warning("process %s was killed and is still not gone; waiting", pid, extra=about(pid=pid))


def _reap(opened: dict[int, int]) -> None:
    """Take away the zombies of these processes; all have ended, so what nobody reaped is a child of ours by now."""
    for pidfd in opened.values():
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
