"""What ModelMesh is told of this runtime: capacity, bounds of loads, and which calls it may forward.

Rules
1. What the environment says wins, by the names that ModelMesh's own runtime adapters read; else the host's settings.
2. Capacity is what the budget leaves to models of ModelMesh: the budget less what is held when none of them is loaded.
   ModelMesh fills and evicts by it, so a host without a budget is no runtime unless the environment has a capacity.
3. Calls that ModelMesh may forward have the model's id as their first field, and one answer, as it forwards no streams.
   None of them loads or unloads: ModelMesh would not know.

Nothing here waits: the environment and the host's figures are arguments.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from hostd.fronts.oip.grpc.messages import INFERENCE
from hostd_workers.wire.errors import FailedPreconditionError, InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hostd.records import MemoryInfo

BUFFER_BYTES: Final = 256 * 2**20
"""What the adapters leave of the memory of a container if MEM_BUFFER_BYTES is not set."""

_METHODS: Final = ("ModelInfer", "ModelMetadata", "ModelReady", "ModelConfig", "ModelStatistics")
FORWARDED: Final = tuple(f"{INFERENCE}/{method}" for method in _METHODS)
"""The methods that ModelMesh may forward."""

ID_PATH: Final = (1,)
"""The field of their requests that has the model's id."""

_MAX_U32: Final = 2**32 - 1
_MAX_U64: Final = 2**64 - 1


@dataclass(frozen=True)
class Overrides:
    """What the environment says; None where it says nothing."""

    container_bytes: int | None = None
    buffer_bytes: int | None = None
    timeout_ms: int | None = None
    concurrency: int | None = None
    default_bytes: int | None = None
    version: str | None = None


@dataclass(frozen=True)
class Bounds:
    """What bounds loads: milliseconds that one may take, how many at once, and what is assumed of an unknown model."""

    timeout_ms: int
    concurrency: int
    default_bytes: int

    @property
    def timeout_s(self) -> float:
        """What a load may take, in seconds."""
        return self.timeout_ms / 1000


def overrides_of(environment: Mapping[str, str]) -> Overrides:
    """Return what the environment says. Raises `InvalidArgumentError` with the name of what is wrong."""
    return Overrides(
        _number(environment, "CONTAINER_MEM_REQ_BYTES", 1, _MAX_U64),
        _number(environment, "MEM_BUFFER_BYTES", 0, _MAX_U64),
        _number(environment, "LOADTIME_TIMEOUT", 1, _MAX_U32),
        _number(environment, "LOADING_CONCURRENCY", 1, _MAX_U32),
        _number(environment, "DEFAULT_MODELSIZE", 1, _MAX_U64),
        environment.get("RUNTIME_VERSION") or None,
    )


def bounds_of(overrides: Overrides, settings: Mapping[str, Any]) -> Bounds:
    """Return the bounds of loads, with the host's settings where the environment says nothing.

    As many at once as this process has cores: to import and to unpack takes one each.
    """
    return Bounds(
        overrides.timeout_ms or max(1, round(settings["workers"]["load_timeout_s"] * 1000)),
        overrides.concurrency or len(os.sched_getaffinity(0)),
        overrides.default_bytes or settings["memory"]["assumed_size"],
    )


def capacity_bytes(overrides: Overrides, memory: MemoryInfo) -> int:
    """Return the capacity for models of ModelMesh, none of which is loaded.

    Raises `FailedPreconditionError` if there is none: no budget, or nothing left of it.
    """
    if overrides.container_bytes is not None:
        buffer_bytes = BUFFER_BYTES if overrides.buffer_bytes is None else overrides.buffer_bytes
        left_bytes = overrides.container_bytes - buffer_bytes
        held = f"CONTAINER_MEM_REQ_BYTES less MEM_BUFFER_BYTES is {left_bytes}"
    elif memory.free_bytes is None:
        raise FailedPreconditionError(
            "ModelMesh places models by a capacity, and this host has no budget: set memory.budget, or "
            "CONTAINER_MEM_REQ_BYTES in the host's environment"
        )
    else:
        left_bytes = memory.free_bytes - (overrides.buffer_bytes or 0)
        held = f"of the budget of {memory.budget_bytes} bytes (memory.budget) {left_bytes} are left"
    if left_bytes <= 0:
        raise FailedPreconditionError(f"there is no memory for models of ModelMesh: {held}; allow more, or unload some")
    return left_bytes


def _number(environment: Mapping[str, str], name: str, least: int, most: int) -> int | None:
    text = environment.get(name, "")
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and least <= int(text[:21]) <= most):
        raise InvalidArgumentError(
            f"{name} in the host's environment must be a number from {least} to {most}, not {text[:100]!r}"
        )
    return int(text)
