"""What to send instead of a value that cannot travel: a call that works, for the types that people try."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

_TRAVELS = "None, bool, int, float, str, bytes, datetime, list, tuple, dict or a NumPy array"

_COLUMNS = "a map of its columns"
_BY_NAME: dict[str, dict[str, str]] = {
    "pandas": {
        "DataFrame": f'df.to_dict("list"), {_COLUMNS}',
        "Series": "series.tolist()",
        "Index": "index.tolist()",
        "ExtensionArray": "array.tolist()",
        "NAType": "None",
        "Timedelta": "value.to_timedelta64()",
        "Period": "str(period)",
        "Interval": "(interval.left, interval.right)",
    },
    "polars": {
        "DataFrame": f"df.to_dict(as_series=False), {_COLUMNS}",
        "LazyFrame": f"df.collect().to_dict(as_series=False), {_COLUMNS}",
        "Series": "series.to_list()",
    },
    "pyarrow": {"Table": f"table.to_pydict(), {_COLUMNS}", "RecordBatch": f"batch.to_pydict(), {_COLUMNS}"},
    "torch": {"Tensor": "tensor.detach().cpu().numpy()"},
    "scipy": {"spmatrix": "matrix.toarray()", "sparray": "array.toarray()", "_spbase": "matrix.toarray()"},
    "datetime": {"date": "value.isoformat()", "time": "value.isoformat()", "timedelta": "value.total_seconds()"},
    "decimal": {"Decimal": "str(value), or float(value)"},
    "fractions": {"Fraction": "float(value)"},
    "uuid": {"UUID": "str(value)"},
    "pathlib": {"PurePath": "str(path)"},
    "builtins": {
        "complex": "numpy.complex128(value)",
        "set": "list(value)",
        "frozenset": "list(value)",
        "range": "list(value)",
        "generator": "list(value)",
        "dict_keys": "list(value)",
        "dict_values": "list(value)",
        "dict_items": "list(value)",
    },
    "collections": {"deque": "list(value)"},
    "array": {"array": "value.tolist()"},
}
"""By the module's first part and a class's name, so that no library is imported to look."""


def instead_of(value: object) -> str:
    """Return what to send in place of a value that cannot travel, as the end of a sentence."""
    for kind in type(value).__mro__:
        call = _BY_NAME.get(kind.__module__.partition(".")[0], {}).get(kind.__name__)
        if call is not None:
            return f"send {call}"
    if isinstance(value, Mapping):
        return "send dict(value)"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return "send dataclasses.asdict(value)"
    if callable(getattr(value, "model_dump", None)):  # pydantic
        return "send value.model_dump()"
    return f"use {_TRAVELS}"
