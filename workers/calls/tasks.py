"""Calls of coroutine methods, many at a time, each a task of the event loop that the worker then has.

A module of its own because it needs asyncio: its import costs a third of the start of a worker; only a model with
coroutine methods pays for it.

The loop is the model's too, so what it may do to a loop is survived: it may stop it, cancel every task that it finds,
and set a factory of tasks. Nothing of ours is a task but the calls themselves and the model's `close`.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from hostd_workers.calls.answers import (
    NO_DEADLINE,
    TRACE,
    Answers,
    Call,
    cancelled,
    cannot_stream,
    must_stream,
    too_late,
)
from hostd_workers.process.ending import ENDS_A_PROCESS, note
from hostd_workers.raised import error_of
from hostd_workers.wire import messages as msg

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hostd_workers.wire.errors import HostError
    from hostd_workers.wire.lane.page import Writer


class _Credit:
    """The items that an asynchronous stream may still send."""

    __slots__ = ("_granted", "_items", "waited_ns")

    def __init__(self, items: int) -> None:
        self._items = items
        self.waited_ns = 0
        self._granted = asyncio.Event()

    def grant(self, items: int) -> None:
        self._items += items
        self._granted.set()

    async def take(self) -> None:
        while not self._items:
            began_ns = time.monotonic_ns()
            self._granted.clear()
            try:
                await self._granted.wait()
            finally:
                self.waited_ns += time.monotonic_ns() - began_ns
        self._items -= 1


class _Running:
    """A call in hand; `over` is why it was ended from outside, if it was."""

    __slots__ = ("call", "credit", "has_begun", "over", "task", "timer")

    def __init__(self, call: Call, credit: _Credit | None) -> None:
        self.call = call
        self.credit = credit
        self.has_begun = False
        self.over: HostError | None = None
        self.task: asyncio.Task[None]
        self.timer: asyncio.TimerHandle | None = None

    def end(self, why: HostError) -> None:
        """Cancel the call's task, once: it may be cleaning up."""
        if self.over is None:
            self.over = why
            self.task.cancel()


class Tasks:
    """The coroutine calls in hand; each gets exactly one end, whatever becomes of its task."""

    def __init__(self, answers: Answers, page: Writer) -> None:
        self._answers = answers
        self._page = page
        self._running: dict[int, _Running] = {}
        self.failure: BaseException | None = None
        """What kept a call from being answered; the loop is stopped for it."""

    def __contains__(self, call_id: int) -> bool:
        return call_id in self._running

    def begin(self, call: Call, credit: int) -> None:
        """Begin a call; `credit` is what was granted to a stream so far, its window included."""
        if call.method.streams and not call.streams:
            self._answers.refuse(call.id, must_stream(call.method.name))
            return
        loop = asyncio.get_running_loop()
        running = self._running[call.id] = _Running(call, _Credit(credit) if call.streams else None)
        # Not by the loop's own factory, which may be the model's.
        running.task = asyncio.Task(self._run(running), loop=loop)
        running.task.add_done_callback(lambda task: self._ended(running, task))
        if call.expires_s != NO_DEADLINE:
            running.timer = loop.call_later(call.expires_s - time.monotonic(), lambda: running.end(too_late()))

    def grant(self, call_id: int, items: int) -> None:
        """Let a stream go on."""
        credit = self._running[call_id].credit
        if credit is not None:
            credit.grant(items)

    def cancel(self, call_id: int) -> None:
        """Cancel a call."""
        self._running[call_id].end(cancelled())

    def cancel_all(self) -> None:
        """Cancel every call."""
        for running in list(self._running.values()):
            running.end(cancelled())

    def _ended(self, running: _Running, task: asyncio.Task[None]) -> None:
        del self._running[running.call.id]
        if running.timer is not None:
            running.timer.cancel()
        del running.task  # a task that was cancelled before its first step holds its frame, and so the arguments
        failure = None if task.cancelled() else task.exception()
        if not running.has_begun:  # cancelled before its first step; `_run` answers whatever is raised in it later
            try:
                self._answers.refuse(running.call.id, running.over or error_of(asyncio.CancelledError()))
            except BaseException as error:  # noqa: BLE001 - the loop would swallow it
                failure = error
        if failure is not None and not isinstance(failure, ENDS_A_PROCESS):
            self.failure = failure
            task.get_loop().stop()

    async def _run(self, running: _Running) -> None:
        """Run a call to its one end; what this raises ends the worker."""
        running.has_begun = True
        call, answers = running.call, self._answers
        TRACE.set(call.target.trace)
        try:
            result: Any = call.method.function(*call.args, **call.kwargs)
            if running.credit is not None:
                is_whole = await self._send_items(call, running.credit, result)
            else:
                result = await result
        except ENDS_A_PROCESS:
            raise
        except BaseException as error:  # noqa: BLE001 - the border with the model's code, which may raise anything
            # If nobody cancelled this call, something inside of the model was, and the caller waits for an answer.
            is_over = running.over if isinstance(error, asyncio.CancelledError) else None
            self._count(running)
            answers.refuse(call.id, is_over or error_of(error, call.method, call.args, call.kwargs))
            return
        self._count(running)
        if not call.streams:
            answers.give(call.id, msg.RESULT, call.method.name, result)
        elif is_whole:
            answers.end(call.id)

    def _count(self, running: _Running) -> None:
        call, credit = running.call, running.credit
        waited_ns = 0 if credit is None else credit.waited_ns
        self._page.ran(call.began_ns - call.came_ns, time.monotonic_ns() - call.began_ns - waited_ns)

    @classmethod
    async def all_ended(cls) -> None:
        """Wait until no call is left in this loop, by whatever way it came."""
        code = cls._run.__code__
        while left := [task for task in asyncio.all_tasks() if getattr(task.get_coro(), "cr_code", None) is code]:
            await asyncio.wait(left)

    async def _send_items(self, call: Call, credit: _Credit, result: Any) -> bool:
        """Send the items of a stream; say whether these were all, or one could not travel, which is its end then."""
        if not hasattr(result, "__anext__"):
            if hasattr(result, "close"):
                result.close()  # a coroutine that is never awaited would warn
            raise cannot_stream(call.method.name, result)
        items: AsyncIterator[Any] = result
        try:
            await credit.take()
            async for item in items:
                if not self._answers.give(call.id, msg.ITEM, call.method.name, item):
                    return False
                await credit.take()
            return True
        finally:
            await _close(items)


async def _close(items: Any) -> None:
    try:
        if hasattr(items, "aclose"):
            await items.aclose()
    except ENDS_A_PROCESS:
        raise
    except BaseException as error:  # noqa: BLE001 - the border with the model's code; the stream has its end already
        note(error)
