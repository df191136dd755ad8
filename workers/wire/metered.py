"""Decoding at a bounded cost: for headers, and for all else that a host reads itself.

Everybody waits while a host decodes a request. What costs is containers and extensions: 256 KiB may be a quarter of a
million empty lists (45 ms) or 80,000 tuples (55 ms), where the same bytes of text take 0.1 ms. So they are counted as
they are made, and at a budget the decoding ends.

Arrays stay `ArrayView`s here, which travel on as the arrays that they are, and single numbers and texts of NumPy become
Python's own: a host never pays for the import of NumPy.
"""

from __future__ import annotations

import struct
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgpack

from hostd_workers.wire.arrays import MAX_DIMENSIONS, ArrayView
from hostd_workers.wire.codec import EXT_TUPLE, Decoder, Limits
from hostd_workers.wire.errors import InvalidArgumentError
from hostd_workers.wire.light_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hostd_workers.wire.frames import Buffer


@dataclass(frozen=True)
class Budget:
    """What a body may cost: its bytes, the values in it, the elements of a list and of a map, the depth of containers.

    `buffer_bytes` is for all buffers together. A tuple counts as 16 values, a date, an array and a scalar of NumPy as
    many as they have bytes in the body.
    """

    body_bytes: int
    values: int
    list_len: int
    map_len: int
    depth: int
    buffer_bytes: int = 0

    @cached_property
    def limits(self) -> Limits:
        """What of this msgpack checks itself."""
        return Limits(self.depth, self.list_len, self.body_bytes)


_VALUES_PER_TUPLE = 16
"""They take 1 us each, and as keys of maps anybody can make thousands with one and the same hash."""

_COPIED_BYTES_PER_VALUE = 64
"""A tuple's data is copied for each tuple that it is in."""

_NUMBERS = {"b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q"}
_NUMBERS |= {"f2": "e", "f4": "f", "f8": "d"}
"""From NumPy's dtypes to the formats of `struct`."""


def decode_metered(body: Buffer, buffers: Sequence[Buffer], budget: Budget) -> Any:
    """Return the value of a body. Raises `InvalidArgumentError` as `decode` does, and for what is over the budget."""
    if len(body) > budget.body_bytes:
        raise InvalidArgumentError(f"the body has {len(body)} bytes, at most {budget.body_bytes} are allowed here")
    if buffers:
        # memoryview, because the length of ZeroMQ's frames is that of their bytes but a view's may be another.
        size_bytes = sum(memoryview(buffer).nbytes for buffer in buffers)
        if size_bytes > budget.buffer_bytes:
            raise InvalidArgumentError(
                f"arrays and big byte strings have {size_bytes} bytes, at most {budget.buffer_bytes} are allowed here"
            )
    return _Metered(buffers, budget).decode(body)


class _Metered(Decoder):
    """A decoding that counts values; `_left` is how many there may still be."""

    __slots__ = ("_budget", "_left")

    def __init__(self, buffers: Sequence[Buffer], budget: Budget) -> None:
        super().__init__(buffers, budget.limits)
        self._budget = budget
        self._left = budget.values

    def _unpack(self, body: Buffer) -> Any:
        return msgpack.unpackb(body, **self._options())

    def _options(self) -> dict[str, Any]:
        options = super()._options()
        options["max_map_len"] = self._budget.map_len
        options["list_hook"] = self._list
        options["object_hook"] = self._map
        return options

    def _spend(self, values: int) -> None:
        self._left -= values
        if self._left < 0:
            raise InvalidArgumentError(
                f"the body holds too much: at most {self._budget.values} values are allowed here"
            )

    def _list(self, items: list[Any]) -> list[Any]:
        self._spend(len(items) or 1)
        return items

    def _map(self, items: dict[Any, Any]) -> dict[Any, Any]:
        self._spend(2 * len(items) or 1)
        return items

    def _ext(self, code: int, data: bytes) -> Any:
        is_tuple = code == EXT_TUPLE
        self._spend(_VALUES_PER_TUPLE + len(data) // _COPIED_BYTES_PER_VALUE if is_tuple else 1 + len(data))
        return super()._ext(code, data)

    def _array(self, dtype: Any, shape: Any, order: Any, data: Buffer) -> Any:
        if not (isinstance(shape, list) and len(shape) <= MAX_DIMENSIONS and all(type(size) is int for size in shape)):
            raise InvalidArgumentError("a malformed array: its shape must be a list of sizes")
        return ArrayView(dtype, tuple(shape), order, data)

    def _scalar(self, dtype: Any, data: bytearray) -> Any:
        if isinstance(dtype, str):
            kind, order = dtype[1:], ">" if dtype[:1] == ">" else "<"
            code = _NUMBERS.get(kind)
            if code is not None and struct.calcsize(order + code) == len(data):
                return struct.unpack(order + code, data)[0]
            if kind[:1] == "U":
                return data.decode("utf-32-be" if order == ">" else "utf-32-le").rstrip("\0")
        return ArrayView(dtype, (), "C", data)
