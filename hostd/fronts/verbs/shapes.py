"""The records of answers that no record of `hostd` says: small, and only of this front."""

from __future__ import annotations

from typing import Any

import hostd
from hostd_workers.wire.light_dataclass import dataclass


@dataclass(frozen=True)
class ListedModel(hostd.ModelInfo):
    """A record with what clients of OpenAI's API read of it: `created` are seconds since the epoch, 0 if unknown."""

    object: str = "model"
    created: int = 0
    owned_by: str = "hostd"

    @classmethod
    def of(cls, info: hostd.ModelInfo) -> ListedModel:
        """Return a record so."""
        return cls(**vars(info), created=int(info.created_s or 0))


@dataclass(frozen=True)
class ModelList:
    """The models, by id; `object` is "list"."""

    data: list[ListedModel]
    object: str = "list"


@dataclass(frozen=True)
class Size:
    """The resident memory of a model's processes in bytes, as last measured."""

    bytes: int


@dataclass(frozen=True)
class Result:
    """What a method returned; how arrays and other values are told is in the description of the call."""

    result: Any


@dataclass(frozen=True)
class Example:
    """A call to try a method with, as lists and plain values; `is_of_arrays`: some of them are to be arrays."""

    args: list[Any]
    kwargs: dict[str, Any]
    is_of_arrays: bool


@dataclass(frozen=True)
class Caller:
    """What whoever asks may do: the name of a role, in lower case."""

    role: str


@dataclass(frozen=True)
class Reloaded:
    """What a reload of the configuration did.

    `changed` has the old and the new value of each setting that holds from now on, `needs_restart` the names of those
    that differ in the file but cannot be changed while the host runs.
    """

    file: str
    changed: dict[str, Any]
    needs_restart: list[str]


@dataclass(frozen=True)
class Failure:
    """Why a request failed: in words, its gRPC status, the name of its class in `hostd`, and what a program may want.

    Of a wrong argument `details` has the `parameter`, what was `got` and what was `expected`.
    """

    error: str
    status: str
    kind: str
    details: dict[str, Any]
