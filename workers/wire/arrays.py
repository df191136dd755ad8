"""NumPy arrays to their parts and back, and what stands in for them where there is no NumPy.

The parts of an array are `(dtype, shape, order, data)`: `dtype` is the string or field list of the .npy format
(`numpy.lib.format.dtype_to_descr`), `shape` a list of ints, `order` "C" or "F", and `data` its contiguous bytes. Object
arrays have no such form and are refused. NumPy is imported only when the first array arrives, and never to send.
"""

from __future__ import annotations

import math
import reprlib
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from hostd_workers.wire.errors import InvalidArgumentError
from hostd_workers.wire.light import pattern
from hostd_workers.wire.light_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from hostd_workers.wire.frames import Buffer

MAX_DIMENSIONS = 64
"""NumPy's own bound (NPY_MAXDIMS); a longer shape from a peer would only keep a core busy with its product."""

MAX_FIELDS = 4096
"""Of a structured dtype, nested ones included: NumPy takes seconds to build one of a million fields."""

# What `numpy.dtype.str` yields, but "O": bytes must never be taken for pointers to objects. NumPy's parser knows much
# more (aliases that warn, comma strings of any length).
_DTYPE = pattern(r"[<>|=]?[?biufcmMSUV]\d{0,10}(\[\d{0,10}[A-Za-z]{1,7}\])?")


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

    Raises `InvalidArgumentError` for an object dtype, one that only an extension of NumPy knows, and an instance of a
    subclass that is more than its data (a masked array, one with a unit).
    """
    if isinstance(array, ArrayView):
        return array.dtype, array.shape, array.order, array.data
    dtype = array.dtype
    numpy: Any = sys.modules["numpy"]
    if type(array) is not numpy.ndarray and isinstance(array, numpy.ndarray):
        array = _plain(numpy, array)
    if dtype.hasobject:
        raise InvalidArgumentError(
            f"an array of dtype {dtype} holds Python objects, which do not travel: "
            f"convert it to a fixed-size dtype, or send a list"
        )
    described = dtype.str if dtype.names is None else _describe(numpy, dtype)
    if dtype.isbuiltin == _REGISTERED:
        raise InvalidArgumentError(
            f"an array of dtype {dtype} would arrive as raw bytes ({described}): "
            f"convert it to a dtype of NumPy's own, or send array.view('u{dtype.itemsize}')"
        )
    if array.nbytes <= copy_below_bytes:
        return described, array.shape, "C", array.tobytes()
    order = "F" if array.ndim > 1 and array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    flat = array.T if order == "F" else numpy.ascontiguousarray(array)
    # A view as bytes, because not every dtype (datetime64, for one) offers the buffer protocol itself.
    return described, array.shape, order, memoryview(flat.reshape(-1).view(numpy.uint8))


def array_of(dtype: Any, shape: Any, order: Any, data: Buffer) -> Any:
    """Return the array of these parts, as a view of `data` (writable if `data` is).

    Raises `InvalidArgumentError` for parts that do not fit each other or name an object dtype.
    """
    if not (
        isinstance(shape, list)
        and len(shape) <= MAX_DIMENSIONS
        and all(type(n) is int and n >= 0 for n in shape)
        and order in ("C", "F")
    ):
        raise InvalidArgumentError(
            f"a malformed array: its shape must be a list of at most {MAX_DIMENSIONS} sizes and its order C or F"
        )
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


_REGISTERED = 2
"""`numpy.dtype.isbuiltin` of the dtypes that extensions add (bfloat16); they describe themselves as raw bytes."""


def _plain(numpy: Any, array: Any) -> Any:
    """Return an instance of a subclass as a plain array of the same data, unless it is more than these."""
    if hasattr(array, "mask"):
        raise InvalidArgumentError("a masked array would lose its mask: send array.filled(...), or data and mask")
    kind = type(array)
    own = getattr(array, "__dict__", None)
    # NumPy's own (matrix, recarray, memmap) only behave differently; those of others keep a unit or the like beside.
    if own and kind.__module__.partition(".")[0] != "numpy":
        raise InvalidArgumentError(
            f"a {kind.__module__}.{kind.__qualname__} would lose {', '.join(sorted(own))}: send numpy.asarray(array), "
            f"and these beside it"
        )
    return numpy.asarray(array)


def _describe(numpy: Any, dtype: Any) -> Any:
    try:
        described = numpy.lib.format.dtype_to_descr(dtype)
    except ValueError:
        described = None
    if described is None or numpy.lib.format.descr_to_dtype(described) != dtype:
        raise InvalidArgumentError(
            f"an array of dtype {dtype} cannot be described: use fields that do not overlap, in the order of their "
            f"offsets, of dtypes of NumPy's own"
        )
    return described


def _parse_dtype(numpy: Any, dtype: Any) -> Any:
    try:
        if isinstance(dtype, str):
            parsed = _named(numpy, dtype)
        else:
            parsed = numpy.lib.format.descr_to_dtype(_fields(dtype, iter(range(MAX_FIELDS))))
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, RecursionError) as error:
        # reprlib, because the repr of what a peer sent may be huge, or nested more deeply than repr can go.
        raise InvalidArgumentError(f"a malformed array: unknown dtype {reprlib.repr(dtype)} ({error})") from None
    return parsed


@lru_cache(maxsize=64)
def _named(numpy: Any, dtype: str) -> Any:
    return numpy.dtype(_checked(dtype))


def _checked(dtype: str) -> str:
    if _DTYPE.fullmatch(dtype) is None:
        raise ValueError("it must be one that the .npy format writes, such as '<f8', '|S5' or '<M8[us]'")
    return dtype


def _fields(descr: Any, budget: Iterator[int]) -> Any:
    """Return the field list with the tuples that NumPy wants where msgpack has lists; `budget` bounds their number."""
    if isinstance(descr, str):
        return _checked(descr)
    if not isinstance(descr, list):
        raise TypeError("a dtype is a string or a list of fields")
    fields = []
    for name, sub, *rest in descr:
        if next(budget, None) is None:
            raise ValueError(f"at most {MAX_FIELDS} fields")
        shape = [tuple(s) if isinstance(s, list) else s for s in rest]
        fields.append((tuple(name) if isinstance(name, list) else name, _fields(sub, budget), *shape))
    return fields


@lru_cache(maxsize=1)
def _numpy() -> ModuleType | None:
    try:
        import numpy as np  # noqa: PLC0415 - 100 ms and 20 MB that a worker without arrays does not pay
    except ImportError:
        return None
    return np
