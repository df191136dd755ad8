"""ZMTP 3.0, the protocol between ZeroMQ sockets, as a ROUTER with the NULL mechanism speaks it; bytes only, no I/O.

    greeting (64 bytes, both ways) → command READY (both ways) → messages and heartbeats

A frame is `flags u8 | length u8 or u64 | body`. Source: https://rfc.zeromq.org/spec/23/. Peers of ZMTP 3.1 fall back to
3.0, older ones are refused. PING, a command of 3.1, is answered: libzmq sends it to peers of 3.0 too.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from hostd_workers.wire.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hostd_workers.wire.frames import Buffer

MORE: Final = 1
LONG: Final = 2
COMMAND: Final = 4
_KNOWN_FLAGS: Final = MORE | LONG | COMMAND

GREETING_BYTES: Final = 64
_MECHANISM: Final = b"NULL".ljust(20, b"\0")
GREETING: Final = b"\xff" + bytes(8) + b"\x7f\x03\x00" + _MECHANISM + bytes(32)

MAX_COMMAND_BYTES: Final = 1024
"""A READY holds the type of a socket and an identity of at most 255 bytes."""

MAX_FRAME_HEADER_BYTES: Final = 9

_LONG_HEADER = struct.Struct(">BQ")
_SHORT_HEADERS = [bytes([0, length]) for length in range(256)]

_JOINED_BELOW_BYTES = 16 * 1024
"""To copy a smaller frame beside its header costs less than one more piece for the system to gather."""


def check_greeting(come: Buffer) -> None:
    """Raise `ProtocolError` if what has come of a greeting opens no conversation that this side can have.

    Older peers wait for an answer after the first of its bytes, so these are looked at before the others come.
    """
    length = len(come)
    if (length > 0 and come[0] != 0xFF) or (length > 9 and come[9] != 0x7F):
        raise ProtocolError("the peer does not speak ZMTP")
    if length > 10 and come[10] < 3:
        raise ProtocolError(f"the peer speaks ZMTP {come[10]}, 3 is needed")
    if length >= 32 and bytes(come[12:32]) != _MECHANISM:
        raise ProtocolError("the peer wants a security mechanism, the socket has none but its file's permissions")


def pack_ready() -> bytes:
    """Return the command READY of a ROUTER without identity."""
    return _command(b"\x05READY" + _property(b"Socket-Type", b"ROUTER") + _property(b"Identity", b""))


def unpack_ready(body: bytes) -> bytes:
    """Return the identity in a peer's READY, empty if it has none. Raises `ProtocolError` for anything else."""
    if not body.startswith(b"\x05READY"):
        raise ProtocolError("the first command of a peer must be READY")
    properties, at = {}, 6
    while at < len(body):
        name_end = at + 1 + body[at]
        value_at = name_end + 4
        value_end = value_at + int.from_bytes(body[name_end:value_at], "big")
        if value_end > len(body) or value_at > len(body):
            raise ProtocolError("a property of READY is longer than the command")
        properties[body[at + 1 : name_end].lower()] = body[value_at:value_end]
        at = value_end
    if properties.get(b"socket-type") not in {b"DEALER", b"REQ", b"ROUTER"}:
        raise ProtocolError("only a DEALER, REQ or ROUTER can talk to a ROUTER")
    return properties.get(b"identity", b"")


def pong(body: bytes) -> bytes | None:
    """Return the answer to a command of a connection that is ready; None: it needs none."""
    # PING is followed by a time to live of two bytes, and by a context that goes back.
    return _command(b"\x04PONG" + body[7:]) if body.startswith(b"\x04PING") else None


def unpack_frame_header(view: Buffer, at: int, end: int) -> tuple[int, int, int] | None:
    """Return `(flags, start, stop)` of the frame that begins at `at`; None if it has not all come.

    Raises `ProtocolError` for flags that do not exist.
    """
    if end - at < 2:
        return None
    flags = view[at]
    if flags & ~_KNOWN_FLAGS:
        raise ProtocolError(f"a frame has the flags {flags:#x}")
    if not flags & LONG:
        return flags, at + 2, at + 2 + view[at + 1]
    if end - at < MAX_FRAME_HEADER_BYTES:
        return None
    start = at + MAX_FRAME_HEADER_BYTES
    return flags, start, start + int.from_bytes(view[at + 1 : start], "big")


def pack_message(frames: Sequence[Buffer]) -> list[Buffer]:
    """Return the bytes of a message, in pieces: big frames are not copied."""
    if len(frames) == 1 and len(frames[0]) < 256:
        frame = frames[0]
        return [_SHORT_HEADERS[len(frame)] + frame]
    pieces: list[Buffer] = []
    joined: list[Buffer] = []
    last = len(frames) - 1
    for index, frame in enumerate(frames):
        length = len(frame)
        more = MORE if index < last else 0
        joined.append(bytes((more, length)) if length < 256 else _LONG_HEADER.pack(more | LONG, length))
        if length < _JOINED_BELOW_BYTES:
            joined.append(frame)
        else:
            pieces += (b"".join(joined), frame)
            joined = []
    if joined:
        pieces.append(b"".join(joined))
    return pieces


def _command(body: bytes) -> bytes:
    return (
        bytes((COMMAND, len(body))) + body if len(body) < 256 else _LONG_HEADER.pack(COMMAND | LONG, len(body)) + body
    )


def _property(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + len(value).to_bytes(4, "big") + value
