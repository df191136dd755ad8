"""The kinds of message, and the headers and bodies that are more than a user's value.

The list of kinds with their directions is in `PROTOCOL.md`. Headers are msgpack arrays; equal calls have equal header
bytes, so every hop may remember what it decoded by those bytes.
"""

from __future__ import annotations

import reprlib
from typing import Any, Final, NamedTuple

import msgpack

from workers.wire.codec import Limits, decode, encode
from workers.wire.errors import HostError, InternalError, InvalidArgumentError, ProtocolError, from_wire, to_wire
from workers.wire.frames import Buffer, Envelope, pack

# Requests, from client to host, and on to a worker.
HELLO: Final = 1
CALL: Final = 2
STREAM: Final = 3
VERB: Final = 4
CANCEL: Final = 5
CREDIT: Final = 6
BYE: Final = 7

# Answers, from a worker to the host, and on to a client.
WELCOME: Final = 17
RESULT: Final = 18
ITEM: Final = 19
END: Final = 20
ERROR: Final = 21
PING: Final = 22

# Between host and worker only.
WORKER_HELLO: Final = 33
LOAD: Final = 34
LOADED: Final = 35
LAST_WORDS: Final = 36

FINAL_KINDS: Final = frozenset({RESULT, END, ERROR})

HEADER_LIMITS: Final = Limits(depth=4, container_len=64, blob_bytes=16 * 1024)
ERROR_LIMITS: Final = Limits(depth=16, container_len=4096, blob_bytes=4 * 1024 * 1024)

MAX_CREDIT: Final = 1 << 20

MAX_TRACEBACK_CHARS: Final = 64 * 1024
"""The tail of a traceback holds the cause; a recursion error's whole text would be megabytes."""


class Target(NamedTuple):
    """What a CALL or STREAM asks for; `trace` is a W3C traceparent or None, `window` a stream's first credit."""

    model_id: str
    method: str
    trace: str | None = None
    window: int = 0


def pack_target(target: Target) -> bytes:
    """Return the header bytes of a call; trailing defaults are left out, so equal calls have equal bytes.

    Raises `InvalidArgumentError` for names that cannot travel.
    """
    length = 4 if target.window else 2 if target.trace is None else 3
    try:
        return msgpack.packb(target[:length])  # type: ignore[no-any-return]
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidArgumentError(f"a model id and a method name must be text: {error}") from None


def unpack_target(header: bytes) -> Target:
    """Return what a call asks for. Raises `ProtocolError` for anything else."""
    match decode(header, limits=HEADER_LIMITS):
        case [str(model_id), str(method)]:
            return Target(model_id, method)
        case [str(model_id), str(method), None | str() as trace]:
            return Target(model_id, method, trace)
        case [str(model_id), str(method), None | str() as trace, int(window)] if 0 <= window <= MAX_CREDIT:
            return Target(model_id, method, trace, window)
        case other:
            raise ProtocolError(
                f"the header of a call must be [model id, method, trace?, window?], got {reprlib.repr(other)}"
            )


def pack_error(id: int, error: HostError) -> list[Buffer]:
    """Return the frames of an ERROR message. Details that cannot travel are left out rather than lose the error."""
    status, kind, message, details = to_wire(error)
    try:
        body, buffers = encode([status, kind, message, details])
        decode(body, buffers, ERROR_LIMITS)  # what the peer would refuse must not hide the error itself
    except HostError:
        body, buffers = encode([status, kind, message, {}])
    return pack(ERROR, id, body=body, buffers=buffers)


def unpack_error(envelope: Envelope) -> HostError:
    """Return the error of an ERROR or LAST_WORDS message; a malformed one becomes an `InternalError`."""
    try:
        wire = decode(envelope.body, envelope.buffers, ERROR_LIMITS)
    except HostError as error:
        return InternalError(f"the peer sent an error that cannot be read: {error}")
    return from_wire(wire)


def pack_map(kind: int, id: int, body: dict[str, Any], header: bytes = b"") -> list[Buffer]:
    """Return the frames of a message whose body is a map."""
    encoded, buffers = encode(body)
    return pack(kind, id, header, encoded, buffers)


def unpack_map(envelope: Envelope, limits: Limits | None = None) -> dict[str, Any]:
    """Return the body of a message that must be a map with string keys. Raises `ProtocolError` if it is not."""
    body = decode(envelope.body, envelope.buffers, limits or Limits())
    if not isinstance(body, dict) or not all(isinstance(key, str) for key in body):
        raise ProtocolError(f"the body must be a map with string keys, got {type(body).__name__}")
    return body


def pack_credit(id: int, items: int) -> list[Buffer]:
    """Return the frames of a CREDIT for `items` more items of a stream."""
    return pack(CREDIT, id, msgpack.packb(items))


def unpack_credit(header: bytes) -> int:
    """Return how many items a CREDIT grants. Raises `ProtocolError` if it is not a count."""
    items = decode(header, limits=HEADER_LIMITS)
    if type(items) is not int or not 0 <= items <= MAX_CREDIT:
        raise ProtocolError(f"a credit must be a count of items up to {MAX_CREDIT}")
    return items


def pack_verb(verb: str) -> bytes:
    """Return the header bytes of a request of the control plane."""
    return msgpack.packb([verb])  # type: ignore[no-any-return]


def unpack_verb(header: bytes) -> str:
    """Return what a request of the control plane asks for. Raises `ProtocolError` for anything else."""
    match decode(header, limits=HEADER_LIMITS):
        case [str(verb)]:
            return verb
        case other:
            raise ProtocolError(f"the header of a verb must be [verb], got {reprlib.repr(other)}")
