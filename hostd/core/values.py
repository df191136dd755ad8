"""Ids and plain values of the core: what events, effects and the registry are made of."""

from __future__ import annotations

import enum
from typing import Any, NamedTuple, NewType, TypeAlias

ClientId = NewType("ClientId", bytes)
WorkerId = NewType("WorkerId", int)
CallId = NewType("CallId", int)
ModelId = NewType("ModelId", str)
FilesId = NewType("FilesId", int)
"""Of an operation on files: a deploy or an undeploy."""
SyncId = NewType("SyncId", int)

Payload: TypeAlias = Any


class Caller(NamedTuple):
    """Who waits for an answer: a client and the id that it gave its request."""

    client: ClientId
    request_id: int


class Origin(enum.Enum):
    """Who wanted a model loaded, and so how careful its finding must be.

    REQUESTED and DEPLOYED: the files at the path are whole. LAZY: look for the id below the models directory, then take
    it for the path itself. LAZY and SYNCED: wait while the files are still being written.
    """

    REQUESTED = "REQUESTED"
    LAZY = "LAZY"
    SYNCED = "SYNCED"
    DEPLOYED = "DEPLOYED"


class LoadSource(NamedTuple):
    """What a load was asked to load; the same id with another source is another model."""

    path: str | None
    type: str
    finder: str | None
    initializer: str | None
    options: dict[str, Any]


class LoadingSpec(NamedTuple):
    """What a finder made of a source: everything that a worker needs to load the model.

    `loader` is a built-in name or `module:attr`, `python` the interpreter or None for the host's own, `methods` the
    only ones to expose or None for all. `initializer` is a reference with its configuration, or None for the loader's
    own object.
    """

    loader: str
    options: dict[str, Any]
    python: str | None
    env: dict[str, str]
    methods: tuple[str, ...] | None
    default_method: str | None
    initializer: tuple[str, dict[str, Any]] | None = None


class Memory(NamedTuple):
    """A sample of a worker's whole tree, in bytes summed over `processes`; None where the system did not tell."""

    processes: int
    rss_bytes: int
    uss_bytes: int | None
    pss_bytes: int | None
    peak_bytes: int | None
