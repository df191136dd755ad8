"""A call to try a method with: of its author's example, else of its inputs, else of its type hints."""

from __future__ import annotations

import ast
import math
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hostd.records import MethodInfo, TensorInfo

_MAX_VALUES: Final = 128
"""Of a call that somebody copies: longer ones hide what they are about."""

_VALUES: Final = {"BOOL": True, "BYTES": "text", "": 0.5, "FP16": 0.5, "FP32": 0.5, "FP64": 0.5, "BF16": 0.5}
"""By datatype; of all others 1."""

_HINTED: Final[dict[str, Any]] = {
    "str": "text",
    "int": 1,
    "float": 0.5,
    "bool": True,
    "list": [1, 2],
    "dict": {"key": 1},
}
"""What an argument of an annotated type may look like."""


class ExampleCall(NamedTuple):
    """The arguments of a call, as lists and plain values; `is_of_arrays`: some of them are to be arrays."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = MappingProxyType({})
    is_of_arrays: bool = False


def example_of(method: MethodInfo) -> ExampleCall | None:
    """Return a call that the method takes, as far as that is known; None if it is not."""
    if not method.inputs:
        return _of_hints(method.signature)
    values = method.example or _values(method.inputs)
    if values is None:
        return None
    is_of_arrays = method.known_from == "declared" and any(
        tensor.shape and tensor.datatype not in ("", "BYTES") for tensor in method.inputs if tensor.name in values
    )
    if method.passing == "array":
        return ExampleCall((next(iter(values.values())),), {}, is_of_arrays)
    if method.passing == "map":
        return ExampleCall((values,), {}, is_of_arrays)
    return ExampleCall((), values, is_of_arrays)


def _values(inputs: tuple[TensorInfo, ...]) -> dict[str, Any] | None:
    """Return a value for each input that is needed, one row of each; None if a shape is not known, or is large."""
    needed = [tensor for tensor in inputs if not tensor.optional]
    shapes = {tensor.name: [abs(size) for size in tensor.shape] for tensor in needed if tensor.shape is not None}
    if len(shapes) < len(needed) or sum(map(math.prod, shapes.values())) > _MAX_VALUES:
        return None
    return {tensor.name: _filled(_VALUES.get(tensor.datatype, 1), shapes[tensor.name]) for tensor in needed}


def _filled(value: Any, shape: list[int]) -> Any:
    for size in reversed(shape):
        value = [value] * size
    return value


def _of_hints(signature: str) -> ExampleCall | None:
    """Return a call with a value for the one argument that is needed, by its annotation."""
    try:
        definition = ast.parse(f"def f{signature}: ...").body[0]
    except SyntaxError:  # a default value is shown by its repr, which may be anything
        return None
    if not isinstance(definition, ast.FunctionDef):
        return None
    arguments = definition.args
    positional = [*arguments.posonlyargs, *arguments.args]
    if not positional:
        has_needs = arguments.vararg or any(default is None for default in arguments.kw_defaults)
        return None if has_needs else ExampleCall()
    if len(arguments.defaults) == len(positional):
        return ExampleCall()
    annotation = positional[0].annotation
    said = ast.unparse(annotation).strip("'\"").partition("[")[0] if annotation else ""
    return ExampleCall((_HINTED[said],)) if said in _HINTED else None
