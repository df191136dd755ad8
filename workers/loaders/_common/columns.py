"""Tables from what callers pass: an array, nested lists, a map of column names to columns, or a list of records.

A record is a map of column names to values; all of a list have the same names. Covers the checks that make a wrong
table the caller's error, with what was expected. Needs NumPy, and pandas only for data frames.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hostd_workers.api import MissingDependencyError
from hostd_workers.loaders._common.opening import import_library
from hostd_workers.wire.errors import FailedPreconditionError, InvalidArgumentError
from hostd_workers.wire.installing import install_modules

NUMERIC = "biuf"
"""Kinds of dtype (numpy.dtype.kind) that a table of numbers may have."""


def matrix(data: object, names: Sequence[str] | None, width: int) -> np.ndarray[Any, Any]:
    """Return `data` as a matrix of `width` columns; columns by name, and records, come in the order of `names`.

    Raises InvalidArgumentError, saying what was expected, for anything else.
    """
    data = columns_of(data)
    if isinstance(data, Mapping):
        if names is None:
            raise InvalidArgumentError(f"the model does not know its columns' names; pass an array of {width} columns")
        columns = ordered(data, names)
        return np.column_stack([_numbers(column, f"the column {name!r}", 1) for name, column in columns.items()])
    array = _numbers(data, "the data", 2)
    if array.shape[1] != width:
        named = f" ({', '.join(names)})" if names else ""
        raise InvalidArgumentError(
            f"the model has {width} columns{named}, got an array of shape {array.shape}", details=expected(names, width)
        )
    return array


def columns_of(data: Any, names: Sequence[str] | None = None) -> Any:
    """Return the map of columns that a list of records is, with the columns `names` (None: those of the first record).

    Anything else is returned as it is. Raises InvalidArgumentError if a record has other columns.
    """
    if not isinstance(data, (list, tuple)) or not data or not all(isinstance(record, Mapping) for record in data):
        return data
    wanted = list(data[0]) if names is None else names
    for place, record in enumerate(data):
        if set(record) != set(wanted):
            raise InvalidArgumentError(
                f"the record {place} must have the columns {wanted}, got {list(record)}; None says that a value is "
                "missing",
                details=expected(names, None),
            )
    return {name: [record[name] for record in data] for name in wanted}


def expected(names: Sequence[str] | None, width: int | None) -> dict[str, Any]:
    """Return what a model expects, as details of an error: its `columns`, or how many `features`, where it knows."""
    details = {"columns": None if names is None else list(names), "features": width}
    return {name: value for name, value in details.items() if value is not None}


def ordered(data: Mapping[Any, Any], names: Sequence[str] | None) -> dict[str, Any]:
    """Return the columns of a map in the order of `names` (None: as they are).

    Raises InvalidArgumentError if they are not exactly these, or not of equal length.
    """
    if names is not None and set(names) != set(data):
        differing = [f"{what}: {found}" for what, found in _differences(list(data), list(names)).items() if found]
        raise InvalidArgumentError(
            f"the model has the columns {list(names)}, got {list(data)} ({'; '.join(differing)})",
            details=expected(names, len(names)),
        )
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
        raise FailedPreconditionError(
            f"columns by name need pandas, which {sys.executable} does not have; install it with: "
            f"{install_modules('pandas')}"
        ) from error
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


def _differences(given: list[Any], wanted: list[Any]) -> dict[str, list[Any]]:
    return {
        "missing": [name for name in wanted if name not in given],
        "unknown": [name for name in given if name not in wanted],
    }


def _has_none(data: Sequence[Any]) -> bool:
    return any(item is None or (isinstance(item, (list, tuple)) and None in item) for item in data)
