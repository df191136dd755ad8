"""Named tensors of the Open Inference Protocol: their JSON form, their binary form, and what models take and return.

Pure: no protocol's messages, no model's declarations. Numbers are NumPy arrays, views of the request's bytes where they
came in binary form; strings are nested lists (`texts`).

In JSON a NaN or an infinity is `null`, as `JSON.stringify` has it, and a `null` among floats is read as NaN: JSON has
none of them, and most parsers refuse the literals that some writers use. The binary form holds all values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hostd.fronts import texts
from hostd.fronts.datatypes import (
    BF16,
    BINARY_ONLY,
    BYTES,
    DTYPES,
    MAX_DIMENSIONS,
    check_datatype,
    check_shape,
    datatype_of,
    item_bytes,
    narrowed,
    shown,
    widened,
)
from hostd_workers.wire.errors import InvalidArgumentError, UnimplementedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hostd_workers.wire.frames import Buffer

_OF_KIND: Final[Mapping[str, frozenset[type]]] = {
    "b": frozenset((bool,)),
    "i": frozenset((int,)),
    "u": frozenset((int,)),
    "f": frozenset((int, float, type(None))),
}
"""The types of JSON values that an array of each kind may be made of: nothing is rounded or read from strings."""

_INT64: Final = np.iinfo(np.int64)
_UINT64: Final = np.iinfo(np.uint64)


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor: an array (of FP32 for BF16), or for BYTES nested lists of `str` or `bytes`."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Any
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    @property
    def element(self) -> Any:
        """The only element of a tensor that has one, as a plain Python value."""
        return texts.flattened(self.data)[0] if self.datatype == BYTES else self.data.reshape(-1)[0].item()


def from_json(name: str, datatype: object, shape: object, data: object) -> Tensor:
    """Return the tensor of an input whose `data` is JSON, flat or nested.

    Raises `InvalidArgumentError` that names the input, for an unknown datatype, a wrong shape, another number of
    elements than the shape has, and elements that the datatype cannot hold.
    """
    where = f"input {name!r}"
    known, sizes = check_datatype(datatype, where), check_shape(shape, where)
    if known in BINARY_ONLY:
        raise InvalidArgumentError(f"{where}: {known} does not travel as JSON: send it in binary form, or as FP32")
    flat = texts.flattened(data)
    if len(flat) != (count := math.prod(sizes)):
        raise InvalidArgumentError(f"{where}: got {len(flat)} elements, expected {count}, by its shape {shown(sizes)}")
    if known == BYTES:
        _check_types(flat, frozenset((str,)), known, where)
        return Tensor(name, known, sizes, texts.nested(flat, sizes, where))
    return Tensor(name, known, sizes, _numbers(flat, known, where).reshape(sizes))


def from_elements(name: str, datatype: str, shape: object, elements: list[bytes]) -> Tensor:
    """Return the tensor of an input of strings, given flat. Raises `InvalidArgumentError` if their number is wrong."""
    where = f"input {name!r}"
    sizes = check_shape(shape, where)
    return Tensor(name, datatype, sizes, texts.of_elements(elements, sizes, where))


def from_raw(name: str, datatype: object, shape: object, raw: Buffer) -> Tensor:
    """Return the tensor of an input in its binary form; numbers are a view of `raw`, but BF16 and odd truth values.

    Raises `InvalidArgumentError` that names the input, for an unknown datatype, a wrong shape and a wrong size.
    """
    where = f"input {name!r}"
    known, sizes = check_datatype(datatype, where), check_shape(shape, where)
    if known == BYTES:
        return Tensor(name, known, sizes, texts.of_raw(raw, sizes, where))
    expected = math.prod(sizes) * item_bytes(known)
    if len(raw) != expected:
        raise InvalidArgumentError(
            f"{where}: got {len(raw)} bytes, expected {expected}, by its datatype {known} and shape {shown(sizes)}"
        )
    if known == BF16:
        return Tensor(name, known, sizes, widened(np.ndarray(sizes, "<u2", raw)))
    if known == "BOOL":
        # A NumPy bool of another byte than 0 and 1 is neither equal to True nor to False.
        units = np.ndarray(sizes, np.uint8, raw)
        return Tensor(name, known, sizes, units != 0 if units.size and units.max() > 1 else units.view(np.bool_))
    return Tensor(name, known, sizes, np.ndarray(sizes, DTYPES[known], raw))


def to_json(tensor: Tensor) -> Any:
    """Return the elements of an output, flat, as orjson takes them: an array, or a list of strings.

    Raises `InvalidArgumentError` for what has only a binary form.
    """
    where = f"output {tensor.name!r}"
    if tensor.datatype in BINARY_ONLY:
        raise InvalidArgumentError(
            f"{where} is {tensor.datatype}, which does not travel as JSON: ask for it in binary form (parameters "
            f'{{"binary_data": true}}), or for all outputs ({{"binary_data_output": true}})'
        )
    if tensor.datatype == BYTES:
        return texts.texts_of(tensor.data, where)
    return np.ascontiguousarray(tensor.data, tensor.data.dtype.newbyteorder("=")).reshape(-1)


def to_raw(tensor: Tensor) -> Buffer:
    """Return the elements of an output in their binary form; a view of the array where that has it."""
    if tensor.datatype == BYTES:
        return texts.raw_of(tensor.data)
    if tensor.datatype == BF16:
        return narrowed(tensor.data).tobytes()
    array: Any = np.ascontiguousarray(tensor.data, DTYPES[tensor.datatype])
    return memoryview(array.reshape(-1).view(np.uint8))


def of_result(name: str, value: object) -> Tensor | None:
    """Return the tensor of an array, a scalar, or nested lists of them; None if the value is something else.

    Scalars get the shape [1]. Raises `UnimplementedError` for an array whose dtype the protocol does not know.
    """
    if isinstance(value, (np.ndarray, np.generic)):
        return _of_array(name, np.asarray(value))
    if isinstance(value, (list, tuple)):
        return _of_lists(name, value)
    return _of_elements(name, [value], (1,))


def _of_array(name: str, array: Any) -> Tensor:
    shape = array.shape or (1,)
    if array.dtype.kind in "US":
        flat = array.reshape(-1).tolist()
        return Tensor(name, BYTES, shape, texts.nested(flat, shape, f"output {name!r}"))
    datatype = datatype_of(array.dtype)
    if datatype is None:
        raise UnimplementedError(
            f"output {name!r} is an array of {array.dtype}, for which the Open Inference Protocol has no datatype: "
            f"let the model return numbers (astype), truth values or strings"
        )
    return Tensor(name, datatype, shape, array.reshape(shape))


def _of_lists(name: str, value: Sequence[Any]) -> Tensor | None:
    shape: list[int] = []
    level: list[Any] = [value]
    while level and all(isinstance(part, (list, tuple)) for part in level):
        if len(sizes := set(map(len, level))) != 1:
            return None
        shape += sizes
        level = list(chain.from_iterable(level))
    if not level:
        return Tensor(name, "FP64", tuple(shape), np.empty(shape))
    return _of_elements(name, level, tuple(shape)) if len(shape) <= MAX_DIMENSIONS else None


def _of_elements(name: str, flat: list[Any], shape: tuple[int, ...]) -> Tensor | None:
    kinds = set(map(type, flat))
    if kinds <= {str, bytes}:
        return Tensor(name, BYTES, shape, texts.nested(flat, shape, f"output {name!r}"))
    if all(issubclass(kind, np.generic) for kind in kinds):
        return _of_array(name, np.asarray(flat).reshape(shape))
    datatype = _datatype_of_values(kinds, flat)
    return None if datatype is None else Tensor(name, datatype, shape, np.array(flat, DTYPES[datatype]).reshape(shape))


def _datatype_of_values(kinds: set[type], flat: list[Any]) -> str | None:
    if kinds == {bool}:
        return "BOOL"
    if kinds == {int}:
        low, high = min(flat), max(flat)
        if _INT64.min <= low and high <= _INT64.max:
            return "INT64"
        return "UINT64" if low >= 0 and high <= _UINT64.max else None
    return "FP64" if kinds <= {int, float} else None


def _numbers(flat: list[Any], datatype: str, where: str) -> Any:
    dtype = DTYPES[datatype]
    _check_types(flat, _OF_KIND[dtype.kind], datatype, where)
    if dtype.kind in "iu" and flat:
        limits = np.iinfo(dtype)
        # Not NumPy's own check: before 2.0 it wraps around.
        low, high = min(flat), max(flat)
        if low < limits.min or high > limits.max:
            raise InvalidArgumentError(
                f"{where}: got values from {low} to {high}, expected {datatype}: {limits.min} to {limits.max}"
            )
        return np.array(flat, dtype)
    if dtype.kind == "f":
        return narrower(np.array(flat, np.float64), dtype, where)
    return np.array(flat, dtype)


def narrower(array: Any, dtype: np.dtype[Any], where: str) -> Any:
    """Return an array of floats as another dtype. Raises `InvalidArgumentError` if values would become infinite."""
    if array.dtype == dtype:
        return array
    try:
        with np.errstate(over="raise"):
            return array.astype(dtype, copy=False)
    except FloatingPointError:
        raise InvalidArgumentError(f"{where}: got values that are too big for {dtype}") from None


def _check_types(flat: list[Any], expected: frozenset[type], datatype: str, where: str) -> None:
    others = set(map(type, flat)) - expected
    if others:
        raise InvalidArgumentError(
            f"{where}: got {' and '.join(sorted(kind.__name__ for kind in others))} among its data, expected {datatype}"
        )
