"""NumPy arrays to their parts and back, and what stands in for them where there is no NumPy.

The parts of an array are `(dtype, shape, order, data)`: `dtype` is the string or field list of the .npy format
(`numpy.lib.format.dtype_to_descr`), `shape` a list of ints, `order` "C" or "F", and `data` its contiguous bytes. Object
arrays have no such form and are refused. NumPy is imported only when the first array arrives, and never to send.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from workers.wire.errors import InvalidArgumentError

if TYPE_CHECKING:
    from types import ModuleType

    from workers.wire.frames import Buffer


@dataclass(frozen=True)
class ArrayView:
    """An array where there is no NumPy: `dtype` and `shape` as in the .npy format, `order` "C" or "F", raw `data`."""

    dtype: Any
    shape: tuple[int, ...]
    order: str
    data: Buffer


def is_array(obj: object) -> bool:
    """Say whether `obj` is a NumPy array or an `ArrayView`, without importing NumPy."""
    numpy = sys.modules.get("numpy")
    return isinstance(obj, ArrayView) or (numpy is not None and isinstance(obj, numpy.ndarray))


def is_scalar(obj: object) -> bool:
    """Say whether `obj` is a NumPy scalar, without importing NumPy."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(obj, numpy.generic)


def parts_of(array: Any, copy_below_bytes: int = 0) -> tuple[Any, tuple[int, ...], str, Buffer]:
    """Return `(dtype, shape, order, data)`; `data` is a copy of a small or non-contiguous array, else a view.

    Raises `InvalidArgumentError` for an object dtype.
    """
    if isinstance(array, ArrayView):
        return array.dtype, array.shape, array.order, array.data
    dtype = array.dtype
    if dtype.hasobject:
        raise InvalidArgumentError(
            f"an array of dtype {dtype} holds Python objects, which do not travel: "
            f"convert it to a fixed-size dtype, or send a list"
        )
    described = dtype.str if dtype.names is None else _describe(dtype)
    if array.nbytes <= copy_below_bytes:
        return described, array.shape, "C", array.tobytes()
    numpy: Any = sys.modules["numpy"]
    order = "F" if array.ndim > 1 and array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    flat = array.T if order == "F" else numpy.ascontiguousarray(array)
    # A view as bytes, because not every dtype (datetime64, for one) offers the buffer protocol itself.
    return described, array.shape, order, memoryview(flat.reshape(-1).view(numpy.uint8))


def array_of(dtype: Any, shape: Any, order: Any, data: Buffer) -> Any:
    """Return the array of these parts, as a view of `data` (writable if `data` is).

    Raises `InvalidArgumentError` for parts that do not fit each other or name an object dtype.
    """
    if not (isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape) and order in ("C", "F")):
        raise InvalidArgumentError("a malformed array: its shape must be a list of sizes and its order C or F")
    numpy = _numpy()
    if numpy is None:
        return ArrayView(dtype, tuple(shape), order, data)
    parsed = _parse_dtype(numpy, dtype)
    if parsed.itemsize * math.prod(shape) != len(data):
        raise InvalidArgumentError(
            f"a malformed array: {parsed} of shape {tuple(shape)} needs {parsed.itemsize * math.prod(shape)} bytes, "
            f"it came with {len(data)}"
        )
    try:
        return numpy.ndarray(tuple(shape), parsed, data, order=order)
    except (ValueError, TypeError) as error:
        raise InvalidArgumentError(f"a malformed array: {error}") from None


def _describe(dtype: Any) -> Any:
    numpy_format: Any = sys.modules["numpy"].lib.format
    return numpy_format.dtype_to_descr(dtype)


def _parse_dtype(numpy: Any, dtype: Any) -> Any:
    try:
        parsed = numpy.dtype(dtype) if isinstance(dtype, str) else numpy.lib.format.descr_to_dtype(_fields(dtype))
    except (ValueError, TypeError, SyntaxError, IndexError, RecursionError) as error:
        raise InvalidArgumentError(f"a malformed array: unknown dtype {str(dtype)[:100]!r} ({error})") from None
    if parsed.hasobject:
        raise InvalidArgumentError("an array of Python objects was refused: only fixed-size dtypes travel")
    return parsed


def _fields(descr: Any) -> Any:
    """Return the field list with the tuples that NumPy wants where msgpack has lists."""
    if isinstance(descr, str):
        return descr
    if isinstance(descr, list) and descr and isinstance(descr[0], str):  # (dtype, shape)
        return (_fields(descr[0]), tuple(descr[1]))
    if not isinstance(descr, list):
        raise TypeError("a dtype is a string or a list of fields")
    return [
        (
            tuple(name) if isinstance(name, list) else name,
            _fields(sub),
            *(tuple(s) if isinstance(s, list) else s for s in rest),
        )
        for name, sub, *rest in descr
    ]


@lru_cache(maxsize=1)
def _numpy() -> ModuleType | None:
    try:
        import numpy as np  # noqa: PLC0415 - 100 ms and 20 MB that a worker without arrays does not pay
    except ImportError:
        return None
    return np
