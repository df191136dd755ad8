"""Compressed bodies: gzip and deflate, in and out (RFC 9110, 8.4).

What is inflated is bounded while it is inflated. "deflate" is the zlib format; some programs send bare deflate data
under that name (RFC 9110, 8.4.1.2, says so), and are understood, too.
"""

from __future__ import annotations

import asyncio
import zlib
from typing import Final

from hostd.fronts.asgi import too_large
from hostd.fronts.bodies import hold
from hostd.fronts.errors import UnsupportedMediaTypeError
from hostd_workers.wire.errors import InvalidArgumentError

_BITS: Final = {"gzip": 31, "x-gzip": 31, "deflate": zlib.MAX_WBITS}

_LEVEL: Final = 1
"""Level 1 is three times as fast as the default of 6, and floats are as incompressible for both."""

MIN_BYTES: Final = 1400
"""What fits a packet gains nothing from being smaller."""

IN_THREAD_BYTES: Final = 256 * 1024
"""From this size on (about a millisecond) the event loop must not wait for the work."""

_PART_BYTES: Final = 16 << 20
"""What is inflated before it is counted."""

_SLICE_BYTES: Final = 4096
"""What is given to zlib at a time: it copies what is left of it for each part, and for each member of a gzip file."""


async def inflated(body: bytes, encoding: bytes | None, max_bytes: int) -> bytes:
    """Return the body of a request with this `Content-Encoding`.

    Raises `UnsupportedMediaTypeError`, `InvalidArgumentError` for what is damaged, `MessageTooLargeError` when it gets
    larger than `max_bytes`, and `FrontFullError`.
    """
    name = "" if encoding is None else encoding.decode("latin-1").strip().lower()
    if name in ("", "identity"):
        return body
    if name not in _BITS:
        raise UnsupportedMediaTypeError(f"got Content-Encoding {name!r:.100}, expected gzip or deflate, or none")
    # Any size may come of a small body.
    return await asyncio.to_thread(_inflate, body, name, max_bytes)


async def deflated(body: bytes, encoding: str) -> bytes:
    """Return a body in an encoding that `accepted` has chosen."""
    if len(body) < IN_THREAD_BYTES:
        return _deflate(body, encoding)
    return await asyncio.to_thread(_deflate, body, encoding)


def accepted(header: bytes | None) -> str | None:
    """Return the encoding to use for a client with this `Accept-Encoding`: gzip, deflate, or None."""
    if header is None:
        return None
    weights: dict[str, float] = {}
    for part in header.decode("latin-1").lower().split(","):
        name, _, parameter = part.partition(";")
        weights[name.strip()] = _weight(parameter)
    best = max(("gzip", "deflate"), key=lambda name: weights.get(name, 0.0))  # the first of equals
    return best if weights.get(best, 0.0) > 0 else None


def _weight(parameter: str) -> float:
    name, _, value = parameter.strip().partition("=")
    try:
        return float(value) if name.strip() == "q" else 1.0
    except ValueError:
        return 0.0


def _inflate(body: bytes, name: str, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    bits = _BITS[name]
    if name == "deflate" and not _has_zlib_header(body):
        bits = -zlib.MAX_WBITS
    slices = (body[begin : begin + _SLICE_BYTES] for begin in range(0, len(body), _SLICE_BYTES))
    rest = next(slices, b"")
    while rest:
        member = zlib.decompressobj(bits)
        while not member.eof:
            rest = rest or next(slices, b"")
            try:
                part = member.decompress(rest, min(max_bytes - size + 1, _PART_BYTES))
            except zlib.error as error:
                raise InvalidArgumentError(f"the body of the request is not {name}: {error}") from None
            size += len(part)
            if size > max_bytes:
                raise too_large(size, max_bytes)
            hold(len(part))
            if part:
                parts.append(part)
            elif not rest and not member.eof:
                raise InvalidArgumentError(f"the body of the request is {name} that is cut off")
            rest = member.unconsumed_tail
        # A gzip file may have several members.
        rest = (member.unused_data or next(slices, b"")) if bits == _BITS["gzip"] else b""
    return b"".join(parts)


def _has_zlib_header(body: bytes) -> bool:
    """Say whether a body begins as RFC 1950, 2.2, has it."""
    return len(body) >= 2 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0


def _deflate(body: bytes, encoding: str) -> bytes:
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, _BITS[encoding])
    return compressor.compress(body) + compressor.flush()
