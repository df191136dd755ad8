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
import inspect
import time
import traceback
from collections import deque
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from workers.wire import frames as wire
from workers.wire import messages as msg
from workers.wire.codec import decode, encode
from workers.wire.errors import HostError, InvalidArgumentError, ModelError, UnimplementedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from types import TracebackType

    from workers.methods import Method

TRACE: ContextVar[str | None] = ContextVar("hostd_trace", default=None)
"""The W3C traceparent of the call that runs, for a model that reports spans of its own."""

_NO_DEADLINE = float("inf")


class _Stream:
    """A generator that is being consumed: its items go out one at a time, as far as `credit` reaches."""

    __slots__ = ("credit", "expires_s", "id", "items", "trace")

    def __init__(self, stream_id: int, items: Iterator[Any], credit: int, expires_s: float, trace: str | None) -> None:
        self.id = stream_id
        self.items = items
        self.credit = credit
        self.expires_s = expires_s
        self.trace = trace


class Runtime:
    """The calls in hand. `send` takes the frames of one message."""

    def __init__(self, methods: dict[str, Method], send: Callable[[list[wire.Buffer]], None]) -> None:
        self._methods = methods
        self._send = send
        self._targets: dict[bytes, tuple[Method, msg.Target]] = {}
        self._queue: deque[tuple[wire.Envelope, float]] = deque()
        self._streams: dict[int, _Stream] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._credits: dict[int, asyncio.Semaphore] = {}
        self._cancelled: set[int] = set()

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
            if envelope.id in self._cancelled:
                self._cancelled.discard(envelope.id)
            elif expires_s > time.monotonic():
                self._begin(envelope, expires_s)
        if self._streams:
            for stream in [stream for stream in self._streams.values() if stream.credit > 0]:
                self._advance(stream)

    # One call

    def _begin(self, envelope: wire.Envelope, expires_s: float) -> None:
        try:
            method, target = self._target(envelope.header)
            args, kwargs = self._arguments(envelope)
        except HostError as error:
            self._send(msg.pack_error(envelope.id, error))
            return
        if method.is_async:
            self._begin_task(envelope, method, target, args, kwargs, expires_s)
            return
        if target.trace is not None:
            TRACE.set(target.trace)
        try:
            result = method.function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the border with the model's code, which may raise anything
            self._send(msg.pack_error(envelope.id, error_of(error, method, args, kwargs)))
            return
        if envelope.kind == msg.STREAM:
            self._begin_stream(envelope.id, method, target, result, expires_s)
        elif inspect.isgenerator(result):
            result.close()
            self._send(msg.pack_error(envelope.id, _must_stream(method.name)))
        else:
            self._answer(envelope.id, msg.RESULT, method.name, result)

    def _answer(self, call_id: int, kind: int, method: str, value: object) -> bool:
        try:
            body, buffers = encode(value)
            frames = wire.pack(kind, call_id, body=body, buffers=buffers)
        except HostError as error:
            answer = ModelError(f"method {method!r} returned what cannot be sent: {error.message}")
            self._send(msg.pack_error(call_id, answer))
            return False
        self._send(frames)
        return True

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

    def _begin_stream(self, stream_id: int, method: Method, target: msg.Target, result: Any, expires_s: float) -> None:
        if not hasattr(result, "__next__"):
            self._send(msg.pack_error(stream_id, _cannot_stream(method.name, result)))
            return
        self._streams[stream_id] = _Stream(stream_id, result, target.window, expires_s, target.trace)

    def _advance(self, stream: _Stream) -> None:
        if stream.expires_s <= time.monotonic():
            self._end_stream(stream)
            return
        if stream.trace is not None:
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
        if not self._answer(stream.id, msg.ITEM, "the stream", item):
            self._end_stream(stream)

    def _end_stream(self, stream: _Stream) -> None:
        self._streams.pop(stream.id, None)
        close = getattr(stream.items, "close", None)
        if close is not None:
            try:
                close()
            except Exception:  # noqa: BLE001 - the border with the model's code; nobody waits for this any more
                traceback.print_exc()

    def _credit(self, envelope: wire.Envelope) -> None:
        items = msg.unpack_credit(envelope.header)
        if envelope.id in self._streams:
            self._streams[envelope.id].credit += items
        elif envelope.id in self._credits:
            for _ in range(items):
                self._credits[envelope.id].release()

    def _cancel(self, call_id: int) -> None:
        if call_id in self._streams:
            self._end_stream(self._streams[call_id])
        elif call_id in self._tasks:
            self._tasks[call_id].cancel()
        elif any(envelope.id == call_id for envelope, _ in self._queue):
            self._cancelled.add(call_id)

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
        streams = envelope.kind == msg.STREAM
        if method.streams and not streams:
            self._send(msg.pack_error(envelope.id, _must_stream(method.name)))
            return
        if streams:
            self._credits[envelope.id] = asyncio.Semaphore(target.window)
        coroutine = self._run_task(envelope, method, target, args, kwargs)
        task = asyncio.get_running_loop().create_task(_within(coroutine, expires_s))
        self._tasks[envelope.id] = task
        task.add_done_callback(lambda _task: self._forget_task(envelope.id))

    def _forget_task(self, call_id: int) -> None:
        self._tasks.pop(call_id, None)
        self._credits.pop(call_id, None)

    async def _run_task(
        self, envelope: wire.Envelope, method: Method, target: msg.Target, args: list[Any], kwargs: dict[str, Any]
    ) -> None:
        TRACE.set(target.trace)
        try:
            result = method.function(*args, **kwargs)
            if envelope.kind == msg.STREAM:
                await self._send_items(envelope.id, method, result)
            else:
                self._answer(envelope.id, msg.RESULT, method.name, await result)
        except Exception as error:  # noqa: BLE001 - the border with the model's code, which may raise anything
            self._send(msg.pack_error(envelope.id, error_of(error, method, args, kwargs)))

    async def _send_items(self, stream_id: int, method: Method, result: Any) -> None:
        if not hasattr(result, "__anext__"):
            if hasattr(result, "close"):
                result.close()  # a coroutine that is never awaited would warn
            self._send(msg.pack_error(stream_id, _cannot_stream(method.name, result)))
            return
        items: AsyncIterator[Any] = result
        credit = self._credits[stream_id]
        try:
            await credit.acquire()
            async for item in items:
                if not self._answer(stream_id, msg.ITEM, method.name, item):
                    return
                await credit.acquire()
            self._send(wire.pack(msg.END, stream_id, body=_NOTHING))
        finally:
            if hasattr(items, "aclose"):
                await items.aclose()


_NOTHING = encode(None)[0]


async def _within(coroutine: Any, expires_s: float) -> None:
    """Run a coroutine until its deadline; the host has answered for it then, so nothing is sent."""
    timeout_s = None if expires_s == _NO_DEADLINE else max(0.0, expires_s - time.monotonic())
    try:
        await asyncio.wait_for(coroutine, timeout_s)
    except asyncio.TimeoutError:
        return


def _must_stream(method: str) -> HostError:
    return InvalidArgumentError(f"method {method!r} yields items: call it as model.stream.{method}(...)")


def _cannot_stream(method: str, result: object) -> HostError:
    return InvalidArgumentError(
        f"method {method!r} returned a {type(result).__name__}, not an iterator: call it as model.{method}(...)"
    )


def error_of(
    error: BaseException,
    method: Method | None = None,
    args: list[Any] | None = None,
    kwargs: dict[str, Any] | None = None,
) -> HostError:
    """Return the typed error for what the model's code raised, with its own traceback as text.

    A TypeError that was raised by the call itself, before any line of the model ran, means wrong arguments.
    """
    if isinstance(error, HostError):
        return error
    own = error.__traceback__.tb_next if error.__traceback__ else None
    if isinstance(error, TypeError) and method is not None and own is None and not _binds(method, args, kwargs):
        signature = method.describe()["signature"]
        return InvalidArgumentError(
            f"wrong arguments for method {method.name!r}: {error}; it is {method.name}{signature}"
        )
    text = traceback_text(error, own)
    summary = "".join(traceback.format_exception_only(type(error), error)).strip()
    return ModelError(summary[:2000], details={"traceback": text, "type": type(error).__name__})


def traceback_text(error: BaseException, begin: TracebackType | None) -> str:
    """Return the text of a traceback from a frame on, its end if it is very long."""
    text = "".join(traceback.format_exception(type(error), error, begin))
    return text if len(text) <= msg.MAX_TRACEBACK_CHARS else "…" + text[-msg.MAX_TRACEBACK_CHARS :]


def _binds(method: Method, args: list[Any] | None, kwargs: dict[str, Any] | None) -> bool:
    try:
        inspect.signature(method.function).bind(*(args or ()), **(kwargs or {}))
    except TypeError:
        return False
    except ValueError:  # no signature to compare with: whatever it complained of was what it was given
        return False
    return True
