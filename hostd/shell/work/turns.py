"""Work of several owners in few threads, a slice at a time: what is small never waits for the end of what is big.

Rules
1. The owner that was served least goes next, and of its work the piece that was served least (least attained service).
   A new owner comes first, as what has just begun has most often little to do.
2. Work that is given as steps (a generator) yields for others after `SLICE_S`; other work runs to its end.
3. An owner has at most its fair share of the threads at a time (`core/bookkeeping`): what hangs for one holds up no
   other.
4. What nobody waits for any more is dropped at its next turn.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from concurrent.futures import Future
from types import GeneratorType
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from hostd.core.values import ClientId, process_of
from hostd.shell.work.threads import Threads
from hostd_workers.wire.errors import ResourceExhaustedError
from hostd_workers.wire.shares import Shares

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

T = TypeVar("T")

Steps: TypeAlias = "Generator[None, None, T]"
"""Work that may pause at each `yield`, and returns its result."""

SLICE_S = 0.02
"""Long beside the cost of a turn (20 us), short beside the start of a process."""

MAX_WAITING = 1024
"""Pieces of work of one client that wait: as many as it may have calls of one model. More are refused."""


class _Job(Future[Any]):
    """One piece of work, its owner, and how long it was worked on."""

    def __init__(self, owner: str | bytes, work: Callable[[], Any]) -> None:
        super().__init__()
        self.owner = owner
        self.work = work
        self.steps: Steps[Any] | None = None
        self.spent_s = 0.0
        self.is_given_up = False

    def cancel(self) -> bool:
        """Give it up; what has begun ends at its next turn."""
        self.is_given_up = True
        return super().cancel()


class _Owner:
    """An owner of work: what waits, by how long it was worked on, and how long all of it was."""

    def __init__(self, spent_s: float) -> None:
        self.spent_s = spent_s
        self.waiting: list[tuple[float, int, _Job]] = []


class Owned(Generic[T]):
    """A pool as one owner sees it."""

    def __init__(self, turns: Turns, owner: str | bytes) -> None:
        self._turns = turns
        self._owner = owner

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Have a piece of work of this owner done."""
        return self._turns.submit(self._owner, (lambda: work(*arguments)) if arguments else work)


class Turns:
    """Threads in which owners take turns. Owners are clients (bytes), or whatever else has a name."""

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._threads = Threads(count, name)
        self._lock = threading.Lock()
        self._owners: dict[str | bytes, _Owner] = {}
        self._running: Shares[str | bytes] = Shares()
        self._active = 0
        self._numbers = itertools.count()

    def __repr__(self) -> str:
        return f"<Turns of {len(self._owners)} owners, {self._running.total} running>"

    def of(self, owner: str | bytes) -> Owned[Any]:
        """Return what takes the work of one owner; all connections of a process are one."""
        return Owned(self, process_of(ClientId(owner)) if isinstance(owner, bytes) else owner)

    def submit(self, owner: str | bytes, work: Callable[[], Any]) -> Future[Any]:
        """Have a piece of work done, or the steps that it returns; of a client with too much it fails at once."""
        job = _Job(owner, work)
        with self._lock:
            known = self._owners.get(owner)
            if known is not None and isinstance(owner, bytes) and len(known.waiting) >= MAX_WAITING:
                job.set_exception(
                    ResourceExhaustedError(
                        f"{MAX_WAITING} requests of this client wait for a thread: wait for answers before more"
                    )
                )
            else:
                self._put(job)
        return job

    def shutdown(self, *, wait: bool = False) -> None:
        """Drop what waits, and end the threads when what runs has ended."""
        with self._lock:
            waiting = [job for owner in self._owners.values() for _, _, job in owner.waiting]
            self._owners.clear()
        for job in waiting:
            job.cancel()
        self._threads.shutdown(wait=wait, cancel_futures=True)

    def _put(self, job: _Job) -> None:
        owner = self._owners.get(job.owner)
        if owner is None:
            least_s = min((other.spent_s for other in self._owners.values()), default=0.0)
            owner = self._owners[job.owner] = _Owner(least_s - SLICE_S)
        heapq.heappush(owner.waiting, (job.spent_s, next(self._numbers), job))
        self._wake()

    def _wake(self) -> None:
        """Have one more thread work, if there is one and something to do for it."""
        if self._active < self._count and self._next_owner() is not None:
            self._active += 1
            try:
                self._threads.submit(self._work)
            except RuntimeError:  # they have been shut down
                self._active -= 1

    def _next_owner(self) -> _Owner | None:
        ready = [
            owner
            for name, owner in self._owners.items()
            if owner.waiting and self._running.allows(name, 1, self._count)
        ]
        return min(ready, key=lambda owner: owner.spent_s, default=None)

    def _work(self) -> None:
        while True:
            with self._lock:
                owner = self._next_owner()
                if owner is None:
                    self._active -= 1
                    return
                _, _, job = heapq.heappop(owner.waiting)
                self._running.take(job.owner)
                self._wake()
            began_s = time.monotonic()
            is_over = _has_ended(job)
            spent_s = time.monotonic() - began_s
            with self._lock:
                self._running.give_back(job.owner)
                job.spent_s += spent_s
                owner.spent_s += spent_s
                if not is_over:
                    self._put(job)
                elif not owner.waiting and not self._running.of(job.owner) and self._owners.get(job.owner) is owner:
                    del self._owners[job.owner]
                self._wake()


def _has_ended(job: _Job) -> bool:
    """Work on a job for a slice; say whether it is over."""
    if job.steps is None and not job.set_running_or_notify_cancel():
        return True
    try:
        if job.steps is None:
            made = job.work()
            if not isinstance(made, GeneratorType):
                job.set_result(made)
                return True
            job.steps = made
        until_s = time.monotonic() + SLICE_S
        while not job.is_given_up:
            next(job.steps)
            if time.monotonic() >= until_s:
                return False
        job.steps.close()
        job.set_exception(TimeoutError("nobody waits for it any more"))
    except StopIteration as end:
        if job.steps is None:
            job.set_exception(RuntimeError("the work raised StopIteration"))
        else:
            job.set_result(end.value)
    except BaseException as error:  # noqa: BLE001 - it is the result, as with any pool
        job.set_exception(error)
    return True
