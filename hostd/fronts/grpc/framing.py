"""How messages of gRPC lie in a body: each with a byte that says whether it is compressed, and its length."""

from __future__ import annotations

import struct
from typing import Final, TypeAlias

from hostd_workers.wire.errors import MessageTooLargeError

Message: TypeAlias = tuple[bytes, bool]
"""The bytes of a message, and whether they are compressed."""

_PREFIX: Final = struct.Struct(">BI")
PREFIX_BYTES: Final = _PREFIX.size


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
        self._parts: list[bytes] = []
        self._wanted_bytes: int | None = None
        self._is_compressed = False

    def __repr__(self) -> str:
        return f"<Assembling {self.bytes} of {self._wanted_bytes} bytes>"

    def take(self, data: bytes) -> list[Message]:
        """Return the messages that have come whole.

        Raises `MessageTooLargeError` as soon as a message says so.
        """
        found: list[Message] = []
        self._parts.append(data)
        self.bytes += len(data)
        while self.bytes >= (PREFIX_BYTES if self._wanted_bytes is None else self._wanted_bytes):
            whole = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            if self._wanted_bytes is None:
                flag, length = _PREFIX.unpack_from(whole)
                if length > self._max_bytes:
                    raise MessageTooLargeError(
                        f"a message of the request has {length} bytes, at most {self._max_bytes} are accepted "
                        "(fronts.max_body_bytes): send less at a time"
                    )
                self._is_compressed, self._wanted_bytes = bool(flag), PREFIX_BYTES + length
                self._parts = [whole]
                continue
            found.append((whole[PREFIX_BYTES : self._wanted_bytes], self._is_compressed))
            rest = whole[self._wanted_bytes :]
            self._parts, self.bytes, self._wanted_bytes = [rest], len(rest), None
        return found
