"""What goes to a peer: no more than it has room for, all streams in turn.

What has room leaves at once. What has none waits with its stream, and so do the trailers behind it. Of what waits,
`PASS_BYTES` are made ready at a time (`go_on`): a large answer is not copied whole, and others get their turn.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from hostd.fronts.http2.events import BrokenRuleError
from hostd.fronts.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    FIRST_WINDOW_BYTES,
    FLOW_CONTROL_ERROR,
    FRAME_BYTES,
    HEADERS,
    MAX_WINDOW_BYTES,
    NO_ERROR,
    frame,
    rst_stream,
)

if TYPE_CHECKING:
    from hostd.fronts.http2.stream import Stream

PASS_BYTES: Final = 1 << 20

_NO_TABLE: Final = b"\x20"
"""What a block begins with that says: no table is used (RFC 7541, 6.3)."""


class Sending:
    """The streams of a connection that have not ended, and the frames that are ready to go."""

    def __init__(self) -> None:
        self.streams: dict[int, Stream] = {}
        self.frames: list[bytes] = []
        self.frame_bytes = FRAME_BYTES
        self.first_room_bytes = FIRST_WINDOW_BYTES
        self.is_held = False
        """Whether the transport is full: then no data is made ready."""
        self.has_more = False
        """Whether the last pass has left what had room."""
        self._room_bytes = FIRST_WINDOW_BYTES
        self._waiting: dict[int, Stream] = {}
        self._prefix = b""

    def __repr__(self) -> str:
        return f"<Sending streams={len(self.streams)} waiting={len(self._waiting)}>"

    def head(self, stream: Stream, block: bytes) -> None:
        """Send the head of a response."""
        self._send_block(stream, block, END_HEADERS)

    def has_room(self, stream: Stream, size_bytes: int) -> bool:
        """Say whether so many bytes of a body go at once."""
        return not stream.waiting and not self.is_held and size_bytes <= self._room_of(stream)

    def data(self, stream: Stream, data: bytes) -> None:
        """Send a part of a body; what has no room, or needs several frames, waits for `go_on`."""
        if self.has_room(stream, len(data)):
            self._room_bytes -= len(data)
            stream.room_bytes -= len(data)
            self.frames.append(frame(DATA, 0, stream.id, data))
        elif data:
            stream.waiting.append(memoryview(data))
            self._waiting[stream.id] = stream

    def end(self, stream: Stream, block: bytes) -> None:
        """End a response with trailers, or with a head that is all of it."""
        if stream.waiting:
            stream.trailers = stream.trailers or block
            return
        self._send_block(stream, block, END_HEADERS | END_STREAM)
        if not stream.is_whole:  # the rest of the request is not wanted
            self.frames.append(rst_stream(stream.id, NO_ERROR))
        self.forget(stream)

    def forget(self, stream: Stream) -> None:
        """Send nothing more of a stream."""
        stream.is_ended = True
        stream.waiting.clear()
        self.streams.pop(stream.id, None)
        self._waiting.pop(stream.id, None)

    @property
    def can_go_on(self) -> bool:
        """Whether `go_on` might find something."""
        return bool(self._waiting) and not self.is_held and self._room_bytes > 0

    def go_on(self) -> list[Stream]:
        """Send what has room by now, a frame of each stream in turn; return those of which nothing waits any more."""
        drained: list[Stream] = []
        turns = deque(self._waiting.values()) if self.can_go_on else deque()
        left_bytes = PASS_BYTES
        while turns and left_bytes > 0:
            stream = turns.popleft()
            room_bytes = self._room_of(stream)
            if room_bytes <= 0:
                continue  # it gets none in this pass
            left_bytes -= self._send_piece(stream, room_bytes)
            del self._waiting[stream.id]
            if stream.waiting:
                self._waiting[stream.id] = stream  # behind the others, also in the next pass
                turns.append(stream)
                continue
            drained.append(stream)
            if stream.trailers is not None:
                self.end(stream, stream.trailers)
        self.has_more = bool(turns)
        return drained

    def add_room(self, stream: Stream | None, size_bytes: int) -> None:
        """Let a stream, or the connection, have so much more room. Raises `BrokenRuleError` if that is too much."""
        if stream is None:
            self._room_bytes += size_bytes
        else:
            stream.room_bytes += size_bytes
        if (self._room_bytes if stream is None else stream.room_bytes) > MAX_WINDOW_BYTES:
            raise BrokenRuleError(FLOW_CONTROL_ERROR, "a window is too large")

    def set_first_room(self, size_bytes: int) -> None:
        """Have streams begin with so much room; those that there are get or lose the difference."""
        more_bytes, self.first_room_bytes = size_bytes - self.first_room_bytes, size_bytes
        for stream in self.streams.values():
            self.add_room(stream, more_bytes)

    def use_no_table(self) -> None:
        """Say in the next block that no table is used: who makes theirs smaller expects to be told."""
        self._prefix = _NO_TABLE

    def _room_of(self, stream: Stream) -> int:
        return min(self._room_bytes, stream.room_bytes, self.frame_bytes)

    def _send_piece(self, stream: Stream, room_bytes: int) -> int:
        whole = stream.waiting.popleft()
        piece = whole[:room_bytes]
        if len(piece) < len(whole):
            stream.waiting.appendleft(whole[room_bytes:])
        self._room_bytes -= len(piece)
        stream.room_bytes -= len(piece)
        stream.stalled_looks = 0
        self.frames.append(frame(DATA, 0, stream.id, bytes(piece)))
        return len(piece)

    def _send_block(self, stream: Stream, block: bytes, flags: int) -> None:
        self.frames.append(frame(HEADERS, flags, stream.id, self._prefix + block))
        self._prefix = b""
