"""Turns what frameworks return into arrays and values that can travel.

Covers object and variable-width string arrays, sparse matrices and data frames, alone or in lists and tuples. Knows
them by what they offer, so it imports no library.
"""

from __future__ import annotations

from typing import Any


def travelling(value: Any) -> Any:
    """Return `value` with its arrays in a form that the wire has.

    A sparse matrix becomes a dense array and a data frame an array of its values; an object array becomes a string
    array of the same shape if all its items are strings, else a nested list. Anything else is returned as it is.
    """
    if isinstance(value, (list, tuple)):
        items = [travelling(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if hasattr(value, "toarray"):
        value = value.toarray()
    elif hasattr(value, "to_numpy"):
        value = value.to_numpy()
    kind = getattr(getattr(value, "dtype", None), "kind", None)
    if kind in {"O", "T"}:
        value = value.astype(object)  # from StringDType NumPy casts to a fixed width by this way only
        return value.astype("U") if all(isinstance(item, str) for item in value.flat) else value.tolist()
    return value
