"""Tensors to the arguments of a method, and a method's result to tensors.

Rules
1. What a record declares is checked: names, what may be left out, datatypes that can be cast safely (`same_kind` of
   NumPy), ranks and fixed sizes. What it does not declare is not.
2. The record's `passing` says how inputs are passed. Where it does not, one tensor is the first positional argument;
   several are keyword arguments if the signature has all their names, else one map.
3. Results become tensors by what they are: arrays, maps of names to values, lists of arrays, scalars and nested lists.
   Anything else is a string of JSON.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hostd.fronts.datatypes import BYTES, DTYPES, shown
from hostd.fronts.json_text import json_of
from hostd.fronts.signatures import parameters_of
from hostd.fronts.tensors import Tensor, narrower, of_result
from hostd_workers.wire.errors import InvalidArgumentError, UnimplementedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from hostd.records import MethodInfo, ModelInfo, TensorInfo

OUTPUT: Final = "output_0"
"""The name of an only output that nobody has named."""

_TABLE: Final = 2
"""Axes of a table."""

JSON: Final = {"content_type": "json"}
"""The parameters of an output that is a string of JSON."""

ArgumentsOfCall = tuple[tuple[Any, ...], dict[str, Any]]


def method_of(info: ModelInfo, name: str | None = None) -> MethodInfo:
    """Return a method of a model by name, or its default one, or `predict`.

    Raises `UnimplementedError` if it has no such method, or no default.
    """
    wanted = name or info.default_method or "predict"
    found = info.methods.get(wanted)
    if found is None:
        served = ", ".join(sorted(info.methods)) or "none"
        missing = f"no method {wanted!r}" if name else "no default method"
        raise UnimplementedError(
            f'model {info.id!r} has {missing}: name one in the parameter "method"; it has: {served}'
        )
    return found


def arguments_of(method: MethodInfo, tensors: Sequence[Tensor]) -> ArgumentsOfCall:
    """Return the positional and the keyword arguments of a call.

    Raises `InvalidArgumentError` that names the input, for what does not fit what the method declares.
    """
    if _is_table(method, tensors):
        return (tensors[0].data,), {}
    values = _checked(method, tensors) if method.inputs else {tensor.name: tensor.data for tensor in tensors}
    if len(values) < len(tensors):
        twice = next(t.name for i, t in enumerate(tensors) if any(t.name == other.name for other in tensors[:i]))
        raise InvalidArgumentError(f"input {twice!r} is given twice")
    passing = method.passing or _passing_of(method, values)
    if passing == "keywords":
        return (), values
    if passing == "map":
        return (values,), {}
    if len(values) > 1:
        raise InvalidArgumentError(
            f"method {method.name!r} takes one input, got {len(values)}: {', '.join(map(repr, values))}"
        )
    return tuple(values.values()), {}


def tensors_of(method: MethodInfo, result: object) -> list[Tensor]:
    """Return the tensors of a result; of a map with an array in it each value is one, in JSON if it has to be.

    Raises `UnimplementedError` for a result that is neither tensors nor JSON, saying what to return instead.
    """
    declared = [output.name for output in method.outputs]
    if isinstance(result, dict):
        is_named = bool(result) and all(isinstance(name, str) for name in result)
        if is_named and any(isinstance(value, np.ndarray) for value in result.values()):
            return [of_result(name, value) or _as_json(method, value, name) for name, value in result.items()]
        found = _each(result.items()) if is_named else None
    elif isinstance(result, (list, tuple)) and any(isinstance(part, np.ndarray) for part in result):
        names = declared if len(declared) == len(result) else [f"output_{i}" for i in range(len(result))]
        found = _each(zip(names, result, strict=True))
    else:
        found = _each([(declared[0] if declared else OUTPUT, result)])
    return found or [_as_json(method, result)]


def selected(tensors: Sequence[Tensor], names: Iterable[str]) -> list[Tensor]:
    """Return the outputs of these names, in their order; `InvalidArgumentError` for a name that is none."""
    by_name = {tensor.name: tensor for tensor in tensors}
    found = []
    for name in names:
        if name not in by_name:
            raise InvalidArgumentError(f"there is no output {name!r}, expected one of: {', '.join(map(repr, by_name))}")
        found.append(by_name[name])
    return found


def _is_table(method: MethodInfo, tensors: Sequence[Tensor]) -> bool:
    """Say whether all columns of a table come as one tensor, in their order: models of tables take that, too."""
    if method.passing != "map" or len(tensors) != 1:
        return False
    (tensor,) = tensors
    is_column = any(tensor.name == info.name for info in method.inputs)
    return not is_column and len(tensor.shape) == _TABLE and tensor.shape[1] == len(method.inputs)


def _checked(method: MethodInfo, tensors: Sequence[Tensor]) -> dict[str, Any]:
    declared = {info.name: info for info in method.inputs}
    if method.passing == "array" and len(method.inputs) == len(tensors) == 1:
        # Its name goes nowhere, and clients call it "x", "input-0" or "input__0".
        (info,) = method.inputs
        return {info.name: _fitting(info, tensors[0])}
    values = {}
    for tensor in tensors:
        if tensor.name not in declared:
            raise InvalidArgumentError(
                f"got input {tensor.name!r}, expected of method {method.name!r}: {', '.join(map(repr, declared))}"
            )
        values[tensor.name] = _fitting(declared[tensor.name], tensor)
    missing = [info.name for info in method.inputs if not info.optional and info.name not in values]
    if missing:
        got = ", ".join(map(repr, values)) or "none"
        raise InvalidArgumentError(
            f"input {missing[0]!r} is missing: method {method.name!r} expects "
            f"{', '.join(map(repr, declared))}, got {got}"
        )
    return values


def _fitting(info: TensorInfo, tensor: Tensor) -> Any:
    """Return the value of an input for the model, in the declared dtype."""
    where = f"input {tensor.name!r}"
    fitting = Tensor(tensor.name, tensor.datatype, tensor.shape, _cast(info, tensor, where))
    if info.shape is None:
        return fitting.data
    if info.shape == ():
        if tensor.count != 1:
            raise InvalidArgumentError(f"{where}: got shape {shown(tensor.shape)}, expected a single value ([1] or [])")
        return fitting.element
    is_alike = len(info.shape) == len(tensor.shape)
    if not is_alike or any(size not in (-1, got) for size, got in zip(info.shape, tensor.shape, strict=True)):
        raise InvalidArgumentError(
            f"{where}: got shape {shown(tensor.shape)}, expected {shown(info.shape)} (-1 is any size)"
        )
    return fitting.data


def _cast(info: TensorInfo, tensor: Tensor, where: str) -> Any:
    if info.datatype in ("", tensor.datatype):
        return tensor.data
    wanted = DTYPES.get(info.datatype)
    is_text = BYTES in (info.datatype, tensor.datatype)
    if wanted is None and not is_text:
        return tensor.data  # a datatype of a newer host
    if is_text or wanted is None or not np.can_cast(tensor.data.dtype, wanted, "same_kind"):
        raise InvalidArgumentError(f"{where}: got datatype {tensor.datatype}, expected {info.datatype}")
    if wanted.kind == "f":
        return narrower(tensor.data, wanted, where)
    cast = tensor.data.astype(wanted, copy=False)
    if wanted.itemsize < tensor.data.dtype.itemsize and not np.array_equal(cast, tensor.data):
        raise InvalidArgumentError(f"{where}: got {tensor.datatype} values that are too big for {info.datatype}")
    return cast


def _passing_of(method: MethodInfo, values: Mapping[str, Any]) -> str:
    parameters = parameters_of(method.signature)
    if len(values) == 1:
        is_named_only = not parameters.takes_a_place and all(map(parameters.takes, values))
        return "keywords" if is_named_only else "array"
    if not values:
        return "keywords"
    return "keywords" if all(map(parameters.takes, values)) else "map"


def _each(named: Iterable[tuple[str, object]]) -> list[Tensor] | None:
    found = []
    for name, value in named:
        tensor = of_result(name, value)
        if tensor is None:
            return None
        found.append(tensor)
    return found


def _as_json(method: MethodInfo, result: object, name: str = OUTPUT) -> Tensor:
    return Tensor(name, BYTES, (1,), [json_of(result, f"method {method.name!r}").decode()], JSON)
