"""Whether a UBJSON document is whole (https://ubjson.org, draft 12), without making values of it.

XGBoost 3.2 reads beyond the end of one that was cut short, which ends the process.
"""

from __future__ import annotations

from dataclasses import dataclass

_INT_BYTES = {b"i": 1, b"U": 1, b"I": 2, b"l": 4, b"L": 8}
_BYTES = {**_INT_BYTES, b"d": 4, b"D": 8, b"C": 1, b"T": 0, b"F": 0, b"Z": 0, b"N": 0}
_STRINGS = (b"S", b"H")
_CLOSING = {b"{": b"}", b"[": b"]"}


class _DamagedError(Exception):
    """Something else than what must stand there, or nothing."""


def is_whole(content: bytes | bytearray) -> bool:
    """Say whether `content` is one UBJSON object from its first byte to its last."""
    skim = _Skim(content)
    try:
        return content[:1] == b"{" and skim.value() == len(content)
    except _DamagedError:
        return False


@dataclass
class _Open:
    """A container that is being walked over: an object or an array, and how many items are left if that was said."""

    kind: bytes
    left: int | None = None


class _Skim:
    """Walks over a document; nested containers are a list, so that no depth is too much."""

    def __init__(self, content: bytes | bytearray) -> None:
        self._content = content
        self._at = 0

    def value(self) -> int:
        """Walk over one value and return where it ends."""
        open_containers: list[_Open] = []
        self._item(open_containers)
        while open_containers:
            inner = open_containers[-1]
            if inner.left == 0 or (inner.left is None and self._sees(_CLOSING[inner.kind])):
                self._skip(0 if inner.left == 0 else 1)
                open_containers.pop()
                continue
            if inner.left is not None:
                inner.left -= 1
            if inner.kind == b"{":
                self._skip(self._length())
            self._item(open_containers)
        return self._at

    def _item(self, open_containers: list[_Open]) -> None:
        marker = self._take(1)
        if marker in _BYTES:
            self._skip(_BYTES[marker])
        elif marker in _STRINGS:
            self._skip(self._length())
        elif marker == b"[" and self._sees(b"$"):
            # Numbers of one type: [$ type # count
            size = _BYTES.get(self._take(2)[1:])
            if size is None or self._take(1) != b"#":
                raise _DamagedError
            self._skip(size * self._length())
        elif marker == b"[" and self._sees(b"#"):
            self._skip(1)
            open_containers.append(_Open(marker, self._length()))
        elif marker in _CLOSING:
            open_containers.append(_Open(marker))
        else:
            raise _DamagedError

    def _sees(self, marker: bytes) -> bool:
        return self._content[self._at : self._at + 1] == marker

    def _length(self) -> int:
        size = _INT_BYTES.get(self._take(1))
        if size is None:
            raise _DamagedError
        length = int.from_bytes(self._take(size), "big", signed=True)
        if length < 0:
            raise _DamagedError
        return length

    def _take(self, count: int) -> bytes:
        begin = self._at
        self._skip(count)
        return bytes(self._content[begin : self._at])

    def _skip(self, count: int) -> None:
        self._at += count
        if self._at > len(self._content):
            raise _DamagedError
