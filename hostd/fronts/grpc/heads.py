"""What the heads of requests and responses say (gRPC over HTTP/2)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from hostd.fronts.http2.frames import block_of
from hostd_workers.wire.errors import HostError, sayable

if TYPE_CHECKING:
    from hostd.fronts.http2.heads import Fields

ENCODINGS: Final = (b"identity", b"gzip", b"deflate")

MAX_WORDS_BYTES: Final = 4096
"""Of the words of an error, which travel percent-encoded in a trailer: clients take 8 KiB of trailers and no more."""

_CUT: Final = " ..."
_CONTENT_TYPE: Final = re.compile(rb"application/grpc(\+proto)?(;.*)?")
_TIMEOUT: Final = re.compile(rb"(\d{1,8})([HMSmun])")
_SECONDS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_SAFE: Final = "".join(chr(byte) for byte in range(0x20, 0x7F) if byte != ord("%"))
"""What is told as it is."""

_FORM: Final = block_of(((b"content-type", b"application/grpc"), (b"grpc-accept-encoding", b",".join(ENCODINGS))))

BEGIN: Final = b"\x88" + _FORM
"""The head of a response: the status 200 of HTTP (RFC 7541, appendix A, 8) and its form."""

SUCCESS: Final = block_of(((b"grpc-status", b"0"),))


@dataclass(frozen=True, eq=False)
class Head:
    """The head of a request. `http_status` is that of what is no request of gRPC, for which nothing else is told."""

    path: bytes = b""
    authorization: bytes | None = None
    encoding: bytes = b"identity"
    timeout_s: float | None = None
    http_status: int = 200


def head_of(fields: Fields) -> Head:
    """Return what the head of a request says."""
    found: dict[bytes, bytes] = {}
    for name, value in fields:
        found.setdefault(name, value)
    if found.get(b":method") != b"POST":
        return Head(http_status=405)
    if _CONTENT_TYPE.fullmatch(found.get(b"content-type", b"")) is None:
        return Head(http_status=415)
    timeout = found.get(b"grpc-timeout")
    timeout_s = None
    if timeout is not None:
        match = _TIMEOUT.fullmatch(timeout)
        if match is None:
            return Head(http_status=400)
        timeout_s = int(match[1]) * _SECONDS[match[2]]
    return Head(
        found.get(b":path", b""),
        found.get(b"authorization"),
        found.get(b"grpc-encoding", b"identity"),
        timeout_s,
    )


def failure(error: HostError) -> bytes:
    """Return the trailers that tell an error."""
    words = quote(words_of(error), safe=_SAFE)
    return block_of(((b"grpc-status", b"%d" % error.status), (b"grpc-message", words.encode())))


def refusal(http_status: int) -> bytes:
    """Return the head that refuses what is no request of gRPC."""
    return block_of(((b":status", b"%d" % http_status),)) + _FORM


def words_of(error: HostError) -> str:
    """Return what is told of an error, cut to what a trailer holds."""
    words = sayable(error.message)
    if len(quote(words, safe=_SAFE)) <= MAX_WORDS_BYTES:
        return words
    end = MAX_WORDS_BYTES
    while len(quote(words[:end], safe=_SAFE)) > MAX_WORDS_BYTES:
        end //= 2
    return words[:end] + _CUT
