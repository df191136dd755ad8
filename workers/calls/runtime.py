"""Calls and streams of one loaded model, without knowing which transport brought them.

Rules
1. One thing runs at a time: `step` runs one queued call, or takes one item from each stream that may go on. Between two
   steps the loop around it takes in messages, so a stream can be cancelled between any two items.
2. A stream sends an item only while its caller has granted credit for it.
3. What nobody waits for any more (cancelled, or past its deadline) is not begun, and gets an end as everything else:
   so the host knows what its worker still has.
4. Coroutine methods run on the loop that the worker then has, many at a time (`tasks`), and plain ones with a feed
   beside each other, in turns (`fed`).

This file, `tasks`, `fed` and `session` are the border with the model's code: whatever that raises becomes a typed error
here, but for what ends a process (`ending.ENDS_A_PROCESS`).
"""

from __future__ import annotations

import inspect
import time
from collections import deque
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
from hostd_workers.process.forked import leave_if_child
from hostd_workers.raised import error_of
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import DEFAULT_LIMITS, decode
from hostd_workers.wire.errors import HostError, InvalidArgumentError, UnimplementedError
from hostd_workers.wire.feeds import FeedReceiver, put

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hostd_workers.calls.fed import FedCalls
    from hostd_workers.calls.tasks import Tasks
    from hostd_workers.methods import Method
    from hostd_workers.wire.lane.page import Writer

_TARGETS_REMEMBERED = 1024
_END = object()


class _Stream:
    """A generator that is being consumed: its items go out one at a time, as far as `credit` reaches."""

    __slots__ = ("compute_ns", "credit", "expires_s", "id", "items", "method", "queue_ns", "trace")

    def __init__(
        self,
        call_id: int,
        method: str,
        items: Iterator[Any],
        credit: int,
        expires_s: float,
        trace: str | None,
        queue_ns: int,
        compute_ns: int,
    ) -> None:
        self.id = call_id
        self.method = method
        self.items = items
        self.credit = credit
        self.expires_s = expires_s
        self.trace = trace
        self.queue_ns = queue_ns
        self.compute_ns = compute_ns


class Runtime:
    """The calls in hand. `send` takes the frames of one message, of at most `max_message_bytes`.

    `page` counts what ran: how long it waited since this has it, and how long the model ran, without what passes
    between the items of a stream. A plain method keeps its worker from looking what has come, so up to the rest of the
    one that ran then is not seen as waiting.
    """

    def __init__(
        self,
        methods: dict[str, Method],
        send: Callable[[list[wire.Buffer]], None],
        page: Writer,
        max_message_bytes: int = DEFAULT_LIMITS.blob_bytes,
    ) -> None:
        self._methods = methods
        self._answers = Answers(send, max_message_bytes)
        self._targets: dict[bytes, tuple[Method, msg.Target]] = {}
        self._page = page
        self._queue: deque[tuple[wire.Envelope, float, int]] = deque()
        """Each with when it expires, in s, and when it came, in ns."""
        self._streams: dict[int, _Stream] = {}
        self._tasks: Tasks | None = None
        self._fed: FedCalls | None = None
        self._cancelled: set[int] = set()
        self._early_credit: dict[int, int] = {}
        """What was granted to streams that are still queued."""

    @property
    def failure(self) -> BaseException | None:
        """What kept a coroutine's call from being answered, which ends the worker."""
        return None if self._tasks is None else self._tasks.failure

    @property
    def has_work(self) -> bool:
        """Say whether `step` has something to do."""
        if self._queue:  # asked twice for every call
            return True
        if self._streams and any(stream.credit > 0 for stream in self._streams.values()):
            return True
        return self._fed is not None and self._fed.has_work

    def accept(self, envelope: wire.Envelope, now_ns: int = 0) -> None:
        """Take in a CALL or STREAM, or what belongs to one; `now_ns` spares a look at the clock."""
        kind = envelope.kind
        if kind in (msg.CALL, msg.STREAM):
            now_ns = now_ns or time.monotonic_ns()
            deadline_ms = envelope.deadline_ms
            expires_s = NO_DEADLINE
            if deadline_ms != wire.MAX_DEADLINE_MS:
                expires_s = now_ns / 1e9 + deadline_ms / 1000
            self._queue.append((envelope, expires_s, now_ns))
        elif kind == msg.CANCEL:
            self._cancel(envelope.id)
        elif kind == msg.CREDIT:
            self._credit(envelope)
        elif kind in (msg.ITEM, msg.END, msg.ERROR):
            self._feed(envelope)

    def step(self) -> None:
        """Run one queued call, and take one item from each stream that may go on."""
        if self._queue:
            envelope, expires_s, came_ns = self._queue.popleft()
            now_ns = time.monotonic_ns()
            credit = self._early_credit.pop(envelope.id, 0) if self._early_credit else 0
            if envelope.id in self._cancelled:
                self._cancelled.discard(envelope.id)
                self._answers.refuse(envelope.id, cancelled())
            elif expires_s > now_ns / 1e9:
                self._begin(envelope, expires_s, credit, came_ns, now_ns)
            else:
                self._answers.refuse(envelope.id, too_late())
        if self._streams:
            for stream in [stream for stream in self._streams.values() if stream.credit > 0]:
                self._advance(stream)
        if self._fed is not None:
            self._fed.step()

    def method_of(self, header: bytes) -> str | None:
        """Return the method that calls with a header go to; None if there is none, or none was begun."""
        known = self._targets.get(header)
        return None if known is None else known[0].name

    def take_queued(self) -> list[int]:
        """Return the ids of the calls that have not begun, and forget these."""
        ids = [queued[0].id for queued in self._queue]
        self._queue.clear()
        self._cancelled.clear()
        self._early_credit.clear()
        return ids

    def drop(self) -> None:
        """Forget all calls, and end those that go on: nobody takes their answers."""
        self.take_queued()
        for stream in list(self._streams.values()):
            self._end_stream(stream)
        for calls in (self._tasks, self._fed):
            if calls is not None:
                calls.cancel_all()

    # One call

    def _begin(self, envelope: wire.Envelope, expires_s: float, credit: int, came_ns: int, began_ns: int) -> None:
        try:
            method, target = self._target(envelope.header)
            args, kwargs = self._arguments(envelope)
            if target.feed is not None and not put(args, kwargs, target.feed, None):
                raise InvalidArgumentError(f"the feed is to be argument {target.feed!r}, which the call does not have")
        except HostError as error:
            self._answers.refuse(envelope.id, error)
            return
        streams = envelope.kind == msg.STREAM
        if method.is_async or target.feed is not None:
            feed = None if target.feed is None else FeedReceiver(target.feed_window)
            call = Call(envelope.id, streams, method, target, args, kwargs, expires_s, came_ns, began_ns, feed)
            self._begin_beside(call, target.window + credit)
            return
        TRACE.set(target.trace)
        try:
            result = method.function(*args, **kwargs)
            if streams:
                leave_if_child()
                if not hasattr(result, "__next__"):
                    raise cannot_stream(method.name, result)  # noqa: TRY301 - one border for all that can go wrong
                self._streams[envelope.id] = _Stream(
                    envelope.id,
                    method.name,
                    result,
                    target.window + credit,
                    expires_s,
                    target.trace,
                    began_ns - came_ns,
                    time.monotonic_ns() - began_ns,
                )
                return
            if inspect.isgenerator(result):
                result.close()
                raise must_stream(method.name)  # noqa: TRY301 - as above
        except ENDS_A_PROCESS:
            raise
        except BaseException as error:  # noqa: BLE001 - the border with the model's code, which may raise anything
            self._page.ran(began_ns - came_ns, time.monotonic_ns() - began_ns)
            self._answers.refuse(envelope.id, error_of(error, method, args, kwargs))
            return
        self._page.ran(began_ns - came_ns, time.monotonic_ns() - began_ns)
        self._answers.give(envelope.id, msg.RESULT, method.name, result)

    def _begin_beside(self, call: Call, credit: int) -> None:
        """Begin a call that others may go on beside."""
        if call.method.is_async:
            if self._tasks is None:
                from hostd_workers.calls.tasks import Tasks  # noqa: PLC0415 - see there

                self._tasks = Tasks(self._answers, self._page)
            self._tasks.begin(call, credit)
        elif call.feed is not None:
            if self._fed is None:
                from hostd_workers.calls.fed import FedCalls  # noqa: PLC0415 - few models need it

                self._fed = FedCalls(self._answers, self._page)
            self._fed.begin(call, call.feed, credit)

    def _target(self, header: bytes) -> tuple[Method, msg.Target]:
        known = self._targets.get(header)
        if known is None:
            target = msg.unpack_target(header)
            method = self._methods.get(target.method)
            if method is None:
                names = sorted(self._methods)
                raise UnimplementedError(
                    f"the model has no method {target.method!r}; it has: {', '.join(names)}",
                    details={"methods": names},
                )
            known = (method, target)
            if target.trace is None and len(self._targets) < _TARGETS_REMEMBERED:  # traces differ from call to call
                self._targets[header] = known
        return known

    @staticmethod
    def _arguments(envelope: wire.Envelope) -> tuple[list[Any], dict[str, Any]]:
        body = decode(envelope.body, envelope.buffers)
        if type(body) is list and len(body) == 2 and type(body[0]) is list and type(body[1]) is dict:
            args, kwargs = body
            if not kwargs or all(isinstance(name, str) for name in kwargs):
                return args, kwargs
        raise InvalidArgumentError("the body of a call must be [positional arguments, keyword arguments]")

    # Streams

    def _advance(self, stream: _Stream) -> None:
        began_ns = time.monotonic_ns()
        if stream.expires_s <= began_ns / 1e9:
            self._end_stream(stream)
            self._answers.refuse(stream.id, too_late())
            return
        TRACE.set(stream.trace)
        try:
            item = next(stream.items, _END)
        except ENDS_A_PROCESS:
            raise
        except BaseException as error:  # noqa: BLE001 - the border with the model's code, which may raise anything
            stream.compute_ns += time.monotonic_ns() - began_ns
            self._end_stream(stream)
            self._answers.refuse(stream.id, error_of(error))
            return
        stream.compute_ns += time.monotonic_ns() - began_ns
        if item is _END:
            self._end_stream(stream)
            self._answers.end(stream.id)
            return
        stream.credit -= 1
        if not self._answers.give(stream.id, msg.ITEM, stream.method, item):
            self._end_stream(stream)

    def _end_stream(self, stream: _Stream) -> None:
        if self._streams.pop(stream.id, None) is not None:
            self._page.ran(stream.queue_ns, stream.compute_ns)
        try:
            close = getattr(stream.items, "close", None)
            if close is not None:
                close()
        except ENDS_A_PROCESS:
            raise
        except BaseException as error:  # noqa: BLE001 - the border with the model's code; nobody waits for this any more
            note(error)

    # What comes for a call that has begun or waits

    def _beside(self, call_id: int) -> Tasks | FedCalls | None:
        """Return what has a call that others go on beside."""
        for calls in (self._tasks, self._fed):
            if calls is not None and call_id in calls:
                return calls
        return None

    def _credit(self, envelope: wire.Envelope) -> None:
        items = msg.unpack_credit(envelope.header)
        if envelope.id in self._streams:
            self._streams[envelope.id].credit += items
        elif (calls := self._beside(envelope.id)) is not None:
            calls.grant(envelope.id, items)
        elif self._is_queued(envelope.id):
            self._early_credit[envelope.id] = self._early_credit.get(envelope.id, 0) + items

    def _feed(self, envelope: wire.Envelope) -> None:
        calls = self._beside(envelope.id)
        receiver = None if calls is None else calls.receiver(envelope.id)
        if calls is None or receiver is None:
            return
        if envelope.kind == msg.ERROR:
            calls.fail(envelope.id, msg.unpack_error(envelope))
            return
        try:
            if envelope.kind == msg.ITEM:
                receiver.came(envelope)
            else:
                receiver.end()
        except HostError as error:
            calls.fail(envelope.id, error)
        else:
            calls.news(envelope.id)

    def _cancel(self, call_id: int) -> None:
        if call_id in self._streams:
            self._end_stream(self._streams[call_id])
            self._answers.refuse(call_id, cancelled())
        elif (calls := self._beside(call_id)) is not None:
            calls.end(call_id, cancelled())
        elif self._is_queued(call_id):
            self._cancelled.add(call_id)

    def _is_queued(self, call_id: int) -> bool:
        return any(queued[0].id == call_id for queued in self._queue)
