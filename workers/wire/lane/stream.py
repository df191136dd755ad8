"""Messages over a byte stream: how the frames of one message lie in what a UNIX socket carries. Does no I/O.

    message    := word frame                          word u32: the length of the only frame, below 2**31
                | word descriptor{n} frame{m}         word u32: 2**31 + n; m <= n
    descriptor := length u64, region u32, offset u32  region 0: the frame follows; else it lies in shared memory there

All numbers are big endian. A frame is one of `frames`: the first holds prefix, header and a small body. Nearly all
messages have one frame, so that is the short form.

Rules
1. Nothing is kept of what a peer may not send: what is too long ends the conversation (`ProtocolError`).
2. Memory is taken for bytes that have come, never for bytes that were announced.
3. A body never lies in shared memory: it is decoded, and must not change meanwhile.
"""

from __future__ import annotations

import ctypes
import struct
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from hostd_workers.wire.errors import ProtocolError
from hostd_workers.wire.frames import (
    INLINE_BODY_BYTES,
    MAX_FRAMES,
    MAX_HEADER_BYTES,
    PREFIX_BYTES,
    has_inline_body,
    unpack,
    unpack_within,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hostd_workers.wire.frames import Buffer, Envelope
    from hostd_workers.wire.lane.regions import OtherRegions

BUFFER_BYTES: Final = 256 * 1024
"""What one `recv` may bring: a burst of a thousand small calls."""

_MAX_FIRST_BYTES: Final = PREFIX_BYTES + MAX_HEADER_BYTES + INLINE_BODY_BYTES
_WORD: Final = struct.Struct(">I")
_MANY: Final = 1 << 31
_WORD_BYTES: Final = 4
_DESCRIPTOR: Final = "QII"
_DESCRIPTOR_BYTES: Final = 16
_FOLLOWS: Final = (0, 0)

_new_bytearray = ctypes.pythonapi.PyByteArray_FromStringAndSize
"""`bytearray(n)` writes zeros, which takes memory for what was only announced, and as long as to receive it."""
_new_bytearray.restype = ctypes.py_object
_new_bytearray.argtypes = [ctypes.c_void_p, ctypes.c_ssize_t]

_pack_word = _WORD.pack
_word_at = _WORD.unpack_from


def packed(frame: Buffer) -> bytes:
    """Return what to write for a message of one frame."""
    return b"".join((_pack_word(len(frame)), frame))


def pack(frames: Sequence[Buffer], places: Mapping[int, tuple[int, int]] = MappingProxyType({})) -> list[Buffer]:
    """Return what to write for one message: one small buffer, or several in which long frames are themselves.

    `places` are those of the frames that lie in shared memory, by their index: `(region, offset)`.
    """
    if len(frames) == 1:
        return [packed(frames[0])]
    numbers: list[int] = []
    for index, frame in enumerate(frames):
        numbers += (len(frame), *places.get(index, _FOLLOWS))
    head = struct.pack(f">I{_DESCRIPTOR * len(frames)}", _MANY + len(frames), *numbers)
    return [head, *(frame for index, frame in enumerate(frames) if index not in places)]


def drop(parts: list[Buffer], count: int) -> None:
    """Take the first bytes, which have been sent, out of what is to be written."""
    if len(parts) == 1 and count == len(parts[0]):
        parts.clear()
        return
    whole = 0
    for part in parts:
        if count < len(part):
            break
        count -= len(part)
        whole += 1
    del parts[:whole]
    if count:
        parts[0] = memoryview(parts[0])[count:]


def new_buffer() -> memoryview:
    """Return the memory that readers of one thread share: each uses it from `space` to the return of `received`."""
    return memoryview(_new_bytearray(None, BUFFER_BYTES))


class Reader:
    """Takes the bytes of one peer apart: receive into `space`, and give `received` their number."""

    __slots__ = (
        "_buffer",
        "_filled",
        "_frames",
        "_has_shared_second",
        "_inline",
        "_max_message_bytes",
        "_regions",
        "_tail",
        "_whole",
    )

    def __init__(self, buffer: memoryview, max_message_bytes: int, regions: OtherRegions | None = None) -> None:
        """Take memory from `new_buffer`, the longest message that the peer may send, and the memory that it shares."""
        self._buffer = buffer
        self._max_message_bytes = max_message_bytes
        self._regions = regions
        self._tail = b""
        """What has come of a message of one frame, or of a head."""
        self._frames: list[Buffer] = []
        """Those of a message that has several, once its head is here; `_inline` are those that come over the stream."""
        self._inline: list[memoryview] = []
        self._has_shared_second = False
        self._whole = self._filled = 0
        """How many of these are whole, and how many bytes of the next one have come."""

    @property
    def is_amid_message(self) -> bool:
        """Whether a part of a message has come."""
        return bool(self._tail or self._frames)

    @property
    def unfinished_bytes(self) -> int:
        """How many bytes of a message of several frames have come, while it is not whole."""
        return sum(map(len, self._inline[: self._whole])) + self._filled

    def space(self) -> memoryview:
        """Return where the next bytes go."""
        if self._frames:
            return self._inline[self._whole][self._filled :]
        return self._buffer[len(self._tail) :] if self._tail else self._buffer

    def received(self, count: int) -> list[Envelope]:
        """Return the messages that are whole now. Raises `ProtocolError` and its kind for what no peer sends."""
        if self._frames:
            self._filled += count
            return [unpack(self._frames_whole())] if self._is_whole() else []
        buffer, end = self._buffer, count
        if self._tail:
            end += len(self._tail)
            buffer[: len(self._tail)] = self._tail
        at = 0
        messages: list[Envelope] = []
        while end - at >= _WORD_BYTES:
            word: int = _word_at(buffer, at)[0]
            if word > _MAX_FIRST_BYTES:
                frames, stop = self._many(word, at, end)
                if frames is None:
                    at = stop
                    break
                messages.append(unpack(frames))
            else:
                stop = at + _WORD_BYTES + word
                if stop > end:
                    break
                messages.append(unpack_within(buffer, at + _WORD_BYTES, stop))
            at = stop
        self._tail = bytes(buffer[at:end]) if at < end else b""
        return messages

    def _many(self, word: int, at: int, end: int) -> tuple[list[Buffer] | None, int]:
        """Return the frames of a message that has several, and where it stops; None: more bytes are needed."""
        count = word - _MANY
        if not 0 < count <= MAX_FRAMES:
            raise ProtocolError("the peer sends what is not of this protocol, or a message of too many frames")
        start = at + _WORD_BYTES + count * _DESCRIPTOR_BYTES
        if start > end:
            return None, at
        numbers = struct.unpack_from(f">{_DESCRIPTOR * count}", self._buffer, at + _WORD_BYTES)
        size = sum(numbers[::3])
        if size > self._max_message_bytes or numbers[0] > _MAX_FIRST_BYTES or numbers[1]:
            raise ProtocolError(f"a message of {size} bytes is longer than the {self._max_message_bytes} that may come")
        for length, region, offset in zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True):
            if region:
                self._frames.append(self._shared(region, offset, length))
            else:
                frame = _new_frame(length)
                self._frames.append(frame)
                self._inline.append(frame)
        self._has_shared_second = count > 1 and numbers[4] != 0
        self._whole = self._filled = 0
        start = self._take_over(start, end)
        return (self._frames_whole() if self._is_whole() else None), start

    def _shared(self, region: int, offset: int, length: int) -> memoryview:
        if self._regions is None:
            raise ProtocolError("this end shares no memory")
        return self._regions.view(region, offset, length)

    def _take_over(self, at: int, end: int) -> int:
        """Bring what has come of the frames to where the rest goes; return where that stops."""
        while at < end and not self._is_whole():
            frame = self._inline[self._whole]
            taken = min(len(frame) - self._filled, end - at)
            frame[self._filled : self._filled + taken] = self._buffer[at : at + taken]
            at += taken
            self._filled += taken
        return at

    def _is_whole(self) -> bool:
        inline = self._inline
        while self._whole < len(inline) and self._filled == len(inline[self._whole]):
            self._whole, self._filled = self._whole + 1, 0
        return self._whole == len(inline)

    def _frames_whole(self) -> list[Buffer]:
        frames, self._frames, self._inline = self._frames, [], []
        first = frames[0] = bytes(frames[0])
        if self._has_shared_second and len(first) >= PREFIX_BYTES and not has_inline_body(first):
            raise ProtocolError("a body may not lie in shared memory")
        return frames


def _new_frame(length: int) -> memoryview:
    try:
        return memoryview(_new_bytearray(None, length))
    except MemoryError:
        raise ProtocolError(f"there is no memory for {length} bytes of a message") from None
