"""Work in threads, for coroutines; and threads where the system gives few.

Containers and users may have no more than so many threads (pids.max, RLIMIT_NPROC).
"""

from __future__ import annotations

import _thread
import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

from hostd.shell.work.raised import tamed
from hostd_workers.wire.errors import FailedPreconditionError
from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future


LEAST_THREADS = 24
"""Those of an idle host."""


class Executes(Protocol):
    """What runs work in threads."""

    def submit(self, work: Callable[[], Any], /) -> Future[Any]:
        """Run it, now or when there is a thread for it."""


class NotInTimeError(Exception):
    """A piece of work did not end in its time; its thread is left alone with it."""


class _Outcome(NamedTuple):
    """What a piece of work returned, or why it did not."""

    value: Any
    error: BaseException | None = None


async def in_thread(executor: Executes, work: Callable[[], Any], *, within_s: float | None = None) -> Any:
    """Return what `work` returns, which runs in a thread, or raise what it raises, made harmless (`tamed`).

    Raises `NotInTimeError` for what has not ended after `within_s` seconds, whether or not it has begun. Work that is
    not waited for any more is given up.
    """
    submitted = executor.submit(work)
    try:
        return await result_of(submitted, within_s=within_s)
    finally:
        submitted.cancel()


async def result_of(submitted: Future[Any], *, within_s: float | None = None) -> Any:
    """Return the result of what was submitted to threads, as `in_thread` does; it goes on if it is not in time."""
    loop = asyncio.get_running_loop()
    told: asyncio.Future[_Outcome] = loop.create_future()

    def tell(outcome: _Outcome) -> None:
        if not told.done():
            told.set_result(outcome)

    def ended(submitted: Future[Any]) -> None:
        outcome = _outcome_of(submitted)
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(tell, outcome)

    timer = None if within_s is None else loop.call_later(within_s, tell, _Outcome(None, NotInTimeError()))
    submitted.add_done_callback(ended)
    try:
        value, error = await told
    finally:
        if timer is not None:
            timer.cancel()
    if error is not None:
        raise error
    return value


def _outcome_of(submitted: Future[Any]) -> _Outcome:
    """Return what has become of work; called in its thread, where an exception may run the code of its class."""
    if submitted.cancelled():
        return _Outcome(None, asyncio.CancelledError())  # the pool has been closed: the host ends
    error = submitted.exception()
    return _Outcome(submitted.result()) if error is None else _Outcome(None, tamed(error))


class Threads(ThreadPoolExecutor):
    """A pool that has a thread from the start, and makes do with what it has when the system gives no more.

    The standard one raises in that case and keeps the work all the same: its result would never come, or it would be
    done twice. Raises `FailedPreconditionError` when there is not even the first thread.
    """

    def __init__(self, count: int, name: str, initializer: Callable[[], object] | None = None) -> None:
        super().__init__(count, name, initializer)
        try:
            self.submit(int)
        except RuntimeError as error:  # `may_start` has said otherwise: the threads of others have taken the rest
            raise too_few_threads() from error

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            if not self._threads:
                raise


def too_few_threads() -> FailedPreconditionError:
    """Return the error of a host that the system gives too few threads."""
    return FailedPreconditionError(
        f"the system does not let this process start {LEAST_THREADS} threads, which a host needs. Raise the limits on "
        "processes and threads (ulimit -u, TasksMax=, --pids-limit) and on address space (ulimit -v)"
    )


def may_start(count: int) -> bool:
    """Say whether so many threads can run at once."""
    # `threading` waits for each to have begun: 20 ms for 24 of them, in place of 2.
    begin = _thread.allocate_lock()
    ended: list[_thread.LockType] = []

    def wait(mine: _thread.LockType) -> None:
        with begin:
            pass
        mine.release()

    begin.acquire()
    try:
        for _ in range(count):
            mine = _thread.allocate_lock()
            mine.acquire()
            _thread.start_new_thread(wait, (mine,))
            ended.append(mine)
    except RuntimeError:
        return False
    finally:
        begin.release()
        for each in ended:
            each.acquire()
    return True
