"""What the system does about a worker's memory and its end, and what it says about a worker's sudden death.

Puts `cgroups` (limits that the kernel keeps, groups that it kills at once, where it can) and `oom` (why somebody was
killed) together. Everything here blocks for a moment: call it in a thread, but for `open` and `close`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from hostd.core.events import Death
from hostd.shell.linux.cgroups import Cgroups
from hostd.shell.linux.oom import Deaths
from hostd.shell.own_log import about
from hostd.shell.processes.environment import oom_score_adj_of_workers
from hostd.shell.work.closing import Closing

if TYPE_CHECKING:
    from pathlib import Path

    from hostd.core.events import WorkerId

_log = logging.getLogger(__name__)


class MemoryLimits(Closing):
    """The system's side of the workers' memory; a context."""

    def __init__(self, cgroups: Cgroups | None, deaths: Deaths) -> None:
        self._cgroups = cgroups
        self._deaths = deaths
        self.groups = None if cgroups is None else cgroups.directory
        """The control group that those of all workers are in, if there are any."""
        self.oom_score_adj = oom_score_adj_of_workers()
        """What workers get: when memory runs out, they go before the supervisor."""

    @classmethod
    def open(cls) -> MemoryLimits:
        """Make control groups, if the system lets us, and listen to what the kernel says about kills."""
        return cls(Cgroups.open(), Deaths())

    def close(self) -> None:
        """Remove the groups, and stop listening."""
        if self._cgroups is not None:
            self._cgroups.close()
        self._deaths.close()

    def reserve(self, pid: int) -> None:
        """Give a process that may become a worker a control group, if it can have one."""
        if self._cgroups is not None:
            try:
                self._cgroups.reserve(pid)
            except OSError as error:
                _log.debug("a spare has no control group: %s", error, extra=about(pid=pid))

    def release(self, pid: int) -> None:
        """Forget a process that has ended before it became a worker."""
        if self._cgroups is not None:
            self._cgroups.release(pid)

    def began(self, worker_id: WorkerId, pid: int, limit_bytes: int | None) -> None:
        """Take note of a worker that has just begun, and give it a control group if it can have one."""
        self._deaths.began(pid)
        if self._cgroups is not None:
            try:
                self._cgroups.add(worker_id, pid, limit_bytes)
            except OSError as error:
                extra = about(worker=worker_id, pid=pid)
                if limit_bytes is not None and self._cgroups.keeps_limits:
                    _log.warning("the kernel does not keep its limit, the host does: %s", error, extra=extra)
                else:
                    _log.debug("it has no control group: %s", error, extra=extra)

    def group_of(self, worker_id: WorkerId) -> Path | None:
        """Return the control group of a worker, if it has one."""
        return None if self._cgroups is None else self._cgroups.group_of(worker_id)

    def held_bytes(self, worker_id: WorkerId) -> int | None:
        """Return what the kernel counts for a worker itself; None where it does not count each for itself."""
        return None if self._cgroups is None else self._cgroups.held_bytes(worker_id)

    def explain(self, worker_id: WorkerId, pid: int) -> tuple[Death, str]:
        """Return why a worker ended by a SIGKILL that the host did not send, and how that is known."""
        if self._cgroups is not None and self._cgroups.oom_kills(worker_id):
            return Death.MEMORY_LIMIT, "killed by the kernel: it reached its memory limit"
        return self._deaths.explain(pid)

    def ended(self, worker_id: WorkerId, pid: int) -> None:
        """Forget a worker; all of its processes are gone."""
        self._deaths.forget(pid)
        if self._cgroups is not None:
            self._cgroups.remove(worker_id)
