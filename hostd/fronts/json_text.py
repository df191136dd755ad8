"""JSON in and out, with the errors that a client is told; arrays and scalars of NumPy are lists and numbers."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import orjson

from hostd_workers.wire.errors import InvalidArgumentError, MessageTooLargeError, UnimplementedError

MAX_LISTS: Final = 1_000_000
MAX_VALUES: Final = 8_000_000
"""Of one JSON text: about half a second of parsing each."""

_SMALL_BYTES: Final = 64 << 10
_OPTIONS: Final = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


def json_of(value: object, what: str = "the model") -> bytes:
    """Return a value as JSON. Raises `UnimplementedError` if it has no such form; `what` has returned it."""
    try:
        return orjson.dumps(value, default=_plain, option=_OPTIONS)
    except orjson.JSONEncodeError as error:
        raise UnimplementedError(
            f"{what} returned a {type(value).__name__} that is neither tensors nor JSON ({error}): let it return an "
            f"array, a map of names to arrays, a list of arrays, or plain values"
        ) from None


def parsed(text: bytes | memoryview, what: str) -> Any:
    """Return the value of a JSON text. Raises `InvalidArgumentError`, `MessageTooLargeError` for too many values."""
    if len(text) > _SMALL_BYTES:
        _check_counts(bytes(text), what)
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidArgumentError(f"{what} is not JSON: {error}") from None


def _check_counts(text: bytes, what: str) -> None:
    """Refuse a text of which a few bytes each become an object: it would take gigabytes, and the loop for long."""
    lists, values = text.count(b"[") + text.count(b"{"), text.count(b",")
    if lists > MAX_LISTS or values > MAX_VALUES:
        raise MessageTooLargeError(
            f"{what} has {lists} lists and maps and {values} values, at most {MAX_LISTS} and {MAX_VALUES} are possible "
            "in JSON: send arrays in binary form"
        )


def _plain(value: object) -> object:
    if isinstance(value, (np.ndarray, np.generic)):  # those that orjson leaves: other orders, other dtypes
        return value.tolist()
    raise TypeError(f"a {type(value).__name__}")
