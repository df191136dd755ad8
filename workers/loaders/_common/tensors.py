"""Tensors from arrays, and arrays from tensors. Needs NumPy; torch itself comes from outside.

Both directions go through lists, tuples and maps. What NumPy has no dtype for (bfloat16, the kinds of float8) comes
back as float32, which holds every value of theirs; sparse and quantized tensors come back dense.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hostd_workers.wire.errors import InvalidArgumentError


class Tensors:
    """Converts for a model on one device."""

    def __init__(self, torch: Any, device: Any) -> None:
        self._torch = torch
        self._device = device

    def nested(self, value: Any, name: str) -> Any:
        """Return `value` with the arrays in it as tensors; everything else stays. `name` is the argument's."""
        if isinstance(value, (np.ndarray, np.generic)):
            return self.tensor(value, name)
        if isinstance(value, Mapping):
            return {key: self.nested(item, name) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            items = [self.nested(item, name) for item in value]
            return items if isinstance(value, list) else tuple(items)
        return value

    def tensor(self, value: Any, name: str) -> Any:
        """Return an array, a number or a nested list of numbers as a tensor that shares no memory with it.

        Integers of a list become int64 and other numbers PyTorch's default dtype, which is float32. Raises
        InvalidArgumentError for anything that is no tensor.
        """
        if isinstance(value, (np.ndarray, np.generic)):
            # A copy in this machine's byte order: what came over the wire may not be written to, and a model may do so.
            array = np.array(value, dtype=value.dtype.newbyteorder("="), order="C")
            try:
                return self._torch.from_numpy(array).to(self._device)
            except TypeError:
                raise InvalidArgumentError(f"the input {name!r} must be a tensor, got {value.dtype}") from None
        try:
            return self._torch.tensor(value, device=self._device)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise InvalidArgumentError(
                f"the input {name!r} must be an array or a nested list of numbers: {error}"
            ) from None

    def arrays(self, value: Any) -> Any:
        """Return `value` with the tensors in it as arrays, and its maps and named tuples as plain ones."""
        if isinstance(value, self._torch.Tensor):
            return self._array(value)
        if isinstance(value, Mapping):
            return {key: self.arrays(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            items = [self.arrays(item) for item in value]
            return items if isinstance(value, list) else tuple(items)
        return value

    def _array(self, tensor: Any) -> np.ndarray[Any, Any]:
        tensor = tensor.detach()
        if tensor.is_quantized:
            tensor = tensor.dequantize()
        if tensor.layout != self._torch.strided:
            tensor = tensor.to_dense()
        tensor = tensor.cpu().resolve_conj().resolve_neg()
        try:
            array: np.ndarray[Any, Any] = tensor.numpy()
        except TypeError:
            array = tensor.to(self._torch.complex64 if tensor.is_complex() else self._torch.float32).numpy()
        return array
