"""Requests in flight, without I/O: frames out, frames in, and which request waits for which answer.

Rules
1. Every request ends exactly once: with a result, an error, or the loss of the connection.
2. An answer to a request that nobody knows any more is dropped.
3. A stream grants the worker credit for as many items as it has room for, half a window at a time.
4. What feeds a call is sent as far as the worker asks for it (`hostd_workers.wire.feeds`).
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from typing import TYPE_CHECKING, Any

from hostd.client.arguments import program_name
from hostd.client.feed import Feed, feeding_of
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import decode, encode, encode_call
from hostd_workers.wire.errors import (
    DeadlineExceededError,
    HostError,
    MessageTooLargeError,
    ModelError,
    ProtocolError,
    UnavailableError,
)
from hostd_workers.wire.feeds import put

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from hostd.client.feed import Feeding
    from hostd_workers.wire.frames import Buffer

    Make: TypeAlias = Callable[["Tracker"], tuple[Any, list[Buffer]]]

_BATCH = bytes([wire.BATCH])

_HEADERS_REMEMBERED = 4096

GRACE_S = 1.0
LANE_GRACE_S = 0.05

STREAM_WINDOW = 64
"""Items that a worker may be ahead of its consumer: enough to hide a round trip, few enough to keep memory small."""


class Pending:
    """A request that waits for its one answer; its `listeners` are called when that has come."""

    __slots__ = ("_envelope", "deadline_s", "error", "feeding", "id", "is_done", "lane", "listeners", "model_id")

    def __init__(self, request_id: int) -> None:
        self.id = request_id
        self.is_done = False
        self.model_id: str | None = None
        """Of a call."""
        self.lane: int | None = None
        """The descriptor of the lane that it was sent over, if not by the host."""
        self.deadline_s: float | None = None
        self.error: HostError | None = None
        self.feeding: Feeding | None = None
        """Of a call with a feed."""
        self.listeners: list[Callable[[], None]] = []
        self._envelope: wire.Envelope | None = None

    @property
    def grace_s(self) -> float:
        """How long after its deadline an answer may come: the host answers late ones itself, and a worker cannot."""
        return GRACE_S if self.lane is None else LANE_GRACE_S

    def overdue(self, timeout_s: float | None = None) -> HostError:
        """Return the error of a request that was not answered in time."""
        if self.lane is not None:
            return DeadlineExceededError("the deadline passed before the model answered")
        within = "in time" if timeout_s is None else f"within {timeout_s:g} s"
        return DeadlineExceededError(f"the host did not answer {within}")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {'done' if self.is_done else 'waiting'}>"

    def result(self) -> Any:
        """Return the value of the answer, or raise its error."""
        if self.error is not None:
            raise self.failure(self.error)
        if self._envelope is None:
            raise UnavailableError("there is no answer yet")
        return decode(self._envelope.body, self._envelope.buffers)

    def failure(self, error: HostError) -> BaseException:
        """Return what is to be raised for an error: what its feed has raised, or a copy."""
        return again(error) if self.feeding is None or self.feeding.failure is None else self.feeding.failure

    def receive(self, envelope: wire.Envelope) -> None:
        """Take what came for this request."""
        if envelope.kind == msg.ERROR:
            self.error = msg.unpack_error(envelope)
        self._envelope = envelope
        self._finish()

    def fail(self, error: HostError) -> None:
        """End without an answer."""
        self.error = error
        self._finish()

    def asked(self, items: int) -> None:
        """Take note that the model wants items of the feed."""
        if self.feeding is not None:
            self.feeding.sender.granted(items)
            (self.feeding.asked or self.tell)()

    def _finish(self) -> None:
        self.is_done = True
        if self.feeding is not None:
            self.feeding.sender.close()
        self.tell()

    def tell(self) -> None:
        """Call the listeners."""
        for listener in list(self.listeners):  # a copy, because other threads come and go
            listener()


class PendingStream(Pending):
    """A stream: `items` have come and wait to be taken; `is_done` says that no more will come.

    Its listeners are called for every item, too.
    """

    __slots__ = ("_taken", "items")

    def __init__(self, request_id: int) -> None:
        super().__init__(request_id)
        self.items: deque[wire.Envelope] = deque()
        self._taken = 0

    def receive(self, envelope: wire.Envelope) -> None:
        """Take an item, or the end."""
        if envelope.kind == msg.ITEM:
            self.items.append(envelope)
            self.tell()
        else:
            super().receive(envelope)

    def take(self) -> tuple[Any, int]:
        """Return the next item that has come, and how much credit to grant for what was taken so far."""
        envelope = self.items.popleft()
        self._taken += 1
        item = decode(envelope.body, envelope.buffers)
        credit = 0
        if self._taken >= STREAM_WINDOW // 2:
            credit, self._taken = self._taken, 0
        return item, credit


def again(error: HostError) -> HostError:
    """Return a copy of an error, to be raised.

    What is raised refers through its traceback to the frames that raised it and to the arguments of the call. The
    request must not refer back to it, or all would wait for the cycle collector; and many requests may end with one.
    """
    copy = type(error).__new__(type(error))
    HostError.__init__(copy, error.message, details=error.details)
    if isinstance(copy, ModelError) and copy.traceback:
        copy.__cause__ = _RemoteTraceback(copy.traceback)
    return copy


class _RemoteTraceback(Exception):  # noqa: N818 - as `concurrent.futures` calls its own
    """Shows the model's own traceback above ours, where nobody catches an error."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0].rstrip()}\n"""'


class Tracker:
    """The requests of one client. Its methods return the frames to send."""

    def __init__(self, *, may_await: bool = False) -> None:
        """Begin without requests; `may_await` says whether whoever feeds calls can iterate asynchronously."""
        self._may_await = may_await
        self._pending: dict[int, Pending] = {}
        self._headers: dict[tuple[str, str, bool], bytes] = {}
        self._ids = itertools.count(1)
        self.welcome: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def hello(self) -> tuple[Pending, list[Buffer]]:
        """Return the first message of a connection."""
        pending = self._new(Pending)
        body: dict[str, Any] = {"versions": list(wire.SUPPORTED_VERSIONS), "pid": os.getpid(), "batches": True}
        body["program"] = program_name()
        return pending, msg.pack_map(msg.HELLO, pending.id, body)

    def accept_welcome(self, pending: Pending) -> None:
        """Take what the host said about itself."""
        welcome = pending.result()
        if not isinstance(welcome, dict):
            raise ProtocolError("the host's WELCOME is not a map")
        self.welcome = welcome

    def call(
        self,
        model_id: str,
        method: str,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        timeout_s: float | None,
        whole_for: str = "",
    ) -> tuple[Pending, list[Buffer]]:
        """Return a call of a model's method. Raises `InvalidArgumentError` for arguments that cannot travel.

        `whole_for` is the way of calling for which arguments have to be whole.
        """
        args, kwargs, feeding = self._without_feed(args, kwargs, whole_for)
        body, buffers = encode_call(args, kwargs)
        header = self._headers.get((model_id, method, False)) if feeding is None else None
        header = header or self._header(model_id, method, feeding, streams=False)
        pending = self._new(Pending)
        pending.model_id, pending.feeding = model_id, feeding
        return pending, self._pack(msg.CALL, pending, header, body, buffers, timeout_s)

    def stream(
        self, model_id: str, method: str, args: Sequence[Any], kwargs: dict[str, Any], timeout_s: float | None
    ) -> tuple[PendingStream, list[Buffer]]:
        """Return a call of a method that yields items."""
        args, kwargs, feeding = self._without_feed(args, kwargs)
        body, buffers = encode_call(args, kwargs)
        header = self._headers.get((model_id, method, True)) if feeding is None else None
        header = header or self._header(model_id, method, feeding, streams=True)
        pending = self._new(PendingStream)
        pending.model_id, pending.feeding = model_id, feeding
        return pending, self._pack(msg.STREAM, pending, header, body, buffers, timeout_s)

    def _without_feed(
        self, args: Sequence[Any], kwargs: dict[str, Any], whole_for: str = ""
    ) -> tuple[Sequence[Any], dict[str, Any], Feeding | None]:
        """Return arguments with None in place of a feed, and that."""
        if Feed not in map(type, args) and (not kwargs or Feed not in map(type, kwargs.values())):
            return args, kwargs, None
        feeding = feeding_of(args, kwargs, may_await=self._may_await, whole_for=whole_for)
        args, kwargs = list(args), dict(kwargs)
        if feeding is not None:
            put(args, kwargs, feeding.place, None)
        return args, kwargs, feeding

    # What feeds a call

    def item(self, pending: Pending, item: object) -> tuple[list[Buffer], int]:
        """Return the next item of a call's feed, and its size in bytes.

        Raises `InvalidArgumentError` if it cannot travel or is too large. It is copied: what made it may write into it.
        """
        body, buffers = encode(item)
        kept: list[Buffer] = [each if type(each) is bytes else bytes(each) for each in buffers]
        size_bytes = len(body) + sum(map(len, kept))
        self._check_size(size_bytes)
        return wire.pack(msg.ITEM, pending.id, body=body, buffers=kept), size_bytes

    def verb(self, verb: str, arguments: dict[str, Any], timeout_s: float | None) -> tuple[Pending, list[Buffer]]:
        """Return a request of the control plane."""
        body, buffers = encode(arguments)
        pending = self._new(Pending)
        return pending, self._pack(msg.VERB, pending, msg.pack_verb(verb), body, buffers, timeout_s)

    def subscribe(self, verb: str, arguments: dict[str, Any]) -> tuple[PendingStream, list[Buffer]]:
        """Return a request of the control plane that is answered by items, without end."""
        body, buffers = encode(arguments)
        pending = self._new(PendingStream)
        return pending, self._pack(msg.VERB, pending, msg.pack_verb(verb), body, buffers, None)

    def forget(self, pending: Pending, error: HostError) -> None:
        """End a request here; the host is told with a CANCEL of its id."""
        if self._pending.pop(pending.id, None) is not None:
            pending.fail(error)

    @property
    def has_deadlines(self) -> bool:
        """Whether there are requests that may be overdue some time."""
        return any(each.deadline_s is not None for each in self._pending.values())

    def overdue(self, now: float) -> list[Pending]:
        """Return the requests that are past their own deadline (`Pending.deadline_s`)."""
        requests = [*self._pending.values()]
        return [each for each in requests if each.deadline_s is not None and each.deadline_s + each.grace_s <= now]

    def receive(self, frames: list[Buffer]) -> None:
        """Take one message of the host, or a batch of them."""
        if len(frames) == 1 and frames[0][:1] == _BATCH:
            for message in wire.unpack_batch(frames[0]):
                self._receive_one([message])
        else:
            self._receive_one(frames)

    def _receive_one(self, frames: list[Buffer]) -> None:
        self.answer(wire.unpack(frames))

    def answer(self, envelope: wire.Envelope) -> None:
        """Take what answers a request."""
        kind, id_ = envelope.kind, envelope.id
        is_last = kind not in (msg.ITEM, msg.CREDIT)
        pending = self._pending.pop(id_, None) if is_last else self._pending.get(id_)
        if pending is None:
            return
        if kind == msg.CREDIT:
            pending.asked(msg.unpack_credit(envelope.header))
        else:
            pending.receive(wire.Envelope(msg.RESULT, *envelope[1:]) if kind == msg.WELCOME else envelope)

    def lose(self, error: HostError) -> None:
        """End every request: the connection is gone, and with it every answer."""
        error = again(error)  # it may have been raised, and hold what waits for it
        pending, self._pending = self._pending, {}
        for request in pending.values():
            request.fail(error)

    def _new(self, kind: type[Any]) -> Any:
        # One step for the interpreter: what interrupts this may make a request, too.
        request_id = next(self._ids)
        pending = self._pending[request_id] = kind(request_id)
        return pending

    def _header(self, model_id: str, method: str, feeding: Feeding | None, *, streams: bool) -> bytes:
        target = msg.Target(model_id, method, window=STREAM_WINDOW if streams else 0)
        if feeding is not None:
            return msg.pack_target(target._replace(feed=feeding.place, feed_window=feeding.window))
        header = msg.pack_target(target)
        if len(self._headers) >= _HEADERS_REMEMBERED:
            self._headers.clear()
        self._headers[(model_id, method, streams)] = header
        return header

    def _pack(
        self,
        kind: int,
        pending: Pending,
        header: bytes,
        body: Buffer,
        buffers: Sequence[Buffer],
        timeout_s: float | None,
    ) -> list[Buffer]:
        try:
            deadline_ms = wire.MAX_DEADLINE_MS
            if timeout_s is not None:
                deadline_ms = int(min(max(1, timeout_s * 1000), wire.MAX_DEADLINE_MS - 1))
            if buffers or len(body) > wire.INLINE_BODY_BYTES:
                self._check_size(sum(map(len, buffers)) + len(body))
            return wire.pack(kind, pending.id, header, body, buffers, deadline_ms)
        except BaseException:
            del self._pending[pending.id]
            raise

    def _check_size(self, size_bytes: int) -> None:
        # Checked here, because the host's socket answers what is over its limit by closing the connection.
        limit = self.welcome.get("max_message_bytes", size_bytes)
        if size_bytes > limit:
            raise MessageTooLargeError(
                f"the request has {size_bytes} bytes, the host accepts {limit} (limits.max_message_bytes): "
                f"send less at a time, or raise the limit",
                details={"size_bytes": size_bytes, "limit_bytes": limit},
            )
