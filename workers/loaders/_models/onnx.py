"""An onnxruntime session as a model with methods.

Covers what may be passed to an input, what an output becomes, and the errors that say which input was wrong. Needs
NumPy; the session itself comes from outside (`onnx.load`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnxruntime.capi.onnxruntime_pybind11_state import (  # type: ignore[import-untyped]
    InvalidArgument,
)

from hostd_workers.api import Signature, Tensor
from hostd_workers.loaders._common.columns import columns_of
from hostd_workers.loaders._common.reported import signature, sizes
from hostd_workers.loaders._common.results import travelling
from hostd_workers.wire.errors import InvalidArgumentError
from hostd_workers.wire.signatures import datatype_of

_DTYPES = {
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
    "tensor(string)": "str",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
# By kind of the input's dtype (numpy.dtype.kind), the kinds that a list may have, so that no value loses its meaning.
_FROM_LIST = {"f": "fiub", "i": "iub", "u": "iub", "b": "b", "U": "U"}


@dataclass(frozen=True)
class Port:
    """One input or output of the model, as onnxruntime describes it."""

    name: str
    type: str
    shape: tuple[int | str | None, ...]

    @property
    def dtype(self) -> str | None:
        """The NumPy dtype of its arrays; None for what is no tensor, or has a type that NumPy lacks."""
        return _DTYPES.get(self.type)

    def __str__(self) -> str:
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.dtype or self.type}" + (f" of shape ({sizes})" if self.shape else "")

    def to_dict(self) -> dict[str, Any]:
        """Return name, type, dtype and shape; an open size is its name in the model, or None."""
        return {"name": self.name, "type": self.type, "dtype": self.dtype, "shape": list(self.shape)}

    def tensor(self, *, optional: bool = False) -> Tensor:
        """Return it as a part of a signature; without sizes it may be of any rank."""
        datatype = "" if self.dtype is None else datatype_of(np.dtype(self.dtype).str)
        is_known = self.dtype is not None and bool(self.shape)
        optional = optional or self.type.startswith("optional(")
        return Tensor(self.name, datatype, sizes(self.shape) if is_known else None, optional)

    def array(self, value: Any) -> Any:
        """Return `value` as the session takes it; InvalidArgumentError says what was expected and what came.

        An array must have the input's dtype. A nested list or a number is converted to it where no value changes but by
        rounding. Inputs that are no tensors of a NumPy dtype pass as they are.
        """
        if self.dtype is None:
            return value
        dtype = np.dtype(self.dtype)
        if isinstance(value, (np.ndarray, np.generic)):
            array = np.asarray(value)
            # A string array's dtype holds its width, which says nothing here.
            if array.dtype != dtype and not array.dtype.kind == dtype.kind == "U":
                raise self._wrong(array, hint="" if dtype.kind == "U" else f"; convert it, x.astype('{self.dtype}')")
        else:
            array = self._from_list(value, dtype)
        if len(self.shape) == 2 and self.shape[1] == 1 and array.ndim == 1:
            array = array.reshape(-1, 1)  # a column of a table: exported pipelines have an input for each
        if self.shape and not self._fits(array.shape):
            raise self._wrong(array)
        # onnxruntime takes strings as objects.
        return array.astype(object) if dtype.kind == "U" else array

    def _from_list(self, value: object, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        plain = (bool, int, float, str) if dtype.kind == "U" else (bool, int, float)
        if not isinstance(value, (list, tuple, *plain)):
            raise InvalidArgumentError(
                f"the input {self.name!r} takes an array or a nested list: expected {self}, got {type(value).__name__}"
            )
        try:
            natural = np.asarray(value)
        except ValueError as error:
            raise InvalidArgumentError(f"the input {self.name!r} expected {self}, got a list: {error}") from None
        if natural.size and natural.dtype.kind not in _FROM_LIST[dtype.kind]:
            raise self._wrong(natural)
        try:
            with np.errstate(over="raise"):
                array = natural if dtype.kind == "U" else natural.astype(dtype)
        except FloatingPointError:
            raise self._wrong(natural, hint=", with numbers that do not fit") from None
        if dtype.kind in "iu" and not np.array_equal(array, natural):
            raise self._wrong(natural, hint=", with numbers that do not fit")
        return array

    def _fits(self, shape: tuple[int, ...]) -> bool:
        fixed = (size if isinstance(size, int) and size >= 0 else None for size in self.shape)
        return len(shape) == len(self.shape) and all(
            want is None or want == got for want, got in zip(fixed, shape, strict=True)
        )

    def _wrong(self, array: np.ndarray[Any, Any], hint: str = "") -> InvalidArgumentError:
        kind = "str" if array.dtype.kind == "U" else array.dtype
        return InvalidArgumentError(f"the input {self.name!r} expected {self}, got {kind} of shape {array.shape}{hint}")


def _ports(arguments: Sequence[Any]) -> dict[str, Port]:
    return {
        argument.name: Port(
            argument.name,
            argument.type,
            tuple(size if isinstance(size, (int, str)) else None for size in argument.shape or ()),
        )
        for argument in arguments
    }


class OnnxModel:
    """A model that takes arrays by name.

    An input takes a NumPy array of exactly its dtype, or a nested list, which is converted. Outputs are arrays; those
    of strings have a fixed width, and a classifier's probabilities are a list of maps from label to probability if it
    was exported so (ZipMap).
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self._inputs = _ports(session.get_inputs())
        # Initializers that a caller may replace have a value already, and an optional(...) input needs none.
        self._optional = _ports(session.get_overridable_initializers())
        self._outputs = _ports(session.get_outputs())
        self._takes_a_map = any(port.type.startswith("map(") for port in self._inputs.values())

    def __repr__(self) -> str:
        return f"OnnxModel(inputs={list(self._inputs)}, outputs={list(self._outputs)})"

    def predict(self, /, *args: Any, **inputs: Any) -> Any:
        """Return the output of a model that has one, else a map of output name to output.

        Inputs come in the model's order, by name, or as one map of names to values; a list of records is the map of its
        columns. An input of the shape (?, 1) takes a column of values too.
        """
        results = self._run(list(self._outputs), self._by_name(args, inputs))
        return results if len(self._outputs) > 1 else next(iter(results.values()))

    def run(self, /, outputs: Sequence[str] | None = None, **inputs: Any) -> dict[str, Any]:
        """Return a map of output name to output, for `outputs` or all of them.

        A model with an input called "outputs" takes that one through `predict`.
        """
        names = list(self._outputs) if outputs is None else outputs
        if not isinstance(names, (list, tuple)) or not names:
            raise InvalidArgumentError(f"outputs must be a list of names, got {outputs!r}")
        if unknown := [name for name in names if name not in self._outputs]:
            raise InvalidArgumentError(f"the model has no output {unknown[0]!r}; it has {', '.join(self._outputs)}")
        return self._run(list(names), inputs)

    def describe(self) -> dict[str, Any]:
        """Return the inputs and outputs (name, type, dtype, shape) and the execution providers in use."""
        return {
            "inputs": [port.to_dict() for port in self._inputs.values()],
            "optional_inputs": [port.to_dict() for port in self._optional.values()],
            "outputs": [port.to_dict() for port in self._outputs.values()],
            "providers": self._session.get_providers(),
        }

    def signatures(self) -> dict[str, Signature]:
        """Return what the session says of its inputs and outputs; they are joined by the first axis if all let it."""
        inputs = [port.tensor() for port in self._inputs.values()]
        inputs += [port.tensor(optional=True) for port in self._optional.values()]
        outputs = [port.tensor() for port in self._outputs.values()]
        is_batched = all(tensor.shape and tensor.shape[0] == -1 for tensor in inputs)
        passing = "array" if len(inputs) == 1 else "keywords"
        return {"predict": signature(inputs, outputs, passing, 0 if is_batched else None)}

    def _by_name(self, args: Sequence[Any], inputs: dict[str, Any]) -> dict[str, Any]:
        if len(args) == 1 and not inputs and not self._takes_a_map:
            data = columns_of(args[0])
            if isinstance(data, Mapping):
                return dict(data)
        if len(args) > len(self._inputs):
            raise InvalidArgumentError(f"the model takes {self._known()} ({len(self._inputs)} in all), got {len(args)}")
        named = dict(zip(self._inputs, args, strict=False))
        if twice := [name for name in named if name in inputs]:
            raise InvalidArgumentError(f"the input {twice[0]!r} was given twice, by position and by name")
        return {**named, **inputs}

    def _run(self, outputs: list[str], inputs: dict[str, Any]) -> dict[str, Any]:
        ports = {**self._optional, **self._inputs}
        if unknown := [name for name in inputs if name not in ports]:
            raise InvalidArgumentError(f"the model has no input {unknown[0]!r}; it has {self._known()}")
        required = [name for name, port in self._inputs.items() if not port.type.startswith("optional(")]
        if missing := [name for name in required if name not in inputs]:
            raise InvalidArgumentError(f"the input {missing[0]!r} is missing; the model has {self._known()}")
        feed = {name: ports[name].array(value) for name, value in inputs.items()}
        try:
            results = self._session.run(outputs, feed)
        except InvalidArgument as error:
            raise InvalidArgumentError(f"onnxruntime refused the inputs: {error}") from error
        return {name: travelling(result) for name, result in zip(outputs, results, strict=True)}

    def _known(self) -> str:
        return ", ".join(f"{port.name!r}: {port}" for port in self._inputs.values())
