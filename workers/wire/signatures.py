"""What both sides know of the signatures of methods: datatypes of the Open Inference Protocol, and bounds."""

from __future__ import annotations

from typing import Final

PASSING: Final = ("array", "map", "keywords")
"""How the inputs of a method are passed: the only one as the first argument, all in one map, or each by its name."""

MAX_TENSORS: Final = 2000
"""Inputs and outputs of all methods of a model together: a table has hundreds of columns."""

MAX_EXAMPLE_CHARS: Final = 16 * 1024

NUMPY_DTYPES: Final = {
    "BOOL": "|b1",
    "UINT8": "|u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "|i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
"""The datatypes that NumPy has, with the dtype of each (`numpy.dtype.str`)."""

DATATYPES: Final = (*NUMPY_DTYPES, "BF16", "BYTES")

_BY_DTYPE: Final = {dtype: datatype for datatype, dtype in NUMPY_DTYPES.items()}


def datatype_of(dtype: str) -> str:
    """Return the datatype of a NumPy dtype (`numpy.dtype.str`), "" if there is none: complex numbers, instants."""
    if dtype[1:2] in ("U", "S", "O"):
        return "BYTES"
    return _BY_DTYPE.get(dtype, "")
