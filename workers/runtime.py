"""Calls and streams of one loaded model, without knowing which transport brought them.

Rules
1. One thing runs at a time: `step` runs one queued call, or takes one item from each stream that may go on. Between two
   steps the loop around it takes in messages, so a stream can be cancelled between any two items.
2. A stream sends an item only while its caller has granted credit for it.
3. What nobody waits for any more (cancelled, or past its deadline) is not begun.
4. Coroutine methods run on the loop that the worker then has, many at a time.

This file and `session` are the border with the model's code: whatever that raises becomes a typed error here.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
import traceback
from collections import deque
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from workers.raised import error_of
from workers.wire import frames as wire
from workers.wire import messages as msg
from workers.wire.codec import decode, encode
from workers.wire.errors import HostError, InvalidArgumentError, ModelError, UnimplementedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

    from workers.methods import Method

TRACE: ContextVar[str | None] = ContextVar("hostd_trace", default=None)
"""The W3C traceparent of the call that runs, for a model that reports spans of its own."""

_NO_DEADLINE = float("inf")


class _Stream:
    """A generator that is being consumed: its items go out one at a time, as far as `credit` reaches."""

    __slots__ = ("credit", "expires_s", "id", "items", "method", "trace")

    def __init__(
        self, stream_id: int, method: str, items: Iterator[Any], credit: int, expires_s: float, trace: str | None
    ) -> None:
        self.id = stream_id
        self.method = method
        self.items = items
        self.credit = credit
        self.expires_s = expires_s
        self.trace = trace


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


class Runtime:
    """The calls in hand. `send` takes the frames of one message."""

    def __init__(self, methods: dict[str, Method], send: Callable[[list[wire.Buffer]], None]) -> None:
        self._methods = methods
        self._send = send
        self._targets: dict[bytes, tuple[Method, msg.Target]] = {}
        self._queue: deque[tuple[wire.Envelope, float]] = deque()
        self._streams: dict[int, _Stream] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._credits: dict[int, _Credit] = {}
        self._cancelled: set[int] = set()
        self._early_credit: dict[int, int] = {}
        """What was granted to streams that are still queued."""

    @property
    def has_work(self) -> bool:
        """Say whether `step` has something to do."""
        return bool(self._queue) or any(stream.credit > 0 for stream in self._streams.values())

    def accept(self, envelope: wire.Envelope) -> None:
        """Take in a CALL, STREAM, CANCEL or CREDIT."""
        kind = envelope.kind
        if kind in (msg.CALL, msg.STREAM):
            deadline_ms = envelope.deadline_ms
            expires_s = _NO_DEADLINE
            if deadline_ms != wire.MAX_DEADLINE_MS:
                expires_s = time.monotonic() + deadline_ms / 1000
            self._queue.append((envelope, expires_s))
        elif kind == msg.CANCEL:
            self._cancel(envelope.id)
        elif kind == msg.CREDIT:
            self._credit(envelope)

    def step(self) -> None:
        """Run one queued call, and take one item from each stream that may go on."""
        if self._queue:
            envelope, expires_s = self._queue.popleft()
            credit = self._early_credit.pop(envelope.id, 0) if self._early_credit else 0
            if envelope.id in self._cancelled:
                self._cancelled.discard(envelope.id)
            elif expires_s > time.monotonic():
                self._begin(envelope, expires_s, credit)
        if self._streams:
            for stream in [stream for stream in self._streams.values() if stream.credit > 0]:
                self._advance(stream)

    # One call

    def _begin(self, envelope: wire.Envelope, expires_s: float, credit: int) -> None:
        try:
            method, target = self._target(envelope.header)
            args, kwargs = self._arguments(envelope)
        except HostError as error:
            self._send(msg.pack_error(envelope.id, error))
            return
        if method.is_async:
            if envelope.kind == msg.STREAM:
                self._credits[envelope.id] = _Credit(target.window + credit)
            self._begin_task(envelope, method, target, args, kwargs, expires_s)
            return
        TRACE.set(target.trace)
        try:
            result = method.function(*args, **kwargs)
            if envelope.kind == msg.STREAM:
                _check_iterator(method.name, result)
                window = target.window + credit
                stream = _Stream(envelope.id, method.name, result, window, expires_s, target.trace)
                self._streams[envelope.id] = stream
                return
            if inspect.isgenerator(result):
                result.close()
                raise _must_stream(method.name)  # noqa: TRY301 - one border for all that can go wrong here
        except Exception as error:  # noqa: BLE001 - the border with the model's code, which may raise anything
            self._send(msg.pack_error(envelope.id, error_of(error, method, args, kwargs)))
            return
        self._answer(envelope.id, msg.RESULT, method.name, result)

    def _answer(self, call_id: int, kind: int, method: str, value: object) -> bool:
        try:
            body, buffers = encode(value)
            frames = wire.pack(kind, call_id, body=body, buffers=buffers)
        except HostError as error:
            frames = msg.pack_error(
                call_id, ModelError(f"method {method!r} returned what cannot be sent: {error.message}")
            )
        except Exception as error:  # noqa: BLE001 - a value of the model's own class runs its code when it is read
            frames = msg.pack_error(call_id, error_of(error))
        else:
            self._send(frames)
            return True
        self._send(frames)
        return False

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
            if target.trace is None and len(self._targets) < 1024:  # traces differ from call to call
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
        if stream.expires_s <= time.monotonic():
            self._end_stream(stream)
            return
        TRACE.set(stream.trace)
        try:
            item = next(stream.items)
        except StopIteration:
            self._end_stream(stream)
            self._send(wire.pack(msg.END, stream.id, body=_NOTHING))
            return
        except Exception as error:  # noqa: BLE001 - the border with the model's code, which may raise anything
            self._end_stream(stream)
            self._send(msg.pack_error(stream.id, error_of(error)))
            return
        stream.credit -= 1
        if not self._answer(stream.id, msg.ITEM, stream.method, item):
            self._end_stream(stream)

    def _end_stream(self, stream: _Stream) -> None:
        self._streams.pop(stream.id, None)
        try:
            close = getattr(stream.items, "close", None)
            if close is not None:
                close()
        except Exception:  # noqa: BLE001 - the border with the model's code; nobody waits for this any more
            traceback.print_exc()

    def _credit(self, envelope: wire.Envelope) -> None:
        items = msg.unpack_credit(envelope.header)
        if envelope.id in self._streams:
            self._streams[envelope.id].credit += items
        elif envelope.id in self._credits:
            self._credits[envelope.id].grant(items)
        elif self._is_queued(envelope.id):
            self._early_credit[envelope.id] = self._early_credit.get(envelope.id, 0) + items

    def _cancel(self, call_id: int) -> None:
        if call_id in self._streams:
            self._end_stream(self._streams[call_id])
        elif call_id in self._tasks:
            self._tasks.pop(call_id).cancel()
        elif self._is_queued(call_id):
            self._cancelled.add(call_id)

    def _is_queued(self, call_id: int) -> bool:
        return any(envelope.id == call_id for envelope, _ in self._queue)

    # Coroutines

    def _begin_task(
        self,
        envelope: wire.Envelope,
        method: Method,
        target: msg.Target,
        args: list[Any],
        kwargs: dict[str, Any],
        expires_s: float,
    ) -> None:
        if method.streams and envelope.kind != msg.STREAM:
            self._send(msg.pack_error(envelope.id, _must_stream(method.name)))
            return
        run = functools.partial(self._run_task, envelope, method, target, args, kwargs, expires_s)
        task = asyncio.get_running_loop().create_task(_within(run, expires_s))
        self._tasks[envelope.id] = task
        task.add_done_callback(lambda _task: self._forget_task(envelope.id))

    def _forget_task(self, call_id: int) -> None:
        self._tasks.pop(call_id, None)
        self._credits.pop(call_id, None)

    async def _run_task(
        self,
        envelope: wire.Envelope,
        method: Method,
        target: msg.Target,
        args: list[Any],
        kwargs: dict[str, Any],
        expires_s: float,
    ) -> None:
        TRACE.set(target.trace)
        try:
            result = method.function(*args, **kwargs)
            if envelope.kind == msg.STREAM:
                await self._send_items(envelope.id, method, result)
            else:
                self._answer(envelope.id, msg.RESULT, method.name, await result)
        except asyncio.CancelledError as error:
            if self._is_over(envelope.id, expires_s):
                raise
            # Nobody cancelled this call: something inside of the model was, and the caller waits for an answer.
            self._send(msg.pack_error(envelope.id, error_of(error)))
        except Exception as error:  # noqa: BLE001 - the border with the model's code, which may raise anything
            self._send(msg.pack_error(envelope.id, error_of(error, method, args, kwargs)))

    def _is_over(self, call_id: int, expires_s: float) -> bool:
        """Say whether the task that runs was withdrawn, is late, or is cancelled because the worker ends."""
        # Task.cancelling() is new in Python 3.11; int() is 0.
        is_cancelled = getattr(asyncio.current_task(), "cancelling", int)() > 0
        return is_cancelled or call_id not in self._tasks or expires_s <= time.monotonic()

    async def _send_items(self, stream_id: int, method: Method, result: Any) -> None:
        if not hasattr(result, "__anext__"):
            if hasattr(result, "close"):
                result.close()  # a coroutine that is never awaited would warn
            raise _cannot_stream(method.name, result)
        items: AsyncIterator[Any] = result
        credit = self._credits[stream_id]
        try:
            await credit.take()
            async for item in items:
                if not self._answer(stream_id, msg.ITEM, method.name, item):
                    return
                await credit.take()
            self._send(wire.pack(msg.END, stream_id, body=_NOTHING))
        finally:
            if hasattr(items, "aclose"):
                await items.aclose()


_NOTHING = encode(None)[0]


async def _within(run: Callable[[], Coroutine[Any, Any, None]], expires_s: float) -> None:
    """Run a coroutine until its deadline; the host has answered for it then, so nothing is sent."""
    timeout_s = None if expires_s == _NO_DEADLINE else max(0.0, expires_s - time.monotonic())
    try:
        await asyncio.wait_for(run(), timeout_s)
    except asyncio.TimeoutError:
        return


def _must_stream(method: str) -> HostError:
    return InvalidArgumentError(f"method {method!r} yields items: call it as model.stream.{method}(...)")


def _check_iterator(method: str, result: object) -> None:
    if not hasattr(result, "__next__"):
        raise _cannot_stream(method, result)


def _cannot_stream(method: str, result: object) -> HostError:
    return InvalidArgumentError(
        f"method {method!r} returned a {type(result).__name__}, not an iterator: call it as model.{method}(...)"
    )
