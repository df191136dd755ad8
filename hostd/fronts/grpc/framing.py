"""How messages of gRPC lie in a body: each with a byte that says whether it is compressed, and its length."""

from __future__ import annotations

import struct
from typing import Final, TypeAlias

from hostd_workers.wire.errors import InvalidArgumentError, MessageTooLargeError

Message: TypeAlias = tuple[bytes, bool]
"""The bytes of a message, and whether they are compressed."""

_PREFIX: Final = struct.Struct(">BI")
PREFIX_BYTES: Final = _PREFIX.size

_SMALL_BYTES: Final = 4096
"""Smaller parts lie together: each of two bytes would take sixty."""


def framed(message: bytes) -> bytes:
    """Return a message as it is sent."""
    return _PREFIX.pack(0, len(message)) + message


class Assembling:
    """The messages of one body, as it comes."""

    __slots__ = ("_is_compressed", "_max_bytes", "_parts", "_wanted_bytes", "bytes")

    def __init__(self, max_bytes: int) -> None:
        self.bytes = 0
        """Of the message that has not come whole, with its prefix."""
        self._max_bytes = max_bytes
        self._parts: list[bytes | bytearray] = []
        self._wanted_bytes: int | None = None
        self._is_compressed = False

    def __repr__(self) -> str:
        return f"<Assembling {self.bytes} of {self._wanted_bytes} bytes>"

    def take(self, data: bytes) -> list[Message]:
        """Return the messages that have come whole.

        Raises `MessageTooLargeError` as soon as a message says that it is, `InvalidArgumentError` for what is none.
        """
        self._add(data)
        found: list[Message] = []
        if self.bytes < (PREFIX_BYTES if self._wanted_bytes is None else self._wanted_bytes):
            return found
        whole = bytes(self._parts[0]) if len(self._parts) == 1 else b"".join(self._parts)
        position = 0
        while True:
            wanted_bytes = self._wanted_bytes
            if wanted_bytes is None:
                if len(whole) - position < PREFIX_BYTES:
                    break
                wanted_bytes = self._read_prefix(whole, position)
            end = position + wanted_bytes
            if len(whole) < end:
                break
            found.append((whole[position + PREFIX_BYTES : end], self._is_compressed))
            position, self._wanted_bytes = end, None
        rest = whole[position:]
        self._parts, self.bytes = [rest] if rest else [], len(rest)
        return found

    def _add(self, data: bytes) -> None:
        self.bytes += len(data)
        last = self._parts[-1] if self._parts else None
        if isinstance(last, bytearray) and len(last) < _SMALL_BYTES:
            last += data
        elif data:
            self._parts.append(bytearray(data) if len(data) < _SMALL_BYTES and self._parts else data)

    def _read_prefix(self, whole: bytes, position: int) -> int:
        flag, length = _PREFIX.unpack_from(whole, position)
        if flag > 1:
            raise InvalidArgumentError(f"a message begins with {flag}, expected 0, or 1 if it is compressed")
        if length > self._max_bytes:
            raise MessageTooLargeError(
                f"a message of the request has {length} bytes, at most {self._max_bytes} are accepted "
                "(fronts.max_body_bytes): send less at a time"
            )
        self._is_compressed, self._wanted_bytes = flag == 1, PREFIX_BYTES + length
        return PREFIX_BYTES + int(length)
