"""JSON in and out, with the errors that a client is told; arrays and scalars of NumPy are lists and numbers."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import orjson

from hostd_workers.wire.errors import InvalidArgumentError, UnimplementedError

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
    """Return the value of a JSON text. Raises `InvalidArgumentError`."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidArgumentError(f"{what} is not JSON: {error}") from None


def _plain(value: object) -> object:
    if isinstance(value, (np.ndarray, np.generic)):  # those that orjson leaves: other orders, other dtypes
        return value.tolist()
    raise TypeError(f"a {type(value).__name__}")
