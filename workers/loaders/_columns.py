"""Tables of numbers from what callers pass: an array, nested lists, or a map of column names to columns.

Covers the checks that make a wrong table the caller's error, with what was expected. Needs NumPy, and pandas only for
data frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hostd_workers.api import MissingDependencyError
from hostd_workers.loaders._opening import import_library
from hostd_workers.wire.errors import FailedPreconditionError, InvalidArgumentError

NUMERIC = "biuf"
"""Kinds of dtype (numpy.dtype.kind) that a table of numbers may have."""


def matrix(data: object, names: Sequence[str] | None, width: int) -> np.ndarray[Any, Any]:
    """Return `data` as a matrix of `width` columns; a map's columns come in the order of `names`.

    Raises InvalidArgumentError, saying what was expected, for anything else.
    """
    if isinstance(data, Mapping):
        if names is None:
            raise InvalidArgumentError(f"the model does not know its columns' names; pass an array of {width} columns")
        columns = ordered(data, names)
        return np.column_stack([_numbers(column, f"the column {name!r}", 1) for name, column in columns.items()])
    array = _numbers(data, "the data", 2)
    if array.shape[1] != width:
        named = f" ({', '.join(names)})" if names else ""
        raise InvalidArgumentError(f"the model has {width} columns{named}, got an array of shape {array.shape}")
    return array


def ordered(data: Mapping[Any, Any], names: Sequence[str] | None) -> dict[str, Any]:
    """Return the columns of a map in the order of `names` (None: as they are).

    Raises InvalidArgumentError if they are not exactly these, or not of equal length.
    """
    if names is not None and set(names) != set(data):
        raise InvalidArgumentError(f"the model has the columns {list(names)}, got {list(data)}")
    columns = {str(name): data[name] for name in names or data}
    for name, column in columns.items():
        if not hasattr(column, "__len__") or isinstance(column, (str, bytes, Mapping)):
            raise InvalidArgumentError(f"the column {name!r} must be an array or a list, got {column!r}")
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InvalidArgumentError(f"the columns must be of equal length, got {lengths}")
    return columns


def frame(columns: Mapping[str, Any], extra: str) -> Any:
    """Return a pandas data frame of these columns; FailedPreconditionError without pandas."""
    try:
        pandas = import_library("pandas", extra)
    except MissingDependencyError as error:
        raise FailedPreconditionError("columns by name need pandas in the worker's interpreter") from error
    return pandas.DataFrame(dict(columns))


def _numbers(data: object, what: str, dimensions: int) -> np.ndarray[Any, Any]:
    shape = "a list or array of numbers" if dimensions == 1 else "rows of numbers, such as [[1, 2], [3, 4]]"
    if not isinstance(data, (np.ndarray, list, tuple)):
        raise InvalidArgumentError(f"{what} must be {shape}, got {type(data).__name__}")
    try:
        # None is how lists say that a value is missing.
        array = np.asarray(data, dtype=None if isinstance(data, np.ndarray) or not _has_none(data) else "float64")
    except (ValueError, TypeError) as error:
        raise InvalidArgumentError(f"{what} must be {shape}: {error}") from None
    if array.dtype.kind not in NUMERIC or array.ndim != dimensions:
        raise InvalidArgumentError(f"{what} must be {shape}, got {array.dtype} of shape {array.shape}")
    return array


def _has_none(data: Sequence[Any]) -> bool:
    return any(item is None or (isinstance(item, (list, tuple)) and None in item) for item in data)
