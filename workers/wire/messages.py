"""The kinds of message, and the headers and bodies that are more than a user's value.

The list of kinds with their directions is in `PROTOCOL.md`. Headers are msgpack arrays; equal calls have equal header
bytes, so every hop may remember what it decoded by those bytes.
"""

from __future__ import annotations

import reprlib
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgpack

from hostd_workers.wire.codec import decode, encode
from hostd_workers.wire.errors import (
    HostError,
    InternalError,
    InvalidArgumentError,
    ProtocolError,
    WireError,
    from_wire,
    to_wire,
)
from hostd_workers.wire.feeds import FEED_WINDOW
from hostd_workers.wire.frames import Buffer, Envelope, pack
from hostd_workers.wire.light import NamedTuple
from hostd_workers.wire.metered import Budget, decode_metered

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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

# Between host and worker only.
WORKER_HELLO: Final = 33
LOAD: Final = 34
LOADED: Final = 35
LAST_WORDS: Final = 36
CLOSE_LANES: Final = 37
LANES_CLOSED: Final = 38
OPEN_LANES: Final = 39
IMPORTED: Final = 40
CLOSE_MODEL: Final = 41
MODEL_CLOSED: Final = 42

# Between client and worker only.
LANE_HELLO: Final = 49
LANE_WELCOME: Final = 50
NOT_BEGUN: Final = 51
REGION: Final = 52
UNUSED: Final = 53
GIVEN_UP: Final = 54

# What a host decodes itself: everybody waits meanwhile. Measured, the worst bodies that are accepted, and in brackets
# those that are refused at their end. (Without these limits one of 4 MB took 1.5 s.)
HEADER_LIMITS: Final = Budget(16 * 1024, values=1024, list_len=64, map_len=64, depth=4)
"""Of headers and of both HELLOs: 0.1 ms (0.2)."""

CONTROL_LIMITS: Final = Budget(256 * 1024, values=32_768, list_len=4096, map_len=1024, depth=16, buffer_bytes=64 * 1024)
"""Of a VERB's arguments: 9 ms (19); an ordinary one takes 6 us. The arrays are for a better reason to refuse them."""

UPLOAD_LIMITS: Final = Budget(1088 * 1024, 32_768, list_len=16_384, map_len=256, depth=16, buffer_bytes=1088 * 1024)
"""Of verbs that deploy: 8 ms (28). 10,000 files, with names of 90 bytes on average (6 ms), or a piece of one, 1 MiB."""

LOADED_LIMITS: Final = Budget(512 * 1024, values=32_768, list_len=2048, map_len=1024, depth=8)
"""Of what a model says that it has: 2 ms (11), which is what 1,000 methods of 500 bytes each take, or 2,000 inputs."""

IMPORTED_LIMITS: Final = Budget(512 * 1024, values=16_384, list_len=8000, map_len=16, depth=4)
"""Of the modules that a load has imported: 0.5 ms for the largest frameworks."""

ERROR_LIMITS: Final = Budget(1 << 20, values=8192, list_len=4096, map_len=1024, depth=16, buffer_bytes=4 << 20)
"""Of an error with its details: 2 ms (28). Message and traceback have at most 64 Ki characters each."""

_VERB_LIMITS: Final = {"deploy_begin": UPLOAD_LIMITS, "deploy_write": UPLOAD_LIMITS}

MAX_METHODS: Final = 1000
"""Of a model. The largest objects that people load have 250."""

MAX_CREDIT: Final = 1 << 20

MAX_TRACEBACK_CHARS: Final = 64 * 1024
"""The tail of a traceback holds the cause; a recursion error's whole text would be megabytes."""


class Target(NamedTuple):
    """What a CALL or STREAM asks for; `trace` is a W3C traceparent or None, `window` a stream's first credit.

    `feed` is the argument that is a feed, by its index or its name, and `feed_window` how far that may be ahead.
    """

    model_id: str
    method: str
    trace: str | None = None
    window: int = 0
    feed: int | str | None = None
    feed_window: int = 0


def pack_target(target: Target) -> bytes:
    """Return the header bytes of a call; trailing defaults are left out, so equal calls have equal bytes.

    Raises `InvalidArgumentError` for names that cannot travel.
    """
    length = 6 if target.feed is not None else 4 if target.window else 2 if target.trace is None else 3
    try:
        return msgpack.packb(target[:length])  # type: ignore[no-any-return]
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidArgumentError(f"a model id and a method name must be text: {error}") from None


def unpack_target(header: bytes) -> Target:
    """Return what a call asks for. Raises `ProtocolError` for anything else."""
    match decode_metered(header, (), HEADER_LIMITS):
        case [str(model_id), str(method)]:
            return Target(model_id, method)
        case [str(model_id), str(method), None | str() as trace]:
            return Target(model_id, method, trace)
        case [str(model_id), str(method), None | str() as trace, int(window)] if 0 <= window <= MAX_CREDIT:
            return Target(model_id, method, trace, window)
        case [str(model_id), str(method), None | str() as trace, int(window), int() | str() as feed, int(ahead)] if (
            0 <= window <= MAX_CREDIT and 1 <= ahead <= FEED_WINDOW and (isinstance(feed, str) or feed >= 0)
        ):
            return Target(model_id, method, trace, window, feed, ahead)
        case other:
            raise ProtocolError(
                "the header of a call must be [model id, method, trace?, window?] or [model id, method, trace, window, "
                f"feed, feed's window], got {reprlib.repr(other)}"
            )


def has_feed(header: bytes) -> bool:
    """Say whether a call whose header is one says that it has a feed: it is a list of six then."""
    return header[:1] == b"\x96"


def sendable(error: HostError) -> WireError:
    """Return what of an error can travel: details that cannot are left out rather than lose the error."""
    wire = to_wire(error)
    try:
        decode_metered(*encode(list(wire)), ERROR_LIMITS)  # what the peer would refuse must not hide the error itself
    except HostError:
        return (*wire[:3], {})
    return wire


def pack_error(id: int, error: HostError) -> list[Buffer]:
    """Return the frames of an ERROR message."""
    body, buffers = encode(list(sendable(error)))
    return pack(ERROR, id, body=body, buffers=buffers)


def unpack_error(envelope: Envelope) -> HostError:
    """Return the error of an ERROR message; a malformed one becomes an `InternalError`."""
    return _error_of(envelope, decode)


def unpack_error_metered(envelope: Envelope) -> HostError:
    """Return the error of an ERROR message as a host reads it: within `ERROR_LIMITS`, with `ArrayView`s for arrays."""
    return _error_of(envelope, partial(decode_metered, budget=ERROR_LIMITS))


def _error_of(envelope: Envelope, read: Callable[[Buffer, Sequence[Buffer]], Any]) -> HostError:
    try:
        wire = read(envelope.body, envelope.buffers)
    except HostError as error:
        return InternalError(f"the peer sent an error that cannot be read: {error}")
    return from_wire(wire)


def pack_map(kind: int, id: int, body: dict[str, Any], header: bytes = b"") -> list[Buffer]:
    """Return the frames of a message with a map as its body.

    Raises `InvalidArgumentError` for the LOADED of a model that has more to say than a host listens to.
    """
    encoded, buffers = encode(body)
    if kind == LOADED:
        _check_loaded(len(body.get("methods", ())), len(encoded))
    return pack(kind, id, header, encoded, buffers)


def unpack_map(envelope: Envelope, limits: Budget | None = None) -> dict[str, Any]:
    """Return the body of a message that must be a map with string keys, within `limits` if the sender is not trusted.

    Raises `ProtocolError` if it is not a map, and `InvalidArgumentError` for what is malformed or over a limit.
    """
    if limits is None:
        body = decode(envelope.body, envelope.buffers)
    else:
        body = decode_metered(envelope.body, envelope.buffers, limits)
    if not isinstance(body, dict) or not all(isinstance(key, str) for key in body):
        raise ProtocolError(f"the body must be a map with string keys, got {type(body).__name__}")
    return body


def limits_of(verb: str) -> Budget:
    """Return what the arguments of a verb may cost."""
    return _VERB_LIMITS.get(verb, CONTROL_LIMITS)


def _check_loaded(methods: int, size_bytes: int) -> None:
    if methods > MAX_METHODS or size_bytes > LOADED_LIMITS.body_bytes:
        raise InvalidArgumentError(
            f"the model has {methods} methods, and to describe them takes {size_bytes} bytes; at most {MAX_METHODS} "
            f"methods and {LOADED_LIMITS.body_bytes} bytes are possible: name some with 'methods' in its model.yaml"
        )


def pack_credit(id: int, items: int) -> list[Buffer]:
    """Return the frames of a CREDIT for `items` more items of a stream."""
    return pack(CREDIT, id, msgpack.packb(items))


def unpack_credit(header: bytes) -> int:
    """Return how many items a CREDIT grants. Raises `ProtocolError` if it is not a count."""
    items = decode_metered(header, (), HEADER_LIMITS)
    if type(items) is not int or not 0 <= items <= MAX_CREDIT:
        raise ProtocolError(f"a credit must be a count of items up to {MAX_CREDIT}")
    return items


def pack_verb(verb: str) -> bytes:
    """Return the header bytes of a request of the control plane."""
    return msgpack.packb([verb])  # type: ignore[no-any-return]


def unpack_verb(header: bytes) -> str:
    """Return what a request of the control plane asks for. Raises `ProtocolError` for anything else."""
    match decode_metered(header, (), HEADER_LIMITS):
        case [str(verb)]:
            return verb
        case other:
            raise ProtocolError(f"the header of a verb must be [verb], got {reprlib.repr(other)}")
