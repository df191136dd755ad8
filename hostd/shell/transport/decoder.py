"""Bytes of one peer in, whole messages out. Does no I/O and knows no socket.

Rules
1. Nothing is kept of what a peer may not send: a message that is too long is told once and its rest is skipped.
2. Memory is taken for bytes that have come, never for bytes that were announced.
3. `space` and `filled` bring bytes in, `next` takes out what is whole, and `keep` saves the rest before others use the
   buffer.
4. `next` looks at so many frames and returns: a million of them in one message must not keep its caller for seconds.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Final

from hostd.shell.transport.zmtp import (
    COMMAND,
    GREETING_BYTES,
    MAX_COMMAND_BYTES,
    MORE,
    check_greeting,
    unpack_frame_header,
)
from hostd_workers.wire.errors import ProtocolError
from hostd_workers.wire.frames import MAX_FRAMES, PREFIX_BYTES

if TYPE_CHECKING:
    from hostd_workers.wire.frames import Buffer

BUFFER_BYTES = 64 * 1024
"""Of the buffer that all decoders share; one turn of a peer brings as much at most, or a piece of a big frame."""

_BIG_BYTES = BUFFER_BYTES // 2
"""Larger frames are received into memory of their own, which is what leaves again: no copy."""

_FRAMES_AT_ONCE = range(64)
"""A tenth of a millisecond."""

MORE_TO_DO: Final = b""
"""What `next` returns when it has looked at many frames and there may be others. No command is empty, or may be."""

_FRAME_BYTES = 64
"""What a small frame takes beside its bytes."""

_PAGE_BYTES = 2 << 20
"""Memory of a big frame may be given in pieces of that size (transparent huge pages), though less of it has come."""

_new_bytearray = ctypes.pythonapi.PyByteArray_FromStringAndSize
"""`bytearray(n)` writes zeros, which takes memory for what was only announced, and as long as to receive it."""
_new_bytearray.restype = ctypes.py_object
_new_bytearray.argtypes = [ctypes.c_void_p, ctypes.c_ssize_t]


class TooLongError(Exception):
    """A message has more bytes or frames than its sender may send; `first` is its first frame, or what came of it."""

    def __init__(self, first: Buffer) -> None:
        super().__init__()
        self.first = first


class Decoder:
    """Takes one peer's bytes apart. `max_message_bytes` may be changed between two messages."""

    __slots__ = (
        "_at",
        "_big",
        "_big_flags",
        "_buffer",
        "_end",
        "_filled",
        "_frames",
        "_is_greeted",
        "_is_skipping",
        "_size",
        "_skip",
        "_tail",
        "max_message_bytes",
        "messages",
    )

    def __init__(self, buffer: memoryview, max_message_bytes: int) -> None:
        """Take the buffer, which is shared: it holds this peer's bytes only between `space` and `keep`."""
        self._buffer = buffer
        self.max_message_bytes = max_message_bytes
        self.messages = 0
        """How many have come whole."""
        self._at = self._end = 0
        self._tail = b""
        self._frames: list[Buffer] = []
        self._size = 0
        self._big: memoryview | None = None
        self._big_flags = self._filled = 0
        self._skip = 0
        self._is_skipping = False
        self._is_greeted = False

    @property
    def has_rest(self) -> bool:
        """Whether bytes are in hand that `next` has not looked at since they came or were kept."""
        return self._end > self._at or bool(self._tail)

    @property
    def is_amid_big_frame(self) -> bool:
        """Whether what comes next belongs to a big frame."""
        return self._big is not None

    @property
    def held_bytes(self) -> int:
        """How much memory is held for what has come and was not taken out."""
        held_bytes = len(self._tail)
        if self._frames:
            held_bytes += self._size + len(self._frames) * _FRAME_BYTES
        if self._big is not None:
            held_bytes += min(len(self._big), -(-self._filled // _PAGE_BYTES) * _PAGE_BYTES)
        return held_bytes

    def space(self) -> memoryview:
        """Return where the next bytes go."""
        if self._big is not None:
            return self._big[self._filled :]
        self.restore()
        return self._buffer[self._end :]

    def filled(self, count: int) -> None:
        """Say how many bytes came into `space`."""
        if self._big is not None:
            self._filled += count
        else:
            self._end += count

    def restore(self) -> None:
        """Bring what was kept back into the buffer."""
        tail = self._tail
        if tail:
            self._buffer[: len(tail)] = tail
            self._at, self._end, self._tail = 0, len(tail), b""

    def keep(self) -> None:
        """Save what is not yet used, because the buffer is going to be somebody else's."""
        if self._end > self._at:
            self._tail = bytes(self._buffer[self._at : self._end])
        self._at = self._end = 0

    def next(self) -> list[Buffer] | bytes | None:
        """Return the frames of the next message, or the body of the next command; None: more bytes are needed.

        `MORE_TO_DO` says to ask again. Raises `ProtocolError` for what is not ZMTP, after which the connection is of no
        use, and `TooLongError`.
        """
        if not self._is_greeted and not self._greet():
            return None
        for _ in _FRAMES_AT_ONCE:
            found = self._next_frame()
            if found is None:
                return None
            flags, frame = found
            if frame is None:
                continue
            if flags & COMMAND:
                return bytes(frame)
            if (whole := self._add(frame, flags)) is not None:
                return whole
        return MORE_TO_DO

    def _next_frame(self) -> tuple[int, Buffer | None] | None:
        """Return flags and bytes of the next frame, no bytes if it is skipped; None: more bytes are needed."""
        if self._big is not None:
            if self._filled < len(self._big):
                return None
            big, self._big, self._filled = self._big, None, 0
            return self._big_flags, big
        header = self._next_header()
        if header is None:
            return None
        flags, start, stop = header
        if self._is_skipping and not flags & COMMAND:
            self._skip_frame(start, stop, flags)
            return flags, None
        self._check_length(start, stop, flags)
        if stop > self._end:
            if stop - start > _BIG_BYTES:
                self._begin_big(start, stop, flags)
            return None
        self._at = stop
        return flags, bytes(self._buffer[start:stop])

    def _next_header(self) -> tuple[int, int, int] | None:
        if self._skip:
            skipped = min(self._skip, self._end - self._at)
            self._skip -= skipped
            self._at += skipped
            if self._skip:
                return None
        header = unpack_frame_header(self._buffer, self._at, self._end)
        if header is not None and not self._frames:
            flags, start, stop = header
            if self._end < min(stop, start + PREFIX_BYTES) and not flags & COMMAND:
                return None  # if it is too long, its sender must hear of it, under the id that is still to come
        return header

    def _add(self, frame: Buffer, flags: int) -> list[Buffer] | None:
        frames = self._frames
        frames.append(frame)
        if flags & MORE:
            self._size += len(frame)
            return None
        self._frames, self._size = [], 0
        self.messages += 1
        return frames

    def _greet(self) -> bool:
        check_greeting(self._buffer[self._at : min(self._at + GREETING_BYTES, self._end)])
        if self._end - self._at < GREETING_BYTES:
            return False
        self._at += GREETING_BYTES
        self._is_greeted = True
        return True

    def _check_length(self, start: int, stop: int, flags: int) -> None:
        if flags & COMMAND:
            if stop - start > MAX_COMMAND_BYTES:
                raise ProtocolError("a command is too long")
        elif self._size + stop - start > self.max_message_bytes or len(self._frames) >= MAX_FRAMES:
            self._begin_skipping(start, stop, flags)

    def _begin_skipping(self, start: int, stop: int, flags: int) -> None:
        # What has come of a first frame that is itself too long says under which id the sender waits.
        come = self._buffer[start : min(stop, self._end, start + PREFIX_BYTES)]
        first = self._frames[0] if self._frames else bytes(come)
        self._frames, self._size = [], 0
        self._skip_frame(start, stop, flags)
        raise TooLongError(first)

    def _skip_frame(self, start: int, stop: int, flags: int) -> None:
        self._at, self._skip = start, stop - start
        self._is_skipping = bool(flags & MORE)

    def _begin_big(self, start: int, stop: int, flags: int) -> None:
        length, come = stop - start, self._end - start
        try:
            memory = memoryview(_new_bytearray(None, length))
        except MemoryError:
            self._begin_skipping(start, stop, flags)
        memory[:come] = self._buffer[start : self._end]
        self._big, self._big_flags, self._filled = memory, flags, come
        self._at = self._end = 0
