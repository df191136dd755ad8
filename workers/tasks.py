"""Calls of coroutine methods, many at a time, each a task of the event loop that the worker then has.

A module of its own because it needs asyncio, whose import costs a third of the start of a worker; only a model with
coroutine methods pays for it.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from hostd_workers.answers import NO_DEADLINE, TRACE, Answers, Call, cancelled, cannot_stream, must_stream, too_late
from hostd_workers.forked import leave
from hostd_workers.raised import error_of
from hostd_workers.wire import messages as msg

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hostd_workers.main import Transport
    from hostd_workers.session import Session


class _Credit:
    """The items that an asynchronous stream may still send."""

    __slots__ = ("_granted", "_items")

    def __init__(self, items: int) -> None:
        self._items = items
        self._granted = asyncio.Event()

    def grant(self, items: int) -> None:
        self._items += items
        self._granted.set()

    async def take(self) -> None:
        while not self._items:
            self._granted.clear()
            await self._granted.wait()
        self._items -= 1


class Tasks:
    """The coroutine calls in hand."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._credits: dict[int, _Credit] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, call_id: int) -> bool:
        return call_id in self._tasks

    def begin(self, call: Call, credit: int) -> None:
        """Begin a call; `credit` is what was granted to a stream so far, its window included."""
        if call.method.streams and not call.streams:
            self._answers.refuse(call.id, must_stream(call.method.name))
            return
        if call.streams:
            self._credits[call.id] = _Credit(credit)
        task = asyncio.get_running_loop().create_task(self._within_deadline(call))
        self._tasks[call.id] = task
        task.add_done_callback(lambda task: self._ended(call.id, task))

    def grant(self, call_id: int, items: int) -> None:
        """Let a stream go on."""
        if call_id in self._credits:
            self._credits[call_id].grant(items)

    def cancel(self, call_id: int) -> None:
        """Cancel a call."""
        self._tasks.pop(call_id).cancel()

    def _ended(self, call_id: int, task: asyncio.Task[None]) -> None:
        is_withdrawn = self._tasks.pop(call_id, None) is None
        self._credits.pop(call_id, None)
        if is_withdrawn and task.cancelled():  # not when the whole worker ends, of which the host tells
            self._answers.refuse(call_id, cancelled())

    async def _within_deadline(self, call: Call) -> None:
        """Run a call until its deadline."""
        timeout_s = None if call.expires_s == NO_DEADLINE else max(0.0, call.expires_s - time.monotonic())
        try:
            await asyncio.wait_for(self._run(call), timeout_s)
        except asyncio.TimeoutError:
            self._answers.refuse(call.id, too_late())

    async def _run(self, call: Call) -> None:
        TRACE.set(call.target.trace)
        try:
            result = call.method.function(*call.args, **call.kwargs)
            if call.streams:
                await self._send_items(call, result)
            else:
                self._answers.give(call.id, msg.RESULT, call.method.name, await result)
        except asyncio.CancelledError as error:
            if self._is_over(call):
                raise
            # Nobody cancelled this call: something inside of the model was, and the caller waits for an answer.
            self._answers.refuse(call.id, error_of(error))
        except Exception as error:  # noqa: BLE001 - the border with the model's code, which may raise anything
            self._answers.refuse(call.id, error_of(error, call.method, call.args, call.kwargs))

    def _is_over(self, call: Call) -> bool:
        """Say whether the task that runs was withdrawn, is late, or is cancelled because the worker ends."""
        # Task.cancelling() is new in Python 3.11; int() is 0.
        is_cancelled = getattr(asyncio.current_task(), "cancelling", int)() > 0
        return is_cancelled or call.id not in self._tasks or call.expires_s <= time.monotonic()

    async def _send_items(self, call: Call, result: Any) -> None:
        if not hasattr(result, "__anext__"):
            if hasattr(result, "close"):
                result.close()  # a coroutine that is never awaited would warn
            raise cannot_stream(call.method.name, result)
        items: AsyncIterator[Any] = result
        credit = self._credits[call.id]
        try:
            await credit.take()
            async for item in items:
                if not self._answers.give(call.id, msg.ITEM, call.method.name, item):
                    return
                await credit.take()
            self._answers.end(call.id)
        finally:
            if hasattr(items, "aclose"):
                await items.aclose()


def serve_coroutines(transport: Transport, session: Session) -> None:
    """Serve until killed, with the raw socket on the loop's reader (`zmq.asyncio` costs half of the throughput)."""
    asyncio.run(_serve(transport, session))


async def _serve(transport: Transport, session: Session) -> None:
    loop = asyncio.get_running_loop()
    _end_children_of(loop)
    arrived = asyncio.Event()
    loop.add_reader(transport.fileno(), arrived.set)
    transport.on_sent = arrived.set
    runtime = session.runtime
    while runtime is not None:
        # Cleared before the socket is drained, because its descriptor only tells of changes.
        arrived.clear()
        while (frames := transport.receive(block=False)) is not None:
            session.accept(frames)
        if runtime.has_work:
            transport.settle()
            runtime.step()
            await asyncio.sleep(0)
        else:
            await arrived.wait()


def _end_children_of(loop: asyncio.AbstractEventLoop) -> None:
    """End a child that the model forks when it comes back to the loop, which is its parent's, selector included."""
    thread = threading.get_ident()

    def end() -> None:
        if threading.get_ident() == thread:
            loop.call_soon(_leave_after, asyncio.current_task(loop))
        else:  # a thread of an executor, which calls this when it has done its work
            loop.call_soon_threadsafe = leave  # type: ignore[assignment, method-assign]

    os.register_at_fork(after_in_child=end)


def _leave_after(task: asyncio.Task[Any] | None) -> None:
    """End a child, with what the task raised that forked it."""
    if task is not None and task.done():
        try:
            task.result()
        except BaseException:  # noqa: BLE001 - whatever it is, it is told
            leave()
    leave()
