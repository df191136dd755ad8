"""The datatypes of the Open Inference Protocol and NumPy's, and shapes.

Covers names, sizes, checks and the conversion of BF16, for which NumPy has no dtype. Strings (BYTES) are in `texts`.
"""

from __future__ import annotations

import math
import reprlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hostd_workers.wire.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

BYTES: Final = "BYTES"
BF16: Final = "BF16"
BINARY_ONLY: Final = frozenset(("FP16", BF16))
"""Datatypes whose values travel in binary form only, as in Triton."""

DTYPES: Final[Mapping[str, np.dtype[Any]]] = MappingProxyType(
    {
        "BOOL": np.dtype("?"),
        "UINT8": np.dtype("u1"),
        "UINT16": np.dtype("<u2"),
        "UINT32": np.dtype("<u4"),
        "UINT64": np.dtype("<u8"),
        "INT8": np.dtype("i1"),
        "INT16": np.dtype("<i2"),
        "INT32": np.dtype("<i4"),
        "INT64": np.dtype("<i8"),
        "FP16": np.dtype("<f2"),
        "FP32": np.dtype("<f4"),
        "FP64": np.dtype("<f8"),
        BF16: np.dtype("<f4"),
    }
)
"""What a model gets. A BF16 value is the upper half of an FP32 value, so it becomes that, and nothing is lost."""

_BY_DTYPE: Final = {dtype.str: name for name, dtype in DTYPES.items() if name != BF16}

MAX_DIMENSIONS: Final = 32
"""The bound of NumPy before 2.0 (NPY_MAXDIMS)."""

MAX_ELEMENTS: Final = 1 << 48
"""No shape with more has its data in memory; it keeps the sizes of an empty array within NumPy's own arithmetic."""


def datatype_of(dtype: np.dtype[Any]) -> str | None:
    """Return the datatype of numbers or truth values of a dtype; None if the protocol has none."""
    return _BY_DTYPE.get(dtype.newbyteorder("<").str)


def item_bytes(datatype: str) -> int:
    """Return the size of an element in binary form."""
    return 2 if datatype == BF16 else DTYPES[datatype].itemsize


def check_datatype(datatype: object, where: str) -> str:
    """Return a datatype. Raises `InvalidArgumentError` if the protocol has none of that name."""
    if isinstance(datatype, str) and (datatype in DTYPES or datatype == BYTES):
        return datatype
    raise InvalidArgumentError(
        f"{where}: got datatype {reprlib.repr(datatype)}, expected one of {', '.join(sorted((*DTYPES, BYTES)))}"
    )


def check_shape(shape: object, where: str) -> tuple[int, ...]:
    """Return a shape. Raises `InvalidArgumentError` if it is not a list of sizes, or no memory could hold it."""
    if not (isinstance(shape, (list, tuple)) and all(type(size) is int and size >= 0 for size in shape)):
        raise InvalidArgumentError(
            f"{where}: got shape {reprlib.repr(shape)}, expected a list of sizes, each 0 or more"
        )
    if len(shape) > MAX_DIMENSIONS:
        raise InvalidArgumentError(f"{where}: got {len(shape)} dimensions, expected at most {MAX_DIMENSIONS}")
    # Without the zeros, which would hide sizes that overflow.
    if math.prod(size or 1 for size in shape) > MAX_ELEMENTS:
        raise InvalidArgumentError(f"{where}: the shape {list(shape)} has more than {MAX_ELEMENTS} elements")
    return tuple(shape)


def widened(halves: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return BF16 values, given as their bits, as FP32."""
    bits: NDArray[np.uint32] = halves.astype(np.uint32) << np.uint32(16)
    return bits.view(np.float32)


def narrowed(values: NDArray[Any]) -> NDArray[np.uint16]:
    """Return numbers as the bits of BF16 values, rounded to the nearest, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    upper = bits >> np.uint32(16)
    rounded = (bits + np.uint32(0x7FFF) + (upper & np.uint32(1))) >> np.uint32(16)
    # Rounding could turn a NaN into infinity; a bit of its mantissa keeps it one.
    is_nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    halves: NDArray[np.uint16] = np.where(is_nan, upper | np.uint32(0x40), rounded).astype("<u2")
    return halves


def shown(shape: Sequence[int]) -> str:
    """Return a shape for a message."""
    return f"[{', '.join(map(str, shape))}]"
