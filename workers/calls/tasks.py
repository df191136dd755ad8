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
    call_is_over,
    cancelled,
    cannot_stream,
    must_stream,
    too_late,
)
from hostd_workers.process.ending import ENDS_A_PROCESS, note
from hostd_workers.raised import error_of
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import decode
from hostd_workers.wire.feeds import put

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hostd_workers.wire.errors import HostError
    from hostd_workers.wire.feeds import FeedReceiver
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


class _Feed:
    """The argument that a coroutine method gets for a feed: an asynchronous iterator over its items."""

    def __init__(self, call_id: int, receiver: FeedReceiver, answers: Answers) -> None:
        self._id = call_id
        self.receiver = receiver
        self._answers = answers
        self._news = asyncio.Event()
        self.waiting = 0
        """How many wait for an item; the method and what it has begun may at the same time."""
        self.waited_ns = 0

    def __aiter__(self) -> _Feed:
        return self

    async def __anext__(self) -> Any:
        self._answers.ask(self._id, self.receiver)
        while self.receiver.must_wait:
            await self._wait()
        item = self.receiver.take()
        if item is None:
            raise StopAsyncIteration
        return decode(item.body, item.buffers)

    async def _wait(self) -> None:
        began_ns = time.monotonic_ns()
        self.waiting += 1
        self._news.clear()
        try:
            await self._news.wait()
        finally:
            self.waiting -= 1
            self.waited_ns += time.monotonic_ns() - began_ns

    def tell(self) -> None:
        """Have what waits look again."""
        self._news.set()


class _Running:
    """A call in hand; `over` is why it was ended from outside, if it was."""

    __slots__ = ("call", "credit", "feed", "has_begun", "over", "task", "timer")

    def __init__(self, call: Call, credit: _Credit | None, feed: _Feed | None) -> None:
        self.call = call
        self.credit = credit
        self.feed = feed
        self.has_begun = False
        self.over: HostError | None = None
        self.task: asyncio.Task[None]
        self.timer: asyncio.TimerHandle | None = None

    def end(self, why: HostError) -> None:
        """Cancel the call's task, once: it may be cleaning up."""
        if self.over is None:
            self.over = why
            if self.feed is not None:
                self.feed.receiver.close(why)
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
        feed = None
        if call.feed is not None and call.target.feed is not None:
            feed = _Feed(call.id, call.feed, self._answers)
            put(call.args, call.kwargs, call.target.feed, feed)
        running = self._running[call.id] = _Running(call, _Credit(credit) if call.streams else None, feed)
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

    def receiver(self, call_id: int) -> FeedReceiver | None:
        """Return where the items of a call's feed go, None if it has none."""
        return self._running[call_id].call.feed

    def news(self, call_id: int) -> None:
        """Have a call go on that waits for an item."""
        feed = self._running[call_id].feed
        if feed is not None:
            feed.tell()

    def end(self, call_id: int, why: HostError) -> None:
        """End a call from outside."""
        self._running[call_id].end(why)

    def fail(self, call_id: int, why: HostError) -> None:
        """End a call for what is wrong with its feed, which it gets where it waits for an item."""
        running = self._running[call_id]
        feed = running.feed
        if feed is not None and feed.waiting and running.over is None:
            running.over = why
            feed.receiver.close(why)
            feed.tell()
        else:
            running.end(why)

    def cancel_all(self) -> None:
        """Cancel every call."""
        for running in list(self._running.values()):
            running.end(cancelled())

    def _ended(self, running: _Running, task: asyncio.Task[None]) -> None:
        del self._running[running.call.id]
        if running.feed is not None:
            running.feed.receiver.close(call_is_over())
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
        call = running.call
        # What the method has begun may have waited at the same time.
        waited_ns = sum(each.waited_ns for each in (running.credit, running.feed) if each is not None)
        self._page.ran(call.began_ns - call.came_ns, max(0, time.monotonic_ns() - call.began_ns - waited_ns))

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
