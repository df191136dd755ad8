"""One connection of HTTP/2, as a server has it.

Rules
1. What a peer may not send (RFC 9113), and after which both sides could disagree, ends its connection, with a word that
   says why, and nothing else.
2. What a peer may have us hold is bounded: a head by `MAX_HEAD_BYTES`; streams by `MAX_STREAMS`, and one that its peer
   has reset counts until its `release`; the bytes of a stream that nobody has taken by `STREAM_BYTES`. What is made of
   these bytes, and what of answers waits, others bound.
3. The window of the connection is given back as bytes come; that of a stream as they are taken (`grant`).
4. What costs as much as there are streams is done once for all that has come together, however many frames ask for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic

from hostd.fronts.http2 import frames
from hostd.fronts.http2.events import Began, BrokenRuleError, Ended, Received, T
from hostd.fronts.http2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FIRST_WINDOW_BYTES,
    FLOW_CONTROL_ERROR,
    FRAME_BYTES,
    FRAME_SIZE_ERROR,
    HAS_PRIORITY,
    MAX_FRAME_BYTES,
    MAX_WINDOW_BYTES,
    NO_ERROR,
    PADDED,
    PREFACE,
    PRELUDE,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    STREAM_CLOSED,
    STREAM_MASK,
)
from hostd.fronts.http2.heads import MAX_HEAD_BYTES, Heads
from hostd.fronts.http2.sending import Sending
from hostd.fronts.http2.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from hostd.fronts.http2.events import Event
    from hostd.fronts.http2.heads import Fields

MAX_STREAMS: Final = 1024
"""Requests of one connection at a time; its client lets more wait. As many as a model takes by default."""

STREAM_BYTES: Final = 1 << 20
CONNECTION_BYTES: Final = 16 << 20
"""What may be on its way: more than a fast network holds."""

_SIZES: Final = {
    frames.PRIORITY: 5,
    frames.RST_STREAM: 4,
    frames.PING: 8,
    frames.WINDOW_UPDATE: 4,
}
"""The bytes of frames that have always as many."""

_OF_CONNECTION: Final = (frames.SETTINGS, frames.PING, frames.GOAWAY)
_OF_STREAM: Final = (frames.DATA, frames.HEADERS, frames.PRIORITY, frames.RST_STREAM, frames.CONTINUATION)
_PRIORITY_BYTES: Final = 5
_SETTING_BYTES: Final = 6


class Connection(Generic[T]):
    """The state of a connection. What `take` returns goes to the peer, in that order."""

    def __init__(self, read_head: Callable[[Fields], T]) -> None:
        """Make of each head what `read_head` returns; of heads that repeat once."""
        self.is_leaving = False
        """Whether requests that begin from now on are refused."""
        self.is_over = False
        """Whether the peer has broken the protocol: what there is to send says why, and is the last."""
        self._heads = Heads(read_head)
        self._sending = Sending()
        self._rest = b""
        self._is_greeted = False
        self._allowed_bytes = CONNECTION_BYTES
        self._ungranted_bytes = 0
        self._held_streams = 0
        self._last_id = 0
        self._block: tuple[int, int, bytearray] | None = None
        """Stream, flags and bytes of a head that has not come whole."""
        self._new_first_room_bytes: int | None = None
        self._handlers = {
            frames.DATA: self._on_data,
            frames.HEADERS: self._on_headers,
            frames.RST_STREAM: self._on_rst_stream,
            frames.SETTINGS: self._on_settings,
            frames.PUSH_PROMISE: self._on_push_promise,
            frames.PING: self._on_ping,
            frames.WINDOW_UPDATE: self._on_window_update,
            frames.CONTINUATION: self._on_continuation,
        }
        ours = (
            (frames.MAX_CONCURRENT_STREAMS, MAX_STREAMS),
            (frames.INITIAL_WINDOW_SIZE, STREAM_BYTES),
            (frames.MAX_HEADER_LIST_SIZE, MAX_HEAD_BYTES),
        )
        self._send(frames.settings_frame(ours) + frames.window_update(0, CONNECTION_BYTES - FIRST_WINDOW_BYTES))

    def __repr__(self) -> str:
        return f"<Connection {self._sending!r} held={self._held_streams}>"

    @property
    def streams(self) -> Collection[Stream]:
        """The streams whose response has not ended."""
        return self._sending.streams.values()

    @property
    def ready_frames(self) -> int:
        """How many frames `take` would return."""
        return len(self._sending.frames)

    @property
    def has_more(self) -> bool:
        """Whether `go_on` would find more at once."""
        return self._sending.has_more and self._sending.can_go_on

    @property
    def is_greeted(self) -> bool:
        """Whether the peer has said that it speaks HTTP/2."""
        return self._is_greeted

    @property
    def is_amid_head(self) -> bool:
        """Whether the rest of a head has to come."""
        return self._block is not None

    def receive(self, data: bytes) -> list[Event[T]]:
        """Take what has come from the peer; return what it has done."""
        events: list[Event[T]] = []
        if self.is_over:
            return events
        data = self._rest + data if self._rest else data
        try:
            position = self._take_frames(data, 0 if self._is_greeted else self._greet(data), events)
            if self._new_first_room_bytes is not None:
                self._sending.set_first_room(self._new_first_room_bytes)
                self._new_first_room_bytes = None
        except BrokenRuleError as error:
            self.is_over = True
            self._send(frames.goaway(self._last_id, error.code, error.why))
        else:
            self._rest = data[position:]
        return events

    def take(self) -> bytes:
        """Return what is ready for the peer, once."""
        ready, self._sending.frames = self._sending.frames, []
        return ready[0] if len(ready) == 1 else b"".join(ready)

    def send_head(self, stream: Stream, block: bytes) -> None:
        """Send the head of a response."""
        if not stream.is_ended:
            self._sending.head(stream, block)

    def has_room(self, stream: Stream, size_bytes: int) -> bool:
        """Say whether so many bytes of a body would go at once."""
        return self._sending.has_room(stream, size_bytes)

    def send_data(self, stream: Stream, data: bytes) -> None:
        """Send a part of a body; what does not go at once waits (`Stream.waiting`) for `go_on`."""
        if not stream.is_ended:
            self._sending.data(stream, data)

    def end(self, stream: Stream, block: bytes) -> None:
        """End a response, with trailers or with a head that is all of it, after what waits."""
        if not stream.is_ended:
            self._sending.end(stream, block)

    def reset(self, stream: Stream, code: int) -> None:
        """End a stream at once, and drop what waits."""
        if not stream.is_ended:
            self._send(frames.rst_stream(stream.id, code))
            self._sending.forget(stream)

    def grant(self, stream: Stream, size_bytes: int) -> None:
        """Say that so many bytes of a stream are taken: as many more may come."""
        stream.ungranted_bytes += size_bytes
        if stream.ungranted_bytes * 2 >= STREAM_BYTES and not stream.is_whole and not stream.is_ended:
            self._send(frames.window_update(stream.id, stream.ungranted_bytes))
            stream.allowed_bytes += stream.ungranted_bytes
            stream.ungranted_bytes = 0

    def release(self) -> None:
        """Say that nothing works for one of the streams any more; call it once for each that began."""
        self._held_streams -= 1

    def hold(self, *, is_held: bool) -> None:
        """Make no data ready while the transport is full."""
        self._sending.is_held = is_held

    def go_on(self) -> list[Stream]:
        """Make ready what has waited and has room; return the streams of which nothing waits any more."""
        return self._sending.go_on() if self._sending.can_go_on else []

    def ping(self) -> None:
        """Ask whether the peer is there; anything that it sends says so."""
        self._send(frames.frame(frames.PING, 0, 0, bytes(_SIZES[frames.PING])))

    def leave(self) -> None:
        """Take no new requests, and say so."""
        self.is_leaving = True
        self._send(frames.goaway(self._last_id, NO_ERROR, "this front ends"))

    def _send(self, frame: bytes) -> None:
        self._sending.frames.append(frame)

    def _greet(self, data: bytes) -> int:
        if data[: len(PREFACE)] != PREFACE[: len(data)]:
            raise BrokenRuleError(PROTOCOL_ERROR, "this address speaks HTTP/2 alone")
        self._is_greeted = len(data) >= len(PREFACE)
        return len(PREFACE) if self._is_greeted else 0

    def _take_frames(self, data: bytes, position: int, events: list[Event[T]]) -> int:
        """Take whole frames from a position on; return where the first begins that is not whole."""
        end = len(data)
        while self._is_greeted and end - position >= PRELUDE.size:
            high, low, kind, flags, stream_id = PRELUDE.unpack_from(data, position)
            length = high << 8 | low
            if length > FRAME_BYTES:
                raise BrokenRuleError(FRAME_SIZE_ERROR, f"a frame has at most {FRAME_BYTES} bytes")
            begin = position + PRELUDE.size
            if end - begin < length:
                break
            position = begin + length
            self._take_frame(kind, flags, stream_id & STREAM_MASK, data[begin:position], events)
        return position

    def _take_frame(self, kind: int, flags: int, stream_id: int, payload: bytes, events: list[Event[T]]) -> None:
        if self._block is not None and (kind != frames.CONTINUATION or stream_id != self._block[0]):
            raise BrokenRuleError(PROTOCOL_ERROR, "the rest of a head has to come first")
        if len(payload) != _SIZES.get(kind, len(payload)):
            raise BrokenRuleError(FRAME_SIZE_ERROR, f"a frame of kind {kind} has {_SIZES[kind]} bytes")
        if kind in (_OF_CONNECTION if stream_id else _OF_STREAM):
            raise BrokenRuleError(PROTOCOL_ERROR, f"a frame of kind {kind} is not for stream {stream_id}")
        handler = self._handlers.get(kind)
        if handler is not None:
            handler(flags, stream_id, payload, events)

    def _on_data(self, flags: int, stream_id: int, payload: bytes, events: list[Event[T]]) -> None:
        size_bytes = len(payload)
        self._allowed_bytes -= size_bytes
        if self._allowed_bytes < 0:
            raise BrokenRuleError(FLOW_CONTROL_ERROR, "the window of the connection is used up")
        self._ungranted_bytes += size_bytes
        if self._ungranted_bytes * 4 >= CONNECTION_BYTES:
            self._send(frames.window_update(0, self._ungranted_bytes))
            self._allowed_bytes += self._ungranted_bytes
            self._ungranted_bytes = 0
        stream = self._stream(stream_id)
        if stream is None:
            return  # it has been answered already
        if stream.is_whole:
            raise BrokenRuleError(STREAM_CLOSED, f"stream {stream_id} was ended before")
        stream.allowed_bytes -= size_bytes
        if stream.allowed_bytes < 0:
            raise BrokenRuleError(FLOW_CONTROL_ERROR, f"the window of stream {stream_id} is used up")
        data = _unpadded(flags, payload)
        stream.is_whole = bool(flags & END_STREAM)
        if len(data) < size_bytes:
            self.grant(stream, size_bytes - len(data))
        events.append(Received(stream, data, stream.is_whole))

    def _on_headers(self, flags: int, stream_id: int, payload: bytes, events: list[Event[T]]) -> None:
        block = _unpadded(flags, payload)
        if flags & HAS_PRIORITY:
            if len(block) < _PRIORITY_BYTES:
                raise BrokenRuleError(FRAME_SIZE_ERROR, "a head is too short for its priority")
            block = block[_PRIORITY_BYTES:]
        if flags & END_HEADERS:
            self._take_head(stream_id, flags, block, events)
        else:
            self._block = (stream_id, flags, bytearray(block))

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes, events: list[Event[T]]) -> None:
        if self._block is None:
            raise BrokenRuleError(PROTOCOL_ERROR, "no head has begun")
        _, first_flags, block = self._block
        block += payload
        is_last = bool(flags & END_HEADERS)
        # What frames without bytes cost counts, too.
        if len(block) > MAX_HEAD_BYTES or not (payload or is_last):
            raise BrokenRuleError(ENHANCE_YOUR_CALM, f"a head has at most {MAX_HEAD_BYTES} bytes, and each part some")
        if is_last:
            self._block = None
            self._take_head(stream_id, first_flags, bytes(block), events)

    def _take_head(self, stream_id: int, flags: int, block: bytes, events: list[Event[T]]) -> None:
        is_whole = bool(flags & END_STREAM)
        head = self._heads.read(block)  # in any case: it may change the table
        if stream_id <= self._last_id:
            self._take_trailers(stream_id, is_whole=is_whole, events=events)
            return
        if not stream_id & 1:
            raise BrokenRuleError(PROTOCOL_ERROR, "clients' streams have odd numbers")
        self._last_id = stream_id
        if self.is_leaving or max(self._held_streams, len(self._sending.streams)) >= MAX_STREAMS:
            self._send(frames.rst_stream(stream_id, REFUSED_STREAM))
            return
        self._held_streams += 1
        stream = Stream(stream_id, self._sending.first_room_bytes, STREAM_BYTES, is_whole)
        self._sending.streams[stream_id] = stream
        events.append(Began(stream, head, is_whole))

    def _take_trailers(self, stream_id: int, *, is_whole: bool, events: list[Event[T]]) -> None:
        stream = self._stream(stream_id)
        if stream is None:
            return
        if stream.is_whole:
            raise BrokenRuleError(STREAM_CLOSED, f"stream {stream_id} was ended before")
        if not is_whole:
            raise BrokenRuleError(PROTOCOL_ERROR, "a second head has to end its stream")
        stream.is_whole = True
        events.append(Received(stream, b"", is_last=True))

    def _on_rst_stream(self, _flags: int, stream_id: int, _payload: bytes, events: list[Event[T]]) -> None:
        stream = self._stream(stream_id)
        if stream is not None:
            self._sending.forget(stream)
            events.append(Ended(stream))

    def _on_settings(self, flags: int, _stream_id: int, payload: bytes, _events: list[Event[T]]) -> None:
        if len(payload) % _SETTING_BYTES or (flags & ACK and payload):
            raise BrokenRuleError(FRAME_SIZE_ERROR, f"settings have {_SETTING_BYTES} bytes each")
        if flags & ACK:
            return
        for name, value in frames.settings_of(payload):
            self._set(name, value)
        self._send(frames.frame(frames.SETTINGS, ACK, 0))

    def _set(self, name: int, value: int) -> None:
        if name == frames.INITIAL_WINDOW_SIZE:
            if value > MAX_WINDOW_BYTES:
                raise BrokenRuleError(FLOW_CONTROL_ERROR, "a window is too large")
            self._new_first_room_bytes = value
        elif name == frames.MAX_FRAME_SIZE:
            if not FRAME_BYTES <= value <= MAX_FRAME_BYTES:
                raise BrokenRuleError(PROTOCOL_ERROR, "no frames have such a size")
            self._sending.frame_bytes = value
        elif name == frames.HEADER_TABLE_SIZE:
            self._sending.use_no_table()
        elif name == frames.ENABLE_PUSH and value > 1:
            raise BrokenRuleError(PROTOCOL_ERROR, "ENABLE_PUSH is 0 or 1")

    def _on_push_promise(self, _flags: int, _stream_id: int, _payload: bytes, _events: list[Event[T]]) -> None:
        raise BrokenRuleError(PROTOCOL_ERROR, "clients promise nothing")

    def _on_ping(self, flags: int, _stream_id: int, payload: bytes, _events: list[Event[T]]) -> None:
        if not flags & ACK:
            self._send(frames.frame(frames.PING, ACK, 0, payload))

    def _on_window_update(self, _flags: int, stream_id: int, payload: bytes, _events: list[Event[T]]) -> None:
        size_bytes = frames.u32_of(payload) & STREAM_MASK
        if not size_bytes:
            raise BrokenRuleError(PROTOCOL_ERROR, "a window grows by a byte at least")
        stream = self._stream(stream_id) if stream_id else None
        if stream is not None or not stream_id:
            self._sending.add_room(stream, size_bytes)

    def _stream(self, stream_id: int) -> Stream | None:
        """Return a stream; None for one that has ended."""
        if stream_id > self._last_id:
            raise BrokenRuleError(PROTOCOL_ERROR, f"stream {stream_id} has not begun")
        return self._sending.streams.get(stream_id)


def _unpadded(flags: int, payload: bytes) -> bytes:
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise BrokenRuleError(PROTOCOL_ERROR, "there is more padding than frame")
    return payload[1 : len(payload) - payload[0]]
