"""A connection of gRPC: its bytes, its calls, and how long a client may keep it waiting.

Rules
1. A client that has not said that it speaks HTTP/2 after `HEAD_LOOKS`, or not sent the rest of a head, is let go; a
   call whose message comes more slowly than `MIN_BODY_RATE` is ended.
2. A connection that takes nothing of what waits for it for `READ_LOOKS` is ended, and so is a stream.
3. A client whose calls run, and that has sent nothing for `SILENT_LOOKS`, is asked whether it is there: of a machine
   that has lost its power nothing tells.
4. While its transport is full nothing is read of a client: who reads no answers gets no more of them made.

Looks are `LOOK_S` apart, and counted, so that a front that stood still blames nobody.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from hostd.fronts.grpc.call import Call
from hostd.fronts.grpc.exchange import Exchange
from hostd.fronts.grpc.heads import BEGIN, failure, refusal
from hostd.fronts.http2.events import Began, Ended
from hostd.fronts.http2.frames import CANCEL
from hostd.fronts.unread import unread_bytes_of
from hostd_workers.wire.errors import HostError

if TYPE_CHECKING:
    from hostd.fronts.grpc.exchange import Served
    from hostd.fronts.grpc.heads import Head
    from hostd.fronts.http2.events import Event
    from hostd.fronts.http2.stream import Stream

LOOK_S: Final = 5.0
HEAD_LOOKS: Final = 6
"""What a slow network needs for a head is a second or two."""

BODY_LOOKS: Final = 6
MIN_BODY_RATE: Final = 1024
"""Bytes a second of a message, looked at every `BODY_LOOKS`: a modem of 1995 is faster."""

READ_LOOKS: Final = 12
CLOSING_LOOKS: Final = 3
"""After so many what waits for a connection that is being closed is dropped."""

SILENT_LOOKS: Final = 12
GONE_LOOKS: Final = 16
"""After so many without a byte, one of them asked for, a client is not there."""

_NOT_HTTP_2: Final = (
    b"HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n"
    b"This address speaks gRPC, by HTTP/2 alone. For curl and browsers there is fronts.http.\n"
)


class Protocol(asyncio.BufferedProtocol):
    """One connection."""

    exchange: Exchange

    def __init__(self, served: Served, protocols: set[Protocol], buffer: memoryview) -> None:
        """Be in `protocols` for as long as the connection is there.

        What is read into `buffer` is taken out before anything else is done, so all connections may have the same. Its
        size is what a client may have done before others get their turn.
        """
        self._served = served
        self._protocols = protocols
        self._buffer = buffer
        self._calls: dict[int, Call] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._looks = 0
        self._head_looks = 0
        self._full_looks = 0
        self._silent_looks = 0
        self._closing_looks = 0
        self._is_full = False
        self._unread_bytes = 0

    def __repr__(self) -> str:
        return f"<Protocol calls={len(self._calls)}>"

    # The transport's side

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the client's greeting: who speaks another protocol would not understand ours."""
        self.exchange = Exchange(self._served, transport, self._calls)
        self._protocols.add(self)

    def connection_lost(self, _error: Exception | None) -> None:
        """Drop all calls."""
        self._protocols.discard(self)
        for call in self._calls.values():
            call.drop()
        self._calls.clear()

    def get_buffer(self, _size_bytes: int) -> memoryview:
        """Return where what comes is read into."""
        return self._buffer

    def buffer_updated(self, size_bytes: int) -> None:
        """Take what has come."""
        self._silent_looks = 0
        connection = self.exchange.connection
        for event in connection.receive(bytes(self._buffer[:size_bytes])):
            self._take(event)
        if connection.is_over:
            self._say_goodbye()
        else:
            self.exchange.flush()

    def pause_writing(self) -> None:
        """Make no more ready, and read no more."""
        self._is_full = True
        self.exchange.connection.hold(is_held=True)
        self.exchange.transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        self._is_full = False
        if not self.exchange.transport.is_closing():
            self.exchange.transport.resume_reading()
        self.exchange.connection.hold(is_held=False)
        self.exchange.flush()

    # The server's side

    @property
    def is_idle(self) -> bool:
        """Whether no call runs, and nothing waits for the client."""
        return not self._running and not self.exchange.transport.get_write_buffer_size()

    def leave(self) -> None:
        """Take no new calls."""
        self.exchange.connection.leave()
        self.exchange.flush()

    def cancel(self) -> None:
        """Have the calls that run say that they end."""
        for task in self._running:
            task.cancel()

    def close(self) -> None:
        """End the connection when what is ready has gone."""
        self.exchange.transport.close()

    def abort(self) -> None:
        """End the connection now."""
        self.exchange.transport.abort()

    def look(self) -> None:
        """Let go who keeps this waiting."""
        self._looks += 1
        connection, transport = self.exchange.connection, self.exchange.transport
        self._head_looks = self._head_looks + 1 if connection.is_amid_head or not connection.is_greeted else 0
        before_bytes, self._unread_bytes = self._unread_bytes, unread_bytes_of(transport)
        has_read = self._unread_bytes < before_bytes
        self._full_looks = self._full_looks + 1 if self._is_full and not has_read else 0
        self._silent_looks = 0 if has_read else self._silent_looks + 1
        self._closing_looks += transport.is_closing()
        is_busy = bool(self._running)
        is_stuck = self._full_looks >= READ_LOOKS or self._closing_looks >= CLOSING_LOOKS
        if is_stuck or (is_busy and self._silent_looks >= GONE_LOOKS):
            transport.abort()
        elif self._head_looks >= HEAD_LOOKS:
            transport.close()
        elif is_busy and self._silent_looks == SILENT_LOOKS:
            connection.ping()
        self._look_at_streams()
        if self._looks % BODY_LOOKS == 0:
            self._look_at_bodies()
        self.exchange.flush()

    def _look_at_streams(self) -> None:
        for stream in list(self.exchange.connection.streams):
            if stream.waiting and not self._is_full:  # or it waits for the connection
                stream.stalled_looks += 1
                if stream.stalled_looks >= READ_LOOKS:
                    self._end(stream)

    def _look_at_bodies(self) -> None:
        for call in list(self._calls.values()):
            if call.is_amid_message and call.received_bytes < MIN_BODY_RATE * BODY_LOOKS * LOOK_S:
                self._end(call.stream)
            call.received_bytes = 0

    # Events

    def _take(self, event: Event[Head]) -> None:
        if isinstance(event, Began):
            self._begin(event.stream, event.head)
            if event.is_whole:
                self._on_data(event.stream, b"", is_last=True)
        elif isinstance(event, Ended):
            self._drop(event.stream)
        else:
            self._on_data(event.stream, event.data, is_last=event.is_last)

    def _begin(self, stream: Stream, head: Head) -> None:
        if head.http_status != 200:
            self.exchange.end(stream, refusal(head.http_status))
            self.exchange.connection.release()
            return
        try:
            call = self._calls[stream.id] = Call(self.exchange, stream, head)
        except HostError as error:
            self.exchange.end(stream, BEGIN + failure(error))
            self.exchange.connection.release()
        else:
            self._start_if_ready(call)

    def _on_data(self, stream: Stream, data: bytes, *, is_last: bool) -> None:
        call = self._calls.get(stream.id)
        if call is None:
            return
        try:
            call.on_data(data, is_last=is_last)
        except HostError as error:
            call.refuse(error)
            self._drop(stream)
        else:
            self._start_if_ready(call)

    def _start_if_ready(self, call: Call) -> None:
        if call.is_ready and call.task is None:
            call.task = asyncio.get_running_loop().create_task(call.run())
            self._running.add(call.task)
            call.task.add_done_callback(lambda task: self._on_done(call, task))

    def _on_done(self, call: Call, task: asyncio.Task[None]) -> None:
        self._calls.pop(call.stream.id, None)
        self._running.discard(task)
        self.exchange.connection.release()

    def _end(self, stream: Stream) -> None:
        self.exchange.connection.reset(stream, CANCEL)
        self._drop(stream)

    def _drop(self, stream: Stream) -> None:
        call = self._calls.pop(stream.id, None)
        if call is not None:
            call.drop()
            if call.task is None:
                self.exchange.connection.release()

    def _say_goodbye(self) -> None:
        self.exchange.flush()
        if not self.exchange.connection.is_greeted:
            self.exchange.transport.write(_NOT_HTTP_2)
        self.exchange.transport.close()
