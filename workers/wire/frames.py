"""The envelope: how one message lies in ZeroMQ frames.

The first frame opens with a prefix of 16 bytes that holds what differs between calls, then a msgpack header that holds
what repeats (so that every hop may cache it by its bytes), then the msgpack body if that is small:

    kind u8 | version u8 | header length u16 | deadline ms u32 | id u64 | header … | body …

A body above `INLINE_BODY_BYTES` is a frame of its own after the first, and each big buffer that the body refers to is
one more. (One frame for a small message is worth twice the throughput of four; `hostd/ARCHITECTURE.md` has the
figures.) A hop that routes decodes prefix and header, exchanges the id, and passes everything else on as it came.

Small messages that are sent to one peer at the same moment may travel as one frame: a prefix of kind BATCH, its id is
their count, then each with its length before it (u32). With 64 calls in flight that is worth a third of the throughput.

Does not cover what bodies mean (`messages`) or how values are encoded (`codec`).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, TypeAlias

from hostd_workers.wire.errors import MessageTooLargeError, ProtocolError, VersionMismatchError
from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION = 1
SUPPORTED_VERSIONS = (VERSION,)

BATCH: Final = 23
"""The kind of a frame that holds several messages; it is of the envelope, not of the conversation."""

BATCHED_BELOW_BYTES = 4 * 1024
"""Larger messages gain nothing from that: their bytes cost more than their frame."""

MAX_BATCH_MESSAGES = 1024
"""One frame must not hold work for seconds: the receiver does nothing else meanwhile."""

INLINE_BODY_BYTES = 8 * 1024
MAX_HEADER_BYTES = 0xFFFF
MAX_FRAMES = 4096
MAX_DEADLINE_MS = 0xFFFFFFFF
"""Also the way to say "no deadline": a call that may run for 49 days has none."""

Buffer: TypeAlias = "bytes | bytearray | memoryview"

_PREFIX = struct.Struct(">BBHIQ")
PREFIX_BYTES = _PREFIX.size
_ID = struct.Struct(">Q")
_ID_OFFSET = 8
_LENGTH = struct.Struct(">I")
_HEADER_LENGTH = struct.Struct(">H")

_pack = _PREFIX.pack
_unpack_from = _PREFIX.unpack_from


class Envelope(NamedTuple):
    """One message in its parts: `kind`, `deadline_ms`, `id`, the bytes of `header` and `body`, and `buffers`."""

    kind: int
    deadline_ms: int
    id: int
    header: bytes
    body: Buffer
    buffers: Sequence[Buffer]


def pack(
    kind: int,
    id: int,
    header: bytes = b"",
    body: Buffer = b"",
    buffers: Sequence[Buffer] = (),
    deadline_ms: int = MAX_DEADLINE_MS,
) -> list[Buffer]:
    """Return the frames of a message.

    Raises `MessageTooLargeError` when the header or the number of buffers is over what the envelope can hold.
    """
    if len(header) > MAX_HEADER_BYTES:
        raise MessageTooLargeError(
            f"the header has {len(header)} bytes, at most {MAX_HEADER_BYTES} fit: shorten the model id or method name"
        )
    prefix = _pack(kind, VERSION, len(header), deadline_ms, id)
    if len(body) <= INLINE_BODY_BYTES:
        frames: list[Buffer] = [b"".join((prefix, header, body))]
    else:
        frames = [prefix + header, body]
    if buffers:
        if len(buffers) > MAX_FRAMES - 2:
            raise MessageTooLargeError(
                f"the message refers to {len(buffers)} buffers, at most {MAX_FRAMES - 2} fit: join the arrays"
            )
        frames.extend(buffers)
    return frames


def unpack(frames: Sequence[Buffer]) -> Envelope:
    """Return the parts of a message; `buffers` are the frames themselves, not copies.

    Raises `ProtocolError` for what is not a message and `VersionMismatchError` for one of another version.
    """
    kind, header_length, deadline_ms, id_ = unpack_prefix(frames)
    first = frames[0]
    body_start = PREFIX_BYTES + header_length
    header = bytes(first[PREFIX_BYTES:body_start])
    if len(first) > body_start:
        return Envelope(kind, deadline_ms, id_, header, first[body_start:], frames[1:])
    if len(frames) > 1:
        return Envelope(kind, deadline_ms, id_, header, frames[1], frames[2:])
    return Envelope(kind, deadline_ms, id_, header, b"", ())


def unpack_within(buffer: memoryview, start: int, stop: int) -> Envelope:
    """Return the parts, as copies, of a message of one frame that lies in a buffer. Raises what `unpack` does."""
    if stop - start >= PREFIX_BYTES:
        kind, version, header_length, deadline_ms, id_ = _unpack_from(buffer, start)
        body_start = start + PREFIX_BYTES + header_length
        if version == VERSION and 0 <= stop - body_start <= INLINE_BODY_BYTES:
            header = bytes(buffer[start + PREFIX_BYTES : body_start])
            return Envelope(kind, deadline_ms, id_, header, bytes(buffer[body_start:stop]), ())
    return unpack([bytes(buffer[start:stop])])  # which says what is wrong with it


def unpack_prefix(frames: Sequence[Buffer]) -> tuple[int, int, int, int]:
    """Return `(kind, header_length, deadline_ms, id)` of a message after checking that it is one."""
    if not frames or len(frames[0]) < PREFIX_BYTES:
        raise ProtocolError(f"not a message: it needs a first frame of at least {PREFIX_BYTES} bytes")
    kind, version, header_length, deadline_ms, id_ = _unpack_from(frames[0])
    if version != VERSION:
        raise VersionMismatchError(
            f"the peer speaks protocol version {version}, this side supports {list(SUPPORTED_VERSIONS)}: "
            f"install the same version of hostd on both sides",
            details={"version": version, "supported": list(SUPPORTED_VERSIONS)},
        )
    body_length = len(frames[0]) - PREFIX_BYTES - header_length
    if body_length < 0:
        raise ProtocolError(f"the header should have {header_length} bytes, but the first frame ends before")
    # A long first frame would be copied at every hop, and everybody else would wait for that.
    if body_length > INLINE_BODY_BYTES:
        raise ProtocolError(
            f"a body of {body_length} bytes must be a frame of its own: {INLINE_BODY_BYTES} may be inline"
        )
    return kind, header_length, deadline_ms, id_


def has_inline_body(first: Buffer) -> bool:
    """Say whether the body of a message is in its first frame, or there is none; otherwise it is the second frame."""
    header_length: int = _HEADER_LENGTH.unpack_from(first, 2)[0]
    return len(first) > PREFIX_BYTES + header_length


def deadline_of(first: Buffer) -> int:
    """Return the deadline of a message, in milliseconds; `MAX_DEADLINE_MS`: none."""
    return int.from_bytes(first[4:8], "big")


def id_of(first: Buffer) -> int:
    """Return the id of a message of any version; kind, version and id keep their places for ever."""
    return int.from_bytes(first[_ID_OFFSET:PREFIX_BYTES], "big")


def readdress(first: Buffer, id: int, deadline_ms: int) -> bytes:
    """Return the first frame of a message with another id and deadline; the rest of the message stays as it is."""
    return b"".join((first[:4], deadline_ms.to_bytes(4, "big"), _ID.pack(id), first[PREFIX_BYTES:]))


def pack_batch(messages: Sequence[Buffer]) -> bytes:
    """Return one frame that holds several messages of one frame each, at most `MAX_BATCH_MESSAGES`."""
    parts: list[Buffer] = [_pack(BATCH, VERSION, 0, 0, len(messages))]
    length = _LENGTH.pack
    for message in messages:
        parts += (length(len(message)), message)
    return b"".join(parts)


def unpack_batch(frame: Buffer) -> list[Buffer]:
    """Return the messages in a frame of kind BATCH. Raises `ProtocolError` if they do not fill it exactly."""
    _, _, _, count = unpack_prefix((frame[:PREFIX_BYTES],))
    messages: list[Buffer] = []
    start, end = PREFIX_BYTES, len(frame)
    length_at = _LENGTH.unpack_from
    while start + 4 <= end and len(messages) < min(count, MAX_BATCH_MESSAGES):
        stop = start + 4 + length_at(frame, start)[0]
        messages.append(frame[start + 4 : stop])
        start = stop
    if start != end or len(messages) != count:
        raise ProtocolError(
            f"a batch of {count} messages does not fill its frame, or has more than {MAX_BATCH_MESSAGES}"
        )
    return messages
