"""The types of `signature` in a `model.yaml`: what methods take and return, by their names.

The worker checks what depends on the model (whether it has such a method) and what several values say together.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field

from hostd.config.plain import check_plain
from hostd_workers.wire.signatures import DATATYPES


def _is_datatype(value: str) -> str:
    if value not in DATATYPES:
        raise ValueError(f" must be one of {', '.join(DATATYPES)}, got {value!r}")
    return value


def _is_plain(value: dict[Any, Any]) -> dict[Any, Any]:
    check_plain(value, "")
    return value


class TensorSettings(BaseModel, extra="forbid", strict=True, defer_build=True):
    """An input or output of a method; see `hostd_workers.api.Tensor`."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    datatype: Annotated[str, AfterValidator(_is_datatype)] = ""
    shape: list[Annotated[int, Field(ge=-1, lt=2**63)]] | None = None
    optional: bool = False


class MethodSignature(BaseModel, extra="forbid", strict=True, defer_build=True):
    """What one method takes and returns; see `hostd_workers.api.Signature`."""

    inputs: list[TensorSettings] = []
    outputs: list[TensorSettings] = []
    passing: Literal["array", "map", "keywords"] | None = None
    batch_axis: Annotated[int, Field(ge=0)] | None = None
    example: Annotated[dict[Any, Any], AfterValidator(_is_plain)] | None = None
