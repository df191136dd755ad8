"""TorchScript modules and exported programs as models with methods.

Covers what may be passed to an input and which errors are the caller's. Needs NumPy; torch comes from outside.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from hostd_workers.api import Signature, Tensor
from hostd_workers.loaders._common.opening import first_lines
from hostd_workers.loaders._common.reported import signature, sizes
from hostd_workers.wire.errors import InvalidArgumentError
from hostd_workers.wire.signatures import datatype_of

if TYPE_CHECKING:
    from hostd_workers.loaders._common.tensors import Tensors

_SCALARS: dict[str, tuple[str, tuple[int, ...] | None]] = {
    "int": ("INT64", ()),
    "float": ("FP64", ()),
    "bool": ("BOOL", ()),
    "str": ("BYTES", ()),
}
# How PyTorch complains of an operation between tensors of two dtypes.
_ABOUT_DTYPES = re.compile(r"same dtype|expected scalar type|expected m1 and m2|data type")


class ScriptModel:
    """A TorchScript module: what its `forward` takes and returns, with arrays for tensors."""

    def __init__(self, torch: Any, module: Any, tensors: Tensors) -> None:
        self._torch = torch
        self._module = module
        self._tensors = tensors
        arguments = module.forward.schema.arguments[1:]  # after self
        self._types = {argument.name: str(argument.type) for argument in arguments}

    def __repr__(self) -> str:
        return f"ScriptModel({self._module.original_name}, inputs={list(self._types)})"

    def predict(self, /, *args: Any, **inputs: Any) -> Any:
        """Return what the model's forward returns, with arrays for its tensors.

        An input that is a tensor takes an array, of the dtype that the model computes in, or a number or a nested list.
        """
        names = [*self._types, *("?" for _ in args)]  # PyTorch says it, if there are too many
        positional = [self._converted(name, value) for name, value in zip(names, args, strict=False)]
        named = {name: self._converted(name, value) for name, value in inputs.items()}
        try:
            with self._torch.inference_mode():
                result = self._module(*positional, **named)
        except RuntimeError as error:
            # Its check of the arguments ends with the declaration; everything else comes from inside the model.
            if str(error).startswith("forward()") and "Declaration:" in str(error):
                raise InvalidArgumentError(f"the model refused its inputs: {first_lines(error)}") from error
            if _ABOUT_DTYPES.search(str(error)):
                self._check_dtypes([*positional, *named.values()], error)
            raise
        return self._tensors.arrays(result)

    def describe(self) -> dict[str, Any]:
        """Return the kind of the model and the inputs (name and type)."""
        return {"kind": "torchscript", "inputs": [{"name": name, "type": type} for name, type in self._types.items()]}

    def signatures(self) -> dict[str, Signature]:
        """Return the inputs of its declaration: names, and what is no tensor; the shapes are not known."""
        arguments = self._module.forward.schema.arguments[1:]
        inputs = []
        for argument in arguments:
            datatype, shape = _SCALARS.get(str(argument.type), ("", None))
            inputs.append(Tensor(argument.name, datatype, shape, argument.has_default_value()))
        return {"predict": signature(inputs, passing="array" if len(inputs) == 1 else "keywords")}

    def _converted(self, name: str, value: Any) -> Any:
        type = self._types.get(name, "")
        if type == "Tensor" or (type == "Optional[Tensor]" and value is not None):
            return self._tensors.tensor(value, name)
        if "Tensor" in type:
            return self._tensors.nested(value, name)
        return value.item() if isinstance(value, np.generic) else value

    def _check_dtypes(self, inputs: list[Any], error: Exception) -> None:
        given = {tensor.dtype for tensor in inputs if isinstance(tensor, self._torch.Tensor)}
        computes = {weight.dtype for weight in self._module.parameters() if weight.is_floating_point()}
        other = {dtype for dtype in given if dtype.is_floating_point} - computes
        if computes and other:
            raise InvalidArgumentError(
                f"the model computes in {_names_of(computes)}, got {_names_of(other)}; convert the input with x.astype"
            ) from error


class ExportedModel:
    """An exported program: the inputs of the module it was made from, with arrays for tensors."""

    def __init__(self, torch: Any, program: Any, tensors: Tensors) -> None:
        self._torch = torch
        self._module = program.module()
        self._tensors = tensors
        nodes = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
        self._inputs = {str(name): nodes.get(name) for name in program.graph_signature.user_inputs}
        spec = program.call_spec.in_spec
        # The places of the inputs, as numbers: a program may take its tensors in lists and maps.
        self._args, self._kwargs = torch.utils._pytree.tree_unflatten(range(len(self._inputs)), spec)  # noqa: SLF001
        self._is_flat = all(isinstance(place, int) for place in [*self._args, *self._kwargs.values()])

    def __repr__(self) -> str:
        return f"ExportedModel(inputs={list(self._inputs)})"

    def predict(self, /, *args: Any, **inputs: Any) -> Any:
        """Return what the exported module returns, with arrays for its tensors.

        Inputs come in the module's order or by name. A tensor takes an array of its dtype (for bfloat16 and the like,
        which NumPy lacks, float32), or a number or a nested list.
        """
        if self._is_flat:
            args, inputs = self._placed(args, inputs)
        else:
            args = tuple(self._tensors.nested(value, str(place)) for place, value in enumerate(args))
            inputs = {name: self._tensors.nested(value, name) for name, value in inputs.items()}
        try:
            with self._torch.inference_mode():
                result = self._module(*args, **inputs)
        except (ValueError, AssertionError) as error:  # of the structure of the inputs, and of the guards on sizes
            raise InvalidArgumentError(f"the model refused its inputs: {first_lines(error)}") from error
        return self._tensors.arrays(result)

    def describe(self) -> dict[str, Any]:
        """Return the kind of the model and the inputs (name, dtype and shape; an open size is None)."""
        inputs = [
            {
                "name": name,
                "dtype": str(value.dtype).removeprefix("torch."),
                "shape": [size if isinstance(size, int) else None for size in value.shape],
            }
            if isinstance(value, self._torch.Tensor)
            else {"name": name, "value": value}
            for name, value in self._inputs.items()
        ]
        return {"kind": "exported", "inputs": inputs}

    def signatures(self) -> dict[str, Signature]:
        """Return the inputs of the graph; nothing of a program that takes its tensors in lists and maps."""
        tensors = {name: value for name, value in self._inputs.items() if isinstance(value, self._torch.Tensor)}
        if not self._is_flat or len(tensors) < len(self._inputs):
            return {}
        inputs = [Tensor(name, _datatype_of(value.dtype), sizes(value.shape)) for name, value in tensors.items()]
        is_batched = all(tensor.shape and tensor.shape[0] == -1 for tensor in inputs)
        passing = "array" if len(inputs) == 1 else "keywords"
        return {"predict": signature(inputs, passing=passing, batch_axis=0 if is_batched else None)}

    def _placed(self, args: tuple[Any, ...], inputs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        names = list(self._inputs)
        if len(args) > len(names):
            raise InvalidArgumentError(f"the model takes {self._known()} ({len(names)} in all), got {len(args)}")
        given = dict(zip(names, args, strict=False))
        if twice := [name for name in given if name in inputs]:
            raise InvalidArgumentError(f"the input {twice[0]!r} was given twice, by position and by name")
        given.update(inputs)
        if unknown := [name for name in given if name not in self._inputs]:
            raise InvalidArgumentError(f"the model has no input {unknown[0]!r}; it has {self._known()}")
        if missing := [name for name in names if name not in given]:
            raise InvalidArgumentError(f"the input {missing[0]!r} is missing; the model has {self._known()}")
        values = [self._converted(name, given[name]) for name in names]
        return tuple(values[place] for place in self._args), {
            name: values[place] for name, place in self._kwargs.items()
        }

    def _converted(self, name: str, value: Any) -> Any:
        expected = self._inputs[name]
        if not isinstance(expected, self._torch.Tensor):
            return value.item() if isinstance(value, np.generic) else value
        tensor = self._tensors.tensor(value, name)
        is_exact = tensor.dtype == expected.dtype
        is_list = not isinstance(value, (np.ndarray, np.generic))
        if not is_exact and (self._is_lossless(tensor, expected) if is_list else self._is_stand_in(tensor, expected)):
            tensor = tensor.to(expected.dtype)
            is_exact = True
        fits = len(tensor.shape) == len(expected.shape) and all(
            not isinstance(want, int) or want == got for want, got in zip(expected.shape, tensor.shape, strict=True)
        )
        if not is_exact or not fits:
            got = f"{_names_of({tensor.dtype})} of shape {tuple(tensor.shape)}"
            raise InvalidArgumentError(f"the input {name!r} expected {self._shown(expected)}, got {got}")
        return tensor

    def _is_lossless(self, tensor: Any, expected: Any) -> bool:
        return bool(expected.is_floating_point() or not tensor.is_floating_point() or expected.is_complex())

    def _is_stand_in(self, tensor: Any, expected: Any) -> bool:
        return bool(
            tensor.dtype == self._torch.float32 and expected.is_floating_point() and expected.itemsize <= 2
        ) and (expected.dtype != self._torch.float16)

    def _known(self) -> str:
        return ", ".join(f"{name!r}: {self._shown(value)}" for name, value in self._inputs.items())

    def _shown(self, value: Any) -> str:
        if not isinstance(value, self._torch.Tensor):
            return f"always {value!r}"
        sizes = (str(size) if isinstance(size, int) else "?" for size in value.shape)
        return f"{_names_of({value.dtype})} of shape ({', '.join(sizes)})"


def _names_of(dtypes: set[Any]) -> str:
    return ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))


def _datatype_of(dtype: Any) -> str:
    name = str(dtype).removeprefix("torch.")
    if name == "bfloat16":
        return "BF16"
    try:
        return datatype_of(np.dtype(name).str)
    except TypeError:  # one that NumPy lacks
        return ""
