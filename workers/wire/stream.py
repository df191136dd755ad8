"""Messages over a byte stream: how the frames of one message lie in what a UNIX socket carries. Does no I/O.

    message    := word frame                          word u32: the length of the only frame, below 2**31
                | word descriptor{n} frame{n}         word u32: 2**31 + n
    descriptor := length u64

All numbers are big endian. A frame is one of `frames`: the first holds prefix, header and a small body. Nearly all
messages have one frame, so that is the short form.

Rules
1. Nothing is kept of what a peer may not send: what is too long ends the conversation (`ProtocolError`).
2. Memory is taken for bytes that have come, never for bytes that were announced.
"""

from __future__ import annotations

import ctypes
import struct
from typing import TYPE_CHECKING, Final

from hostd_workers.wire.errors import ProtocolError
from hostd_workers.wire.frames import INLINE_BODY_BYTES, MAX_FRAMES, MAX_HEADER_BYTES, PREFIX_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hostd_workers.wire.frames import Buffer

BUFFER_BYTES: Final = 256 * 1024
"""What one `recv` may bring: a burst of a thousand small calls."""

_MAX_FIRST_BYTES: Final = PREFIX_BYTES + MAX_HEADER_BYTES + INLINE_BODY_BYTES
_WORD: Final = struct.Struct(">I")
_MANY: Final = 1 << 31
_WORD_BYTES: Final = 4
_LENGTH_BYTES: Final = 8

_LONG_BYTES: Final = BUFFER_BYTES // 2
"""Of longer messages each frame is received into memory of its own, which is what the codec's arrays refer to."""

_new_bytearray = ctypes.pythonapi.PyByteArray_FromStringAndSize
"""`bytearray(n)` writes zeros, which takes memory for what was only announced, and as long as to receive it."""
_new_bytearray.restype = ctypes.py_object
_new_bytearray.argtypes = [ctypes.c_void_p, ctypes.c_ssize_t]

_pack_word = _WORD.pack
_word_at = _WORD.unpack_from


def pack(frames: Sequence[Buffer]) -> list[Buffer]:
    """Return what to write for one message: one small buffer, or several in which long frames are themselves."""
    if len(frames) == 1:
        return [b"".join((_pack_word(len(frames[0])), frames[0]))]
    lengths = struct.pack(f">I{len(frames)}Q", _MANY + len(frames), *map(len, frames))
    return [lengths, *frames]


def drop(parts: list[Buffer], count: int) -> None:
    """Take the first bytes, which have been sent, out of what is to be written."""
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
    return memoryview(bytearray(BUFFER_BYTES))


class Reader:
    """Takes the bytes of one peer apart: receive into `space`, and give `received` their number."""

    __slots__ = ("_buffer", "_filled", "_frames", "_max_message_bytes", "_tail", "_whole")

    def __init__(self, buffer: memoryview, max_message_bytes: int) -> None:
        """Take memory from `new_buffer`, and the longest message that the peer may send."""
        self._buffer = buffer
        self._max_message_bytes = max_message_bytes
        self._tail = b""
        """What has come of a short message."""
        self._frames: list[memoryview] = []
        """Those of a long one."""
        self._whole = self._filled = 0
        """How many of these are whole, and how many bytes of the next one have come."""

    @property
    def is_amid_message(self) -> bool:
        """Whether a part of a message has come."""
        return bool(self._tail or self._frames)

    def space(self) -> memoryview:
        """Return where the next bytes go."""
        if self._frames:
            return self._frames[self._whole][self._filled :]
        return self._buffer[len(self._tail) :] if self._tail else self._buffer

    def received(self, count: int) -> list[list[Buffer]]:
        """Return the messages that are whole now. Raises `ProtocolError` for what no peer of ours sends."""
        if self._frames:
            self._filled += count
            return self._whole_long()
        buffer, end = self._buffer, count
        if self._tail:
            end += len(self._tail)
            buffer[: len(self._tail)] = self._tail
        at, messages = 0, []
        while end - at >= _WORD_BYTES:
            word: int = _word_at(buffer, at)[0]
            if word > _MAX_FIRST_BYTES:
                frames, stop = self._many(word, at, end)
                if frames is None:
                    at = stop
                    break
                messages.append(frames)
            else:
                stop = at + _WORD_BYTES + word
                if stop > end:
                    break
                messages.append([bytes(buffer[at + _WORD_BYTES : stop])])
            at = stop
        self._tail = bytes(buffer[at:end]) if at < end else b""
        return messages

    def _many(self, word: int, at: int, end: int) -> tuple[list[Buffer] | None, int]:
        """Return the frames of a message that has several, and where it stops; None: more bytes are needed."""
        count = word - _MANY
        if not 0 < count <= MAX_FRAMES:
            raise ProtocolError("the peer sends what is not of this protocol, or a message of too many frames")
        start = at + _WORD_BYTES + count * _LENGTH_BYTES
        if start > end:
            return None, at
        lengths = struct.unpack_from(f">{count}Q", self._buffer, at + _WORD_BYTES)
        size = sum(lengths)
        if size > self._max_message_bytes or lengths[0] > _MAX_FIRST_BYTES:
            raise ProtocolError(f"a message of {size} bytes is longer than the {self._max_message_bytes} that may come")
        if start + size <= end:
            frames: list[Buffer] = [bytes(self._buffer[stop - n : stop]) for n, stop in _ends(lengths, start)]
            return frames, start + size
        if size <= _LONG_BYTES:
            return None, at
        self._frames = [memoryview(_new_bytearray(None, length)) for length in lengths]
        self._whole = self._filled = 0
        self._take_over(start, end)
        return None, end

    def _take_over(self, at: int, end: int) -> None:
        """Bring what has come of a long message to where the rest goes."""
        while at < end or not len(self._frames[self._whole]):
            frame = self._frames[self._whole]
            taken = min(len(frame), end - at)
            frame[:taken] = self._buffer[at : at + taken]
            at += taken
            self._whole += taken == len(frame)
            self._filled = taken if taken < len(frame) else 0

    def _whole_long(self) -> list[list[Buffer]]:
        frames = self._frames
        while self._filled == len(frames[self._whole]):
            self._whole, self._filled = self._whole + 1, 0
            if self._whole == len(frames):
                self._frames = []
                return [[*frames]]
        return []


def _ends(lengths: Sequence[int], start: int) -> Iterator[tuple[int, int]]:
    for length in lengths:
        start += length
        yield length, start
