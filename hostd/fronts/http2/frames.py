"""Frames of HTTP/2: their kinds, their bytes, and the fields of a head that we write (RFC 9113, 4 and 6; RFC 7541)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client sends first."""

DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9
"""Kinds of frames; others are ignored."""

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
HAS_PRIORITY: Final = 0x20
"""Flags of frames."""

HEADER_TABLE_SIZE: Final = 1
ENABLE_PUSH: Final = 2
MAX_CONCURRENT_STREAMS: Final = 3
INITIAL_WINDOW_SIZE: Final = 4
MAX_FRAME_SIZE: Final = 5
MAX_HEADER_LIST_SIZE: Final = 6
"""Settings."""

NO_ERROR: Final = 0x0
PROTOCOL_ERROR: Final = 0x1
FLOW_CONTROL_ERROR: Final = 0x3
STREAM_CLOSED: Final = 0x5
FRAME_SIZE_ERROR: Final = 0x6
REFUSED_STREAM: Final = 0x7
CANCEL: Final = 0x8
COMPRESSION_ERROR: Final = 0x9
ENHANCE_YOUR_CALM: Final = 0xB
"""Why a stream or a connection ends."""

FIRST_WINDOW_BYTES: Final = 65_535
FRAME_BYTES: Final = 16_384
"""What a window and a frame hold as long as nobody says otherwise."""

MAX_WINDOW_BYTES: Final = 2**31 - 1
MAX_FRAME_BYTES: Final = 2**24 - 1

PRELUDE: Final = struct.Struct(">HBBBI")
"""What each frame begins with: its length in 24 bits, kind, flags, stream."""

STREAM_MASK: Final = 0x7FFF_FFFF
"""The first bit of the number of a stream means nothing."""

_U32: Final = struct.Struct(">I")
_SETTING: Final = struct.Struct(">HI")
_LEAST_LONG: Final = 0x7F
"""Lengths of texts from here on take more than a byte."""


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Return a frame."""
    length = len(payload)
    return PRELUDE.pack(length >> 8, length & 0xFF, kind, flags, stream_id) + payload


def settings_frame(settings: Iterable[tuple[int, int]]) -> bytes:
    """Return a frame that tells settings."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*setting) for setting in settings))


def window_update(stream_id: int, size_bytes: int) -> bytes:
    """Return a frame that gives a stream, or with 0 the connection, so much more room."""
    return frame(WINDOW_UPDATE, 0, stream_id, _U32.pack(size_bytes))


def rst_stream(stream_id: int, code: int) -> bytes:
    """Return a frame that ends a stream at once."""
    return frame(RST_STREAM, 0, stream_id, _U32.pack(code))


def goaway(last_stream_id: int, code: int, why: str) -> bytes:
    """Return a frame that ends a connection; streams after the last one have not been looked at."""
    return frame(GOAWAY, 0, 0, _U32.pack(last_stream_id) + _U32.pack(code) + why.encode())


def u32_of(payload: bytes) -> int:
    """Return the number of four bytes."""
    number: int = _U32.unpack(payload)[0]
    return number


def settings_of(payload: bytes) -> list[tuple[int, int]]:
    """Return the settings that a frame tells."""
    return list(_SETTING.iter_unpack(payload))


def block_of(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the fields of a head as plain literals, which leave no trace in the tables of both sides.

    So what is always the same is made once for all connections. The names are in lower case.
    """
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in fields)


def _text(text: bytes) -> bytes:
    length = len(text)
    if length < _LEAST_LONG:
        return bytes((length,)) + text
    rest, digits = length - _LEAST_LONG, bytearray((_LEAST_LONG,))
    while rest >= 0x80:  # RFC 7541, 5.1: seven bits at a time, the lowest first
        digits.append(rest & 0x7F | 0x80)
        rest >>= 7
    digits.append(rest)
    return bytes(digits) + text
