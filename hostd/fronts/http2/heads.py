"""The heads of requests, read once where a client sends the same again.

Clients of gRPC send the same head with each call, each field as one byte that names an entry of the table that both
sides keep. To read it takes 25 us. Such a block changes nothing in the table, so it means the same until another kind
of block is read, which may.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Generic, TypeAlias

import hpack

from hostd.fronts.http2.events import BrokenRuleError, T
from hostd.fronts.http2.frames import COMPRESSION_ERROR, ENHANCE_YOUR_CALM

if TYPE_CHECKING:
    from collections.abc import Callable

    Fields: TypeAlias = list[tuple[bytes, bytes]]

MAX_HEAD_BYTES: Final = 64 << 10
"""Of the fields of a head, and of the block that they come in."""

_IS_OF_NAMES: Final = re.compile(rb"[\x81-\xfe]+")
_MAX_KNOWN: Final = 32


class Heads(Generic[T]):
    """What a connection makes of each head."""

    def __init__(self, make: Callable[[Fields], T]) -> None:
        self._make = make
        self._decoder = hpack.Decoder(MAX_HEAD_BYTES)
        self._known: dict[bytes, T] = {}

    def __repr__(self) -> str:
        return f"<Heads known={len(self._known)}>"

    def read(self, block: bytes) -> T:
        """Return what is made of a block. Raises `BrokenRuleError`: after it, no block can be read."""
        known = self._known.get(block)
        if known is not None:
            return known
        try:
            fields = self._decoder.decode(block, raw=True)
        except hpack.OversizedHeaderListError:
            raise BrokenRuleError(ENHANCE_YOUR_CALM, f"a head has at most {MAX_HEAD_BYTES} bytes") from None
        except hpack.HPACKError as error:
            raise BrokenRuleError(COMPRESSION_ERROR, f"a head cannot be read: {error}") from None
        made = self._make([(bytes(name), bytes(value)) for name, value in fields])
        if _IS_OF_NAMES.fullmatch(block) is None:
            self._known.clear()
        elif len(self._known) < _MAX_KNOWN:
            self._known[block] = made
        return made
