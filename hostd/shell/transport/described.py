"""What a worker says of the methods of its model, made into records; a worker may say anything."""

from __future__ import annotations

import json
from typing import Any

from hostd.records import MethodInfo, TensorInfo
from hostd_workers.wire.errors import ProtocolError
from hostd_workers.wire.signatures import MAX_EXAMPLE_CHARS


def method_of(described: object) -> MethodInfo:
    """Return the record of a method. Raises `ProtocolError` if it is not described as the protocol says."""
    match described:
        case {
            "name": str(name),
            "streams": bool(streams),
            "is_async": bool(is_async),
            "signature": str(signature),
            "doc": str(doc),
        }:
            return MethodInfo(name, streams, is_async, signature, doc, **_signature(described))
        case _:
            raise ProtocolError("a malformed method")


def _signature(described: Any) -> dict[str, Any]:
    match described:
        case {
            "inputs": list(inputs),
            "outputs": list(outputs),
            "known_from": str(known_from),
            "passing": str(passing),
            "batch_axis": None | int() as batch_axis,
            "example": str(example),
        } if len(example) <= MAX_EXAMPLE_CHARS:
            return {
                "inputs": tuple(map(_tensor, inputs)),
                "outputs": tuple(map(_tensor, outputs)),
                "known_from": known_from,
                "passing": passing,
                "batch_axis": batch_axis,
                "example": _example(example),
            }
        case {"inputs": _}:
            raise ProtocolError("a malformed signature")
        case _:
            return {}


def _tensor(described: object) -> TensorInfo:
    match described:
        case [str(name), str(datatype), None | list() as shape, bool(optional)] if _are_sizes(shape):
            return TensorInfo(name, datatype, None if shape is None else tuple(shape), optional)
        case _:
            raise ProtocolError("a malformed input or output")


def _are_sizes(shape: list[Any] | None) -> bool:
    return shape is None or all(type(size) is int for size in shape)


def _example(text: str) -> dict[str, object] | None:
    if not text:
        return None
    try:
        example = json.loads(text)
    except (ValueError, RecursionError):
        example = None
    if not isinstance(example, dict):
        raise ProtocolError("a malformed example")
    return example
