"""What goes back to a caller: results, items, ends and errors, made of the model's values."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from hostd_workers.process.ending import ENDS_A_PROCESS
from hostd_workers.raised import error_of
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import encode
from hostd_workers.wire.errors import (
    AbortedError,
    CancelledError,
    DeadlineExceededError,
    HostError,
    InvalidArgumentError,
    MessageTooLargeError,
    ModelError,
)
from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostd_workers.methods import Method
    from hostd_workers.wire.feeds import FeedReceiver

TRACE: ContextVar[str | None] = ContextVar("hostd_trace", default=None)
"""The W3C traceparent of the call that runs, for a model that reports spans of its own."""

NO_DEADLINE = float("inf")

_NOTHING = encode(None)[0]


class Call(NamedTuple):
    """A call that is about to begin: decoded, and not past its deadline (`expires_s`, of `time.monotonic`).

    It came and begins at these instants in ns.
    """

    id: int
    streams: bool
    method: Method
    target: msg.Target
    args: list[Any]
    kwargs: dict[str, Any]
    expires_s: float
    came_ns: int
    began_ns: int
    feed: FeedReceiver | None = None


class Answers:
    """Sends answers; `send` takes the frames of one message.

    `max_message_bytes` is the host's limit: its socket would answer what is over it by closing the connection.
    """

    def __init__(self, send: Callable[[list[wire.Buffer]], None], max_message_bytes: int) -> None:
        self._send = send
        self._max_message_bytes = max_message_bytes

    def give(self, call_id: int, kind: int, method: str, value: object) -> bool:
        """Send a value as RESULT or ITEM, or as an error if it cannot travel; say whether it could."""
        try:
            body, buffers = encode(value)
            frames = wire.pack(kind, call_id, body=body, buffers=buffers)
        except HostError as error:
            why = error_of(error).message
            self.refuse(call_id, ModelError(f"method {method!r} returned what cannot be sent: {why}"))
            return False
        except ENDS_A_PROCESS:
            raise
        except BaseException as error:  # noqa: BLE001 - a value of the model's own class runs its code when it is read
            self.refuse(call_id, error_of(error))
            return False
        if len(frames) > 1 and (size_bytes := sum(map(len, frames))) > self._max_message_bytes:
            self.refuse(call_id, _too_large(method, size_bytes, self._max_message_bytes))
            return False
        self._send(frames)
        return True

    def end(self, call_id: int) -> None:
        """Send the end of a stream."""
        self._send(wire.pack(msg.END, call_id, body=_NOTHING))

    def ask(self, call_id: int, feed: FeedReceiver) -> None:
        """Have the caller send more items of a feed, if it has too little credit."""
        items = feed.grant()
        if items:
            self._send(msg.pack_credit(call_id, items))

    def refuse(self, call_id: int, error: HostError) -> None:
        """Send an error."""
        self._send(msg.pack_error(call_id, error))


def cancelled() -> HostError:
    """Return the end of a call that was cancelled."""
    return CancelledError("the call was cancelled by its caller")


def too_late() -> HostError:
    """Return the end of a call that is past its deadline."""
    return DeadlineExceededError("the deadline passed before the model answered")


def call_is_over() -> HostError:
    """Return what a model gets that asks for items of a feed after its call."""
    return AbortedError("the call is over for which this feed was")


def must_stream(method: str) -> HostError:
    """Return the error for a method that yields items and was called as if it did not."""
    return InvalidArgumentError(f"method {method!r} yields items: call it as model.stream.{method}(...)")


def cannot_stream(method: str, result: object) -> HostError:
    """Return the error for a method that was called for its items and has none."""
    return InvalidArgumentError(
        f"method {method!r} returned a {type(result).__name__}, not an iterator: call it as model.{method}(...)"
    )


def _too_large(method: str, size_bytes: int, limit_bytes: int) -> HostError:
    return MessageTooLargeError(
        f"method {method!r} returned {size_bytes} bytes, the host passes on {limit_bytes} at most "
        f"(limits.max_message_bytes): return less at a time, or raise the limit",
        details={"size_bytes": size_bytes, "limit_bytes": limit_bytes},
    )
