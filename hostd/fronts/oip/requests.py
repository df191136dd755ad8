"""A request for inference as all forms of the protocol have it, and the parameters that this front knows.

Does not cover how it is written: JSON is in `protocol`, messages of gRPC are in `grpc`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from hostd_workers.wire.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hostd.fronts.tensors import Tensor

MICROSECONDS: Final = 1_000_000
"""The unit of the parameter `timeout`, as Triton has it."""


@dataclass(frozen=True)
class RequestedOutput:
    """An output that a request names; `is_binary` is None where the request's default holds."""

    name: str
    is_binary: bool | None = None


@dataclass(frozen=True, eq=False)
class InferRequest:
    """A request; without `outputs` all are wanted, in binary form if `is_binary`."""

    inputs: tuple[Tensor, ...]
    id: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[RequestedOutput, ...] = ()
    is_binary: bool = False

    @property
    def method(self) -> str | None:
        """The method that is called; None for the model's default."""
        method: str | None = of_type(self.parameters.get("method"), (str,), "the parameter 'method'")
        return method

    @property
    def timeout_s(self) -> float | None:
        """How long the answer may take; None if the request does not say."""
        return timeout_of(self.parameters)


def timeout_of(parameters: Mapping[str, Any]) -> float | None:
    """Return the parameter `timeout` in seconds; None if there is none, or if it is 0, as in Triton."""
    timeout = of_type(parameters.get("timeout"), (int,), "the parameter 'timeout', in microseconds")
    if timeout is not None and timeout < 0:
        raise InvalidArgumentError(f"the parameter 'timeout': got {timeout}, expected microseconds, 0 or more")
    return timeout / MICROSECONDS if timeout else None


def of_type(value: Any, kinds: tuple[type, ...], what: str) -> Any:
    """Return a value that is of one of these types, or None. Raises `InvalidArgumentError`."""
    if value is None or type(value) in kinds:
        return value
    raise InvalidArgumentError(f"{what}: got {value!r:.100}, expected {' or '.join(kind.__name__ for kind in kinds)}")
