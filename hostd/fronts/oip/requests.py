"""A request for inference as all forms of the protocol have it, and the parameters that these fronts know.

Does not cover how it is written: JSON is in `protocol`, messages of gRPC are in `grpc`.
"""

from __future__ import annotations

import reprlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from hostd_workers.wire.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hostd.fronts.tensors import Tensor

MICROSECONDS: Final = 1_000_000
"""The unit of the parameter `timeout`, as Triton has it."""


REGION: Final = "shared_memory_region"
REGION_BYTES: Final = "shared_memory_byte_size"
REGION_OFFSET: Final = "shared_memory_offset"
"""The parameters of a tensor that is in shared memory."""


@dataclass(frozen=True)
class Place:
    """Bytes of a shared memory region: where a tensor is."""

    region: str
    offset: int
    byte_size: int

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters that tell it."""
        offset = {REGION_OFFSET: self.offset} if self.offset else {}
        return {REGION: self.region, REGION_BYTES: self.byte_size, **offset}


@dataclass(frozen=True)
class RequestedOutput:
    """An output that a request names; `is_binary` is None where the request's default holds.

    With a `place` it is written there, and not sent.
    """

    name: str
    is_binary: bool | None = None
    place: Place | None = None


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


def place_of(parameters: Mapping[str, Any], where: str) -> Place | None:
    """Return where a tensor is by its parameters; None if it is not in shared memory."""
    region = of_type(parameters.get(REGION), (str,), f"{where}: {REGION}")
    if region is None:
        return None
    size = of_type(parameters.get(REGION_BYTES), (int,), f"{where}: {REGION_BYTES}")
    if size is None:
        raise InvalidArgumentError(f"{where} is in shared memory, and has no {REGION_BYTES}")
    return Place(region, of_type(parameters.get(REGION_OFFSET), (int,), f"{where}: {REGION_OFFSET}") or 0, size)


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
    raise InvalidArgumentError(
        f"{what}: got {reprlib.repr(value)}, expected {' or '.join(kind.__name__ for kind in kinds)}"
    )
