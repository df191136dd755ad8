"""One client at the worker's end of the lane: a UNIX socket, and the calls that come over it.

Rules
1. A connection that floods, stalls, sends garbage or half a message hurts only itself: it has its own queue of calls,
   nothing is done for it while too many of its answers wait, and it ends for what is not of this protocol.
2. Every call gets exactly one answer. What comes after the lanes were closed is answered with NOT_BEGUN: its client
   sends it to the host, which knows what to do.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, TypeAlias

from hostd_workers.process.forked import leave_if_child
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.errors import ProtocolError
from hostd_workers.wire.feeds import FEED_BYTES
from hostd_workers.wire.lane.link import Link
from hostd_workers.wire.lane.page import CANCELLED, FAILED, SUCCEEDED
from hostd_workers.wire.lane.spare import Spare
from hostd_workers.wire.light import NamedTuple
from hostd_workers.wire.shares import Shares, capacity_for, too_long, too_many

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from hostd_workers.calls.runtime import Runtime
    from hostd_workers.wire.frames import Buffer
    from hostd_workers.wire.lane.page import Writer

WAITING_BYTES: Final = 1 << 20
"""Of answers that a client has not taken: above that nothing more is done for it."""


class Limits(NamedTuple):
    """What a client may have under way, as the host has it for calls that come by the host."""

    model_id: str
    max_in_flight: int
    max_in_flight_bytes: int
    max_message_bytes: int


class Books:
    """What all lanes of a worker have under way, by process, and what the host may know of it."""

    def __init__(self, limits: Limits, page: Writer) -> None:
        self.limits = limits
        self.page = page
        self.spare = Spare()
        self.capacity = capacity_for(limits.max_in_flight)
        self.calls: Shares[int] = Shares()
        self.bytes: Shares[int] = Shares()
        self.written: dict[Lane, None] = {}
        """Those with answers that are to be sent."""
        self.on_written: Callable[[], None] | None = None
        """What is called when there are some again; the loop that runs calls itself looks without that."""


_Call: TypeAlias = tuple[bytes, int, int]
"""The header of a call, its size in bytes, and when it began in ns; a class of its own takes ten times as long."""


class Lane:
    """A connection. It answers nothing before the client was let in (`serve`)."""

    __slots__ = (
        "_books",
        "_calls",
        "_cancelled",
        "_link",
        "_runtime",
        "fd",
        "is_closed",
        "is_held",
        "is_leaving",
        "pid",
        "watched",
    )

    def __init__(self, connection: socket.socket, pid: int, buffer: memoryview, books: Books) -> None:
        """Take the socket, the process at its other end, and the buffer and books that all lanes share."""
        self._link = Link(connection, buffer, books.limits.max_message_bytes, books.spare)
        self.fd = self._link.fd
        self.pid = pid
        self._books = books
        self._runtime: Runtime | None = None
        self._calls: dict[int, _Call] = {}
        self._cancelled: set[int] = set()
        """Those of them whose client has cancelled them."""
        self.is_closed = False
        self.is_held = False
        """Whether it is not read for a while."""
        self.is_leaving = False
        """Whether its client is being told that nothing else was begun."""
        self.watched = 0
        """What of it the system is asked about."""

    def __repr__(self) -> str:
        return f"<Lane {self.fd} of {self.pid}: {len(self._calls)} calls, {self._link.waiting_bytes} bytes wait>"

    @property
    def is_idle(self) -> bool:
        """Whether all that it asked for is done and has left."""
        return not self._calls and (self.is_leaving or not self._link.wants_to_send)

    @property
    def is_choked(self) -> bool:
        """Whether its client does not take what it asked for."""
        return self._link.waiting_bytes > WAITING_BYTES

    @property
    def unfinished_bytes(self) -> int:
        """How many bytes of a long message have come that is not whole."""
        return self._link.unfinished_bytes

    @property
    def holds_memory(self) -> bool:
        """Whether memory of its client may be in use here."""
        return self._link.has_used

    @property
    def wants_to_send(self) -> bool:
        """Whether answers wait for the client to take others."""
        return self._link.wants_to_send

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to do."""
        return self._link.waiting_bytes <= WAITING_BYTES and self._runtime is not None and self._runtime.has_work

    def serve(self, runtime: Runtime) -> None:
        """Let the client in."""
        self._runtime = runtime

    # What comes

    def receive(self) -> list[wire.Envelope]:
        """Return what has come. Raises `EOFError` at the end, `HostError` for what no client of ours sends."""
        return self._link.receive()

    def accept(self, envelope: wire.Envelope, *, is_open: bool) -> None:
        """Take in a message of a client that was let in. Raises `ProtocolError` for what it may not send."""
        runtime, kind = self._runtime, envelope.kind
        if kind in (msg.CALL, msg.STREAM):
            if is_open and runtime is not None:
                self._begin(runtime, envelope)
            else:
                self.send(wire.pack(msg.NOT_BEGUN, envelope.id))
        elif kind in (msg.CANCEL, msg.CREDIT, msg.ITEM, msg.END, msg.ERROR):
            if runtime is not None:
                if kind == msg.CANCEL and envelope.id in self._calls:
                    self._cancelled.add(envelope.id)
                runtime.accept(envelope)
        else:
            raise ProtocolError(f"a client may not send a worker messages of kind {kind}")

    def _begin(self, runtime: Runtime, envelope: wire.Envelope) -> None:
        books, id_ = self._books, envelope.id
        if id_ in self._calls:
            raise ProtocolError(f"request id {id_} is in use by another call")
        limits, buffers = books.limits, envelope.buffers
        size_bytes = len(envelope.body) + (sum(map(len, buffers)) if buffers else 0)
        if msg.has_feed(envelope.header):
            size_bytes += FEED_BYTES
        pid, calls = self.pid, books.calls
        if not calls.ask(pid, 1, books.capacity):
            error = too_many(limits.model_id, calls.total, calls.of(pid), limits.max_in_flight, "in flight")
            self.send(msg.pack_error(id_, error))
            return
        if not books.bytes.ask(pid, size_bytes, limits.max_in_flight_bytes):
            calls.give_back(pid)
            self.send(msg.pack_error(id_, too_long(books.bytes, pid, size_bytes, limits.max_in_flight_bytes)))
            return
        books.page.begun(size_bytes)
        now_ns = time.monotonic_ns()
        self._calls[id_] = (envelope.header, size_bytes, now_ns)
        runtime.accept(envelope, now_ns)

    def step(self) -> None:
        """Run one call, if there is one."""
        if self._runtime is not None:
            self._runtime.step()

    # What goes

    def send(self, frames: list[Buffer]) -> None:
        """Have a message sent with the next `flush`, an array at once; what ends a call is counted."""
        leave_if_child()  # before anything is counted: the page is shared
        if self.is_closed:
            return
        books = self._books
        if self not in books.written:
            books.written[self] = None
            if books.on_written is not None:
                books.on_written()
        self._link.send(frames)
        if len(frames) > 1:
            self._link.flush()  # at once: the model may write into what it has returned when it is called again
        first = frames[0]
        if first[0] != msg.ITEM and first[0] != msg.CREDIT:
            id_ = wire.id_of(first)
            call = self._calls.pop(id_, None)
            if call is not None:
                was_cancelled = bool(self._cancelled) and id_ in self._cancelled
                if was_cancelled:
                    self._cancelled.discard(id_)
                failed = CANCELLED if was_cancelled else FAILED
                self._count(call, failed if first[0] == msg.ERROR else SUCCEEDED)

    def _count(self, call: _Call, outcome: int) -> None:
        books, now_ns, (header, size_bytes, began_ns) = self._books, time.monotonic_ns(), call
        books.calls.give_back(self.pid)
        books.bytes.give_back(self.pid, size_bytes)
        method = None if self._runtime is None else self._runtime.method_of(header)
        books.page.ended(method, size_bytes, now_ns - began_ns, now_ns, outcome)

    def flush(self) -> None:
        """Send what waits, as far as the client takes it."""
        self._link.flush()

    def close(self) -> None:
        """End the connection, and what goes on for it."""
        self.is_closed = True
        if self._runtime is not None:
            self._runtime.drop()
        for call in self._calls.values():
            self._count(call, CANCELLED)
        self._calls.clear()
        self._link.close()
