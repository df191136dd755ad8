"""What the methods of a model take and return: where it is known from, its checks, and its form on the wire.

A signature of `model.yaml` comes before one of the loader's, and that before the type hints of a method. Does not cover
how libraries are asked (the loaders do that).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from hostd_workers.api import Signature, Tensor
from hostd_workers.wire.errors import InvalidArgumentError, sayable
from hostd_workers.wire.signatures import DATATYPES, MAX_EXAMPLE_CHARS, MAX_TENSORS, PASSING, datatype_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MAX_NAME_CHARS = 200
_PLAIN = {bool: "BOOL", int: "INT64", float: "FP64", str: "BYTES", bytes: "BYTES"}
"""Types of single values, and of what is in lists."""


def described(
    methods: Mapping[str, Callable[..., Any]],
    default: str | None,
    declared: Mapping[str, Any],
    served: Mapping[str, Signature],
) -> dict[str, dict[str, Any]]:
    """Return by method, as plain values, what is known of its inputs and outputs; nothing for one of which nothing is.

    `declared` are the signatures of a `model.yaml`, `served` those of a `Served`. Beyond `MAX_TENSORS` the methods that
    come last are left out, the `default` one never.

    Raises InvalidArgumentError for a signature that is wrong, and for one of a method that the model does not have.
    """
    for where, given in (("signature in model.yaml", declared), ("Served.signatures", served)):
        if unknown := [name for name in given if name not in methods]:
            raise InvalidArgumentError(f"{where} names the method {unknown[0]!r}; the model has {', '.join(methods)}")
    found: dict[str, dict[str, Any]] = {}
    tensors = 0
    for name in sorted(methods, key=lambda name: name != default):
        if name in declared:
            signature: Signature | None = _of_map(declared[name], name)
        else:
            signature = served.get(name) or _of_hints(methods[name])
        if signature is None:
            continue
        plain = _plain(signature, name)
        tensors += len(plain["inputs"]) + len(plain["outputs"])
        if tensors <= MAX_TENSORS:
            found[name] = plain
    return found


# The form on the wire


def _plain(signature: Signature, method: str) -> dict[str, Any]:
    where = f"the signature of {method!r}"
    if not isinstance(signature, Signature):
        raise InvalidArgumentError(f"{where} must be a hostd_workers.api.Signature, got {type(signature).__name__}")
    inputs, outputs = (_tensors(getattr(signature, side), f"{where}: {side}") for side in ("inputs", "outputs"))
    passing = signature.passing or ("array" if len(inputs) == 1 else "keywords")
    if passing not in PASSING:
        raise InvalidArgumentError(f"{where}: passing is one of {', '.join(PASSING)}, got {passing!r}")
    if passing == "array" and len(inputs) > 1:
        raise InvalidArgumentError(f"{where}: passing 'array' is for one input, not {len(inputs)}; use map or keywords")
    axis = signature.batch_axis
    if axis is not None and (type(axis) is not int or axis < 0):
        raise InvalidArgumentError(f"{where}: batch_axis is an axis from 0 on, or none, got {axis!r}")
    return {
        "inputs": inputs,
        "outputs": outputs,
        "passing": passing,
        "batch_axis": axis,
        "known_from": "reported" if signature.known_from == "reported" else "declared",
        "example": _example(signature.example, [name for name, *_ in inputs], where),
    }


def _tensors(tensors: Any, where: str) -> list[list[Any]]:
    if not isinstance(tensors, (list, tuple)) or not all(isinstance(tensor, Tensor) for tensor in tensors):
        raise InvalidArgumentError(f"{where} must be a list of hostd_workers.api.Tensor")
    plain = [_tensor(tensor, where) for tensor in tensors]
    names = [name for name, *_ in plain]
    if twice := {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else ():
        raise InvalidArgumentError(f"{where}: the name {min(twice)!r} is there twice")
    return plain


def _tensor(tensor: Tensor, where: str) -> list[Any]:
    name, datatype, shape = tensor.name, tensor.datatype, tensor.shape
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME_CHARS:
        raise InvalidArgumentError(f"{where}: a name is text of 1 to {_MAX_NAME_CHARS} characters, got {name!r}")
    if datatype and datatype not in DATATYPES:
        raise InvalidArgumentError(f"{where}: {name!r} has the datatype {datatype!r}; one of {', '.join(DATATYPES)}")
    if shape is not None and not _is_shape(shape):
        raise InvalidArgumentError(f"{where}: {name!r} has the shape {shape!r}; a list of sizes, -1 for any, or none")
    return [sayable(name), datatype, None if shape is None else [int(size) for size in shape], bool(tensor.optional)]


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, (list, tuple)) and all(type(size) is int and -1 <= size < 1 << 63 for size in shape)


def _example(example: Any, names: list[str], where: str) -> str:
    """Return an example as JSON, "" if there is none."""
    if example is None:
        return ""
    if not isinstance(example, Mapping) or (unknown := [str(name) for name in example if name not in names]):
        got = type(example).__name__ if not isinstance(example, Mapping) else repr(unknown[0])
        raise InvalidArgumentError(f"{where}: example is a map of inputs ({', '.join(names)}) to values, got {got}")
    try:
        text = json.dumps(dict(example), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"{where}: example takes lists and plain values: {error}") from None
    if len(text) > MAX_EXAMPLE_CHARS:
        raise InvalidArgumentError(f"{where}: example has {len(text)} characters as JSON; {MAX_EXAMPLE_CHARS} at most")
    return text


# What a model.yaml says


def _of_map(given: Any, method: str) -> Signature:
    known = {"inputs", "outputs", "passing", "batch_axis", "example"}
    where = f"signature.{method}"
    if not isinstance(given, Mapping) or not set(given) <= known:
        raise InvalidArgumentError(f"{where} must be a map with {', '.join(sorted(known))}, got {given!r}")
    sides = {side: tuple(_of_maps(given.get(side) or (), f"{where}.{side}")) for side in ("inputs", "outputs")}
    rest = {name: value for name, value in given.items() if name not in sides and value is not None}
    return Signature(**{**rest, **sides})


def _of_maps(given: Any, where: str) -> Iterator[Tensor]:
    if not isinstance(given, (list, tuple)):
        raise InvalidArgumentError(f"{where} must be a list of maps, got {given!r}")
    for tensor in given:
        match tensor:
            case {"name": str()} if set(tensor) <= {"name", "datatype", "shape", "optional"}:
                yield Tensor(**{name: value for name, value in tensor.items() if value is not None})
            case _:
                raise InvalidArgumentError(f"{where}: a map with name, datatype, shape, optional; got {tensor!r}")


# Type hints


def _of_hints(function: Callable[..., Any]) -> Signature | None:
    """Return what the type hints of a method say, None if they say nothing of its arguments."""
    code = getattr(function, "__func__", function)
    if not getattr(code, "__annotations__", None):
        return None
    from inspect import Parameter, signature  # noqa: PLC0415 - few methods have hints

    try:
        hints = get_type_hints(code)
        parameters = list(signature(function).parameters.values())
    except Exception:  # noqa: BLE001 - hints are the model's own code, and may name what is not there
        return None
    if any(one.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD) for one in parameters):
        return None
    inputs, is_said = [], False
    for one in parameters:
        datatype, shape = _of_hint(hints.get(one.name))
        is_said = is_said or bool(datatype) or shape is not None
        inputs.append(Tensor(one.name, datatype, shape, optional=one.default is not Parameter.empty))
    positional = [one for one in parameters if one.kind is Parameter.POSITIONAL_ONLY]
    if not is_said or (positional and len(parameters) > 1):
        return None
    datatype, shape = _of_hint(hints.get("return"))
    outputs = [Tensor("output", datatype, shape)] if datatype or shape is not None else []
    return Signature(inputs, outputs, "array" if positional else "keywords")


def _of_hint(hint: Any) -> tuple[str, tuple[int, ...] | None]:
    """Return the datatype and the shape that a hint means, "" and None where it says nothing."""
    if hint in _PLAIN:
        return _PLAIN[hint], ()
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        rest = [each for each in arguments if each is not type(None)]
        return _of_hint(rest[0]) if len(rest) == 1 else ("", None)
    if origin is list and arguments:
        datatype, shape = _of_hint(arguments[0])
        return (datatype, (-1, *shape)) if shape is not None else ("", None)
    numpy = sys.modules.get("numpy")
    if numpy is not None and origin is numpy.ndarray and len(arguments) > 1:
        scalar = (get_args(arguments[1]) or ("",))[0]
        if scalar in numpy.sctypeDict.values():  # none that stands for several, such as numpy.floating
            return datatype_of(numpy.dtype(scalar).str), None
    return "", None
