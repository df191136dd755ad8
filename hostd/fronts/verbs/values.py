"""Values as JSON and msgpack, and the arguments of calls back.

JSON has arrays as nested lists, bytes as base64, NaN and the infinities as strings, and instants as ISO 8601 (the JSON
mapping of Protocol Buffers, https://protobuf.dev/programming-guides/json/), as `hostd infer` prints them. msgpack has
bytes and NaN as they are, and an array as a map of `dtype` (as the .npy format has it), `shape` and `data`, its bytes
in C order. Arguments in msgpack may have such maps; in JSON lists stay lists. Nothing is pickled, and no extension type
of msgpack is read.
"""

from __future__ import annotations

import base64
import math
import re
import reprlib
from typing import Any

import msgpack
import orjson

import hostd
from hostd.fronts.json_text import MAX_LISTS, parsed

_NOT_FINITE = {math.inf: "Infinity", -math.inf: "-Infinity"}
_ARRAY_KEYS = {"dtype", "shape", "data"}

# NumPy's own parser knows much more (aliases that warn, lists of fields of any length).
_DTYPE = re.compile(r"[<>|=]?[?biufcSUmM]\d{0,10}(\[\d{0,10}[A-Za-z]{1,7}\])?|bool|(int|uint|float|complex)\d{1,3}")
_EXACT_KINDS = "biu"

_MAX_DEPTH = 64
"""As the host has it; Python's own recursion ends soon after."""


def to_json(value: object) -> bytes:
    """Return a value as JSON. Raises `UnimplementedError` for what has no such form."""
    try:
        return orjson.dumps(_json_ready(value))
    except (TypeError, ValueError, SystemError) as error:  # text that is no Unicode, numbers that Python lacks
        raise hostd.UnimplementedError(
            f"the value has no form in JSON ({error}): ask for application/msgpack"
        ) from None


def to_msgpack(value: object) -> bytes:
    """Return a value as msgpack."""
    packed: bytes = msgpack.packb(value, default=_msgpack_ready)
    return packed


def from_json(data: bytes) -> Any:
    """Return the value of JSON. Raises `InvalidArgumentError` for what is none."""
    return parsed(data, "the body")


def from_msgpack(data: bytes) -> Any:
    """Return the value of msgpack. Raises `InvalidArgumentError` for what is none."""
    left = MAX_LISTS

    def count(container: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise hostd.MessageTooLargeError(f"the body has more than {MAX_LISTS} lists and maps")
        return container

    try:
        return msgpack.unpackb(data, ext_hook=_no_extension, list_hook=count, object_hook=count)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:  # UnicodeDecodeError is a ValueError, too
        raise hostd.InvalidArgumentError(f"the body is not msgpack: {error or type(error).__name__}") from None


def with_arrays(value: Any, depth: int = 0) -> Any:
    """Return an argument of a call with an array in the place of each map that says one."""
    if depth > _MAX_DEPTH:
        raise hostd.InvalidArgumentError(f"an argument has more than {_MAX_DEPTH} lists and maps in each other")
    if isinstance(value, list):
        return [with_arrays(item, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == _ARRAY_KEYS and isinstance(value["data"], bytes):
        return _array_of(**value)
    return {name: with_arrays(item, depth + 1) for name, item in value.items()}


def _json_ready(value: Any) -> Any:  # noqa: PLR0911 - one line per type is the shape of the mapping
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else _NOT_FINITE.get(value, "NaN")
        case dict():
            return {key if isinstance(key, str) else str(key): _json_ready(item) for key, item in value.items()}
        case list() | tuple():
            return [_json_ready(item) for item in value]
        case bytes() | bytearray() | memoryview():
            return base64.b64encode(value).decode("ascii")
    if hasattr(value, "tolist"):
        return value.tolist() if _is_plain(value) else _json_ready(value.tolist())
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if hasattr(value, "shape"):
        raise _needs_numpy()
    return repr(value)


def _is_plain(array: Any) -> bool:
    """Whether the list of an array needs no look at each item; that takes a microsecond for every one."""
    if array.dtype.kind == "f":
        import numpy  # noqa: ICN001, PLC0415 - it is there, since there is an array of it

        return bool(numpy.isfinite(array).all())
    return array.dtype.kind in _EXACT_KINDS


def _msgpack_ready(value: Any) -> Any:
    if hasattr(value, "tobytes") and value.shape != ():
        dtype = value.dtype.str if value.dtype.names is None else value.dtype.descr
        return {"dtype": dtype, "shape": list(value.shape), "data": value.tobytes()}
    if hasattr(value, "tolist"):
        return value.tolist()  # a scalar; packed again, or refused by itself
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if getattr(value, "order", "") == "C":  # what stands for an array where there is no NumPy
        return {"dtype": value.dtype, "shape": list(value.shape), "data": bytes(value.data)}
    if hasattr(value, "shape"):
        raise _needs_numpy()
    return repr(value)


def _needs_numpy() -> hostd.FailedPreconditionError:
    return hostd.FailedPreconditionError(
        "there is an array, and no NumPy where this front runs: pip install numpy there, or ask for a list"
    )


def _array_of(dtype: object, shape: object, data: bytes) -> Any:
    try:
        import numpy  # noqa: ICN001, PLC0415 - 100 ms that a front without arrays does not pay
    except ImportError:
        raise _needs_numpy() from None
    if not isinstance(dtype, str) or _DTYPE.fullmatch(dtype) is None:
        raise hostd.InvalidArgumentError(
            f"an array's dtype must be as the .npy format has it, such as '<f4', got {reprlib.repr(dtype)}"
        )
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise hostd.InvalidArgumentError(f"an array's shape must be a list of sizes, got {reprlib.repr(shape)}")
    try:
        parsed = numpy.dtype(dtype)
        needed_bytes = parsed.itemsize * math.prod(shape)
        made = numpy.ndarray(tuple(shape), parsed, data)
    except (TypeError, ValueError) as error:
        raise hostd.InvalidArgumentError(f"an array of {len(data)} bytes cannot be made: {error}") from None
    if needed_bytes != len(data):  # NumPy takes a buffer that is too long
        raise hostd.InvalidArgumentError(f"an array of {dtype} and {shape} has {needed_bytes} bytes, got {len(data)}")
    return made


def _no_extension(code: int, _: bytes) -> Any:
    raise ValueError(f"it has an extension of type {code}, and none is read")
