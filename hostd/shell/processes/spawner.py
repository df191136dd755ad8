"""Worker processes: how they come into being, how they end, and the proof that they are gone.

Rules
1. Processes are spawned from one thread that lives as long as the supervisor: PR_SET_PDEATHSIG fires when the *thread*
   that forked ends (prctl(2)).
2. A process is signalled through its pidfd, or by its number while it is a child of ours that is not reaped: so never a
   stranger that got its number.
3. Every worker is a subreaper, and so is the supervisor. While a worker lives, all its descendants, daemonised ones
   too, are in its tree; when it dies they become children of the supervisor, of its first thread, in which nobody
   forks. And every worker has a session of its own, and no process can ever enter another's (setsid(2)); one that is
   being forked is in that of its template, which is looked at when the template is ended (`forking`). So a
   child is what a dead worker left only if it is no registered worker, belongs to the first thread, is not in the
   supervisor's own session, and was not there while the worker lived. The others are subprocesses of finders and
   sizers, and are left alone: nothing that a model does can make them of its processes.
4. A worker is gone when its process and every descendant are reaped (`ending`). No time-out ends that: a proof comes,
   or is asked for again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING, Final, cast

from hostd.shell.linux.proc import adopted_children
from hostd.shell.processes.crashes import CRASHES
from hostd.shell.processes.ending import PATIENCE_S, Ending, reap
from hostd.shell.processes.environment import TOKEN_VARIABLE
from hostd.shell.processes.spawning import TemplateProcess, new_template, new_worker
from hostd_workers.wire.light_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from hostd.core.events import Memory, WorkerId


@dataclass(frozen=True)
class WorkerProcess:
    """A process of a worker: `pidfd` refers to it for as long as it is open, `log_fd` reads its output.

    `mark` is an entry of its environment that no other worker has; a forked one shows its template's.
    """

    worker_id: WorkerId
    pid: int
    pidfd: int
    log_fd: int
    mark: bytes = b""
    is_forked: bool = False


class Processes:
    """The processes of all workers."""

    def __init__(self, begun: TemplateProcess | None = None) -> None:
        """Take a template that has been started before all else, in the thread that ends with the process."""
        self._workers: set[int] = set()
        self._templates = set() if begun is None else {begun.pid}
        """What is in their sessions is theirs, or becomes a worker in a moment."""
        self._endings: dict[int, Ending] = {}
        # Held while a child exists that is not registered yet, so that `foreign_children` never sees one.
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Processes {sorted(self._workers)}>"

    def spawn(
        self, worker_id: WorkerId, python: str | None, environment: dict[str, str], page_fd: int | None = None
    ) -> WorkerProcess:
        """Start a worker, which gets a page of figures as `PAGE_FD`. Call it from the spawning thread only.

        Raises OSError if the system makes no process.
        """
        with self._lock:
            pid, pidfd, log_fd = new_worker(python, environment, page_fd)
            self._workers.add(pid)
        mark = f"{TOKEN_VARIABLE}={environment.get(TOKEN_VARIABLE, '')}".encode()
        return WorkerProcess(worker_id, pid, pidfd, log_fd, mark)

    def spawn_template(
        self, python: str | None, environment: dict[str, str], modules: Iterable[str]
    ) -> TemplateProcess:
        """Start a template that imports these modules. Call it from the spawning thread only.

        Raises OSError if the system makes no process.
        """
        with self._lock:
            template = new_template(python, environment, modules)
            self._templates.add(template.pid)
        return template

    def adopt(self, worker_id: WorkerId, pid: int, log_fd: int) -> WorkerProcess:
        """Register a worker that a template has forked, a child of ours. Raises OSError if there is none."""
        pidfd = os.pidfd_open(pid)
        try:
            os.waitid(os.P_PIDFD, pidfd, _HAS_ENDED)  # raises for what is no child of ours
        except OSError:
            os.close(pidfd)
            raise
        with self._lock:
            self._workers.add(pid)
        return WorkerProcess(worker_id, pid, pidfd, log_fd, is_forked=True)

    def discard(self, process: WorkerProcess) -> None:
        """End a worker that has not taken its first steps, by its pidfd alone, and wait for the proof."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process.pidfd, signal.SIGKILL)
        os.waitid(os.P_PIDFD, process.pidfd, os.WEXITED | os.WNOWAIT)
        self.reap_worker(process.pid, process.pidfd)
        os.close(process.pidfd)

    def is_spare(self, template: TemplateProcess, pid: int) -> bool:
        """Say whether a process is there that a template has forked and that is no worker yet."""
        with self._lock:
            return _session_of(pid) == template.pid and pid not in self._workers

    def reap_spares(self, template: TemplateProcess) -> Iterator[int]:
        """Reap what a template has forked and what has ended without becoming a worker; yield its numbers."""
        with self._lock, contextlib.suppress(ChildProcessError):
            while (ended := os.waitid(os.P_PGID, template.pid, _HAS_ENDED)) is not None:
                if ended.si_pid == template.pid or ended.si_pid in self._workers:
                    return
                os.waitpid(ended.si_pid, 0)
                yield ended.si_pid

    def end_template(self, template: TemplateProcess) -> None:
        """Kill a template with all that it has started but workers, and wait for the proof, as `end` does."""
        with self._lock:
            self._workers.add(template.pid)
        self.end(WorkerProcess(_NO_WORKER, template.pid, template.pidfd, -1), owns_session=True)
        with self._lock:
            self._templates.discard(template.pid)

    def end(
        self,
        process: WorkerProcess,
        measured: Memory | None = None,
        patience_s: float = PATIENCE_S,
        group: Path | None = None,
        sharers: int = 0,
        *,
        owns_session: bool = False,
    ) -> tuple[int, int]:
        """Kill what is left of a worker's tree, wait for the proof, and return `(freed_bytes, processes)`.

        `freed_bytes` is what the tree alone held just before the kill, and of shared memory what is gone after it;
        `measured` is a sample from just now, if there is one, `group` the worker's control group, `sharers` how many
        others have pages of its template. `owns_session`: all that is in its session goes with it. Blocks; call it in a
        thread. Raises `StillThereError` if something has not ended after `patience_s`, and OSError if the system has no
        descriptor for it: call it again then, as often as it takes.
        """
        with self._lock:
            new = Ending(process.pid, process.pidfd, process.mark, self, group, sharers, owns_session=owns_session)
            ending = self._endings.setdefault(process.pid, new)
        ended = ending.go_on(measured, patience_s)
        with self._lock:
            del self._endings[process.pid]
        os.close(process.pidfd)
        return ended

    def reap_worker(self, pid: int, pidfd: int) -> None:
        """Reap a worker that has ended."""
        with self._lock:
            # Before it is reaped: after it a new worker may have its number.
            self._workers.discard(pid)
            reap(pidfd)

    def foreign_children(self, pid: int) -> list[int]:
        """Return the children of this process that may be what a worker left, as far as one look tells (rule 3).

        `pid` is the worker's, or that of a template that is being ended: what is in its session is its own then.
        """
        session = os.getsid(0)
        with self._lock:
            found = [(child, _session_of(child)) for child in adopted_children() if child not in self._workers]
            return [child for child, of in found if of != session and (of == pid or of not in self._templates)]

    def claimed_by_others(self, ending: Ending) -> set[int]:
        """Return the processes that the ends of other workers wait for."""
        with self._lock:
            return {pid for other in self._endings.values() if other is not ending for pid in other.claims}


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


_NO_WORKER: Final = cast("WorkerId", 0)

_HAS_ENDED: Final = os.WEXITED | os.WNOHANG | os.WNOWAIT
"""To be asked about, and not reaped."""


def describe_exit(pidfd: int) -> str:
    """Say how the process ended, without reaping it; "" if it has not ended or is reaped."""
    try:
        result = os.waitid(os.P_PIDFD, pidfd, _HAS_ENDED)
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
