"""Calls of plain methods that have a feed: each in a thread of its own, which pauses where the model waits for an item.

Rules
1. Of all threads one runs: the loop of the worker, or that of one such call. So a model that serves plain methods is
   never entered twice, and other calls go on while one waits.
2. A turn ends when the model waits for an item or has answered, and at an item after `TURN_S`.
3. A call that is to be over goes on once more: the model gets the reason where it waits. Whatever it makes of it, the
   reason is the answer.
"""

from __future__ import annotations

import inspect
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from hostd_workers.calls.answers import TRACE, call_is_over, cancelled, cannot_stream, must_stream, too_late
from hostd_workers.calls.fibers import PAUSED, Fiber
from hostd_workers.process.ending import ENDS_A_PROCESS, note
from hostd_workers.raised import error_of
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import decode
from hostd_workers.wire.errors import FailedPreconditionError, ResourceExhaustedError
from hostd_workers.wire.feeds import FeedState, put

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hostd_workers.calls.answers import Answers, Call
    from hostd_workers.wire.errors import HostError
    from hostd_workers.wire.feeds import FeedReceiver
    from hostd_workers.wire.lane.page import Writer

TURN_S: Final = 0.0005
"""As often as a busy worker looks for new messages. A turn costs two hand-overs between threads: 20 us."""

_END = object()


class _Feed:
    """The argument that the model gets: an iterator over the items, in the thread of its call alone."""

    def __init__(self, receiver: FeedReceiver, fiber: Fiber) -> None:
        self._receiver = receiver
        self._fiber = fiber

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> Any:
        receiver, fiber = self._receiver, self._fiber
        if not fiber.is_here:
            raise FailedPreconditionError("a feed gives its items to the thread alone in which its method was called")
        is_turn_over = receiver.owed or time.monotonic() - fiber.resumed_s > TURN_S
        if is_turn_over and receiver.state is not FeedState.OVER:
            fiber.pause()
        while receiver.must_wait:
            fiber.pause()
        item = receiver.take()
        if item is None:
            raise StopIteration
        return decode(item.body, item.buffers)


class _Fed:
    """A call in hand. `items` are those of a stream that has begun, `over` is why it was ended from outside."""

    __slots__ = ("call", "compute_ns", "credit", "fiber", "items", "over", "receiver")

    def __init__(self, call: Call, receiver: FeedReceiver, credit: int, fiber: Fiber) -> None:
        self.call = call
        self.receiver = receiver
        self.credit = credit
        self.fiber = fiber
        self.items: Iterator[Any] | None = None
        self.over: HostError | None = None
        self.compute_ns = 0

    @property
    def may_go(self) -> bool:
        """Whether the next turn brings it on."""
        return not self.receiver.must_wait if self.fiber.is_paused else self.credit > 0


class FedCalls:
    """The calls of plain methods with a feed; each gets exactly one end."""

    def __init__(self, answers: Answers, page: Writer) -> None:
        self._answers = answers
        self._page = page
        self._fed: dict[int, _Fed] = {}

    def __contains__(self, call_id: int) -> bool:
        return call_id in self._fed

    @property
    def has_work(self) -> bool:
        """Say whether `step` has something to do."""
        return any(fed.may_go for fed in self._fed.values())

    def begin(self, call: Call, receiver: FeedReceiver, credit: int) -> None:
        """Begin a call; `credit` is what was granted to a stream so far, its window included."""
        try:
            fiber = Fiber()
        except RuntimeError as error:
            self._answers.refuse(
                call.id, ResourceExhaustedError(f"the worker has no thread for a call with a feed: {error}")
            )
            return
        fed = self._fed[call.id] = _Fed(call, receiver, credit, fiber)
        method, target, args, kwargs = call.method, call.target, call.args, call.kwargs
        if target.feed is not None:
            put(args, kwargs, target.feed, _Feed(receiver, fiber))

        def run() -> Any:
            TRACE.set(target.trace)  # of this thread, and so for all that it runs
            result = method.function(*args, **kwargs)
            if call.streams and not hasattr(result, "__next__"):
                raise cannot_stream(method.name, result)
            if not call.streams and inspect.isgenerator(result):
                result.close()
                raise must_stream(method.name)
            return result

        self._go(fed, run)

    def step(self) -> None:
        """Give a turn to each call that may go on."""
        for fed in list(self._fed.values()):
            if fed.call.expires_s <= time.monotonic():
                self.end(fed.call.id, too_late())
            elif fed.fiber.is_paused and fed.may_go:
                self._go(fed, None)
            elif fed.may_go and (items := fed.items) is not None:
                self._go(fed, partial(next, items, _END))

    def grant(self, call_id: int, items: int) -> None:
        """Let a stream go on."""
        self._fed[call_id].credit += items

    def receiver(self, call_id: int) -> FeedReceiver | None:
        """Return where the items of a call go."""
        return self._fed[call_id].receiver

    def news(self, call_id: int) -> None:
        """Take note that something has come for a feed: the next `step` looks."""

    def cancel_all(self) -> None:
        """Cancel every call."""
        for call_id in list(self._fed):
            self.end(call_id, cancelled())

    def end(self, call_id: int, why: HostError) -> None:
        """End a call from outside."""
        fed = self._fed[call_id]
        if fed.over is None:
            fed.over = why
            fed.receiver.close(why)
            if fed.fiber.is_paused:
                self._go(fed, None)
            else:
                self._finish(fed)

    fail = end

    def _go(self, fed: _Fed, function: Callable[[], Any] | None) -> None:
        """Give a call its turn, to begin a function or to go on with what has paused."""
        call, began_ns = fed.call, time.monotonic_ns()
        try:
            result = fed.fiber.resume() if function is None else fed.fiber.run(function)
        except ENDS_A_PROCESS:
            raise
        except BaseException as error:  # noqa: BLE001 - the border with the model's code, which may raise anything
            fed.compute_ns += time.monotonic_ns() - began_ns
            at_first = () if fed.items is not None else (call.method, call.args, call.kwargs)
            self._finish(fed, fed.over or error_of(error, *at_first))
            return
        fed.compute_ns += time.monotonic_ns() - began_ns
        if result is PAUSED:
            self._answers.ask(call.id, fed.receiver)
        elif fed.over is not None:
            self._finish(fed)
        elif fed.items is not None:
            self._give(fed, result)
        elif call.streams:
            fed.items = result
        else:
            self._forget(fed)
            self._answers.give(call.id, msg.RESULT, call.method.name, result)

    def _give(self, fed: _Fed, item: object) -> None:
        if item is _END:
            self._forget(fed)
            self._answers.end(fed.call.id)
            return
        fed.credit -= 1
        if not self._answers.give(fed.call.id, msg.ITEM, fed.call.method.name, item):
            self._forget(fed)

    def _finish(self, fed: _Fed, error: HostError | None = None) -> None:
        """End a call with an error, that for which it was ended if there is no other."""
        error = error or fed.over
        self._forget(fed)
        if error is not None:
            self._answers.refuse(fed.call.id, error)

    def _forget(self, fed: _Fed) -> None:
        call = fed.call
        del self._fed[call.id]
        fed.receiver.close(call_is_over())
        self._page.ran(call.began_ns - call.came_ns, fed.compute_ns)
        try:
            close = getattr(fed.items, "close", None)
            if close is not None:
                fed.fiber.run(close)  # where it ran; it cannot pause, because its feed is closed
        except ENDS_A_PROCESS:
            raise
        except BaseException as error:  # noqa: BLE001 - the border with the model's code; the stream has its end already
            note(error)
        fed.fiber.end()
