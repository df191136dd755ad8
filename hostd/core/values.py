"""Ids and plain values of the core: what events, effects and the registry are made of."""

from __future__ import annotations

import enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NewType, Protocol, TypeAlias

from hostd.records import STANDALONE
from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hostd_workers.wire.lane.figures import Figures, MethodFigures

ClientId = NewType("ClientId", bytes)
"""Of a connection: the process at its other end, a dot, and a number."""
WorkerId = NewType("WorkerId", int)
CallId = NewType("CallId", int)
ModelId = NewType("ModelId", str)
FilesId = NewType("FilesId", int)
"""Of an operation on files: a deploy or an undeploy."""
SyncId = NewType("SyncId", int)

Payload: TypeAlias = Any


def process_of(client: ClientId) -> bytes:
    """Return the process that a connection belongs to: what one program has, it has with all its connections."""
    return client.partition(b".")[0]


class Caller(NamedTuple):
    """What waits for an answer: a client and the id that it gave its request."""

    client: ClientId
    request_id: int


Waiters: TypeAlias = dict[Caller, None]
"""Callers that wait for the same answer, an ordered set: thousands may wait for one load, and leave it one by one."""


class Origin(enum.Enum):
    """Why a model is loaded, and so how careful its finding must be.

    REQUESTED, DEPLOYED and DECLARED (by the configuration): the files at the path are whole. LAZY: look for the id
    below the models directory, then take it for the path itself. LAZY and SYNCED: wait while the files are still being
    written.
    """

    REQUESTED = "REQUESTED"
    LAZY = "LAZY"
    SYNCED = "SYNCED"
    DEPLOYED = "DEPLOYED"
    DECLARED = "DECLARED"


class LoadSource(NamedTuple):
    """What a load was asked to load; the same id with another source is another model."""

    path: str | None
    type: str = STANDALONE
    finder: str | None = None
    initializer: str | None = None
    options: Mapping[str, Any] = {}
    loader: str | None = None


class MemoryPolicy(NamedTuple):
    """What a model's own settings say about its memory; None leaves it to the host's configuration."""

    limit_bytes: int | None = None
    is_evictable: bool = True
    idle_ttl_s: float | None = None


class Declared(NamedTuple):
    """A model that the configuration wants loaded: its path; `problem` is what is wrong with its entry, or ""."""

    path: str | None
    problem: str = ""


class Limits(NamedTuple):
    """What is said about a model from outside of its own settings; None leaves it to these."""

    memory_limit_bytes: int | None = None
    is_evictable: bool | None = None
    idle_ttl_s: float | None = None
    cpu_threads: int | None = None

    def over(self, other: Limits) -> Limits:
        """Return these limits, with those of another where these say nothing."""
        return Limits(
            other.memory_limit_bytes if self.memory_limit_bytes is None else self.memory_limit_bytes,
            other.is_evictable if self.is_evictable is None else self.is_evictable,
            other.idle_ttl_s if self.idle_ttl_s is None else self.idle_ttl_s,
            other.cpu_threads if self.cpu_threads is None else self.cpu_threads,
        )


class LoadingSpec(NamedTuple):
    """What a finder made of a source: everything that a worker needs to load the model.

    `loader` is a built-in name or `module:attr`, `python` the interpreter or None for the host's own, `methods` the
    only ones to expose or None for all. `initializer` is a reference with its configuration, or None for the loader's
    own object. `cpu_threads` is how many threads its libraries may use, None for a share of the cores. `origins` says
    in words where a setting was given, by the name that it has in a `model.yaml` (an option as "options.NAME").
    `is_isolated`: its worker shares no memory with others. `signatures` say by method what it takes and returns, where
    a `model.yaml` says it.
    """

    loader: str
    options: dict[str, Any]
    python: str | None
    env: dict[str, str]
    methods: tuple[str, ...] | None
    default_method: str | None
    initializer: tuple[str, dict[str, Any]] | None = None
    memory: MemoryPolicy = MemoryPolicy()
    cpu_threads: int | None = None
    origins: Mapping[str, str] = MappingProxyType({})
    is_isolated: bool = False
    signatures: Mapping[str, Any] = MappingProxyType({})


class DirectoryEntry(NamedTuple):
    """An entry of the models directory that is not loaded, and what it is to the host.

    `state` is "AVAILABLE" for a model that may be loaded, "WRITING" for one that is still being written, "FAILED" for
    one that cannot be looked at, "IGNORED" for what is none; `reason` says more in words. Also what the configuration
    declares is such an entry.
    """

    model_id: ModelId
    path: str
    state: str
    reason: str = ""


class Prediction(NamedTuple):
    """What a load is expected to take at most, in bytes of its charge.

    `source` says how that is known: "remembered", "declared", "estimated", "at least" (a load of the same content was
    ended when it held so much), or "assumed" if nothing is known. `python` is the interpreter (None: the default).
    """

    peak_bytes: int
    source: str
    python: str | None = None


class Need(NamedTuple):
    """What a load takes at most, and how that is known."""

    bytes: int = 0
    source: str = "unknown"


class Size(NamedTuple):
    """What a model takes, and how that is known."""

    bytes: int | None = None
    source: str = "unknown"


class Death(enum.Enum):
    """What is known of why a worker's process ended, beyond how it ended."""

    UNEXPLAINED = "UNEXPLAINED"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    MEMORY_LIMIT = "MEMORY_LIMIT"


class Memory(NamedTuple):
    """A sample of a worker's whole tree, in bytes summed over `processes`; None where the system did not tell.

    `peak_bytes` is the highest resident memory so far (VmHWM), `gpu_bytes` what the processes hold on all devices.
    `held_bytes` is what the end of the whole tree gives back of anonymous memory, page tables and locked pages; pages
    that only its own processes share are in nobody's USS, and come back all the same. `shared_bytes` is the shared
    memory that the tree holds (memfds, files of tmpfs, System V), mapped or not. `group_bytes` is what the kernel
    counts for its control group, of what it cannot reclaim; None without one.

    What later figures are estimated from: `anon_bytes` is the resident memory that no file is behind, if all of it is
    known to be one process's own, `file_bytes` the rest of it when the page tables were last walked, `table_bytes`
    what the page tables took; `around_bytes` is what shared memory there was in the system when it was last looked for.
    """

    processes: int
    rss_bytes: int
    uss_bytes: int | None
    pss_bytes: int | None
    peak_bytes: int | None
    swap_bytes: int | None = None
    gpu_bytes: int | None = None
    held_bytes: int | None = None
    anon_bytes: int | None = None
    file_bytes: int | None = None
    table_bytes: int = 0
    shared_bytes: int | None = None
    around_bytes: int = 0
    group_bytes: int | None = None

    @property
    def charge_bytes(self) -> int:
        """What the tree counts against the budget: what it has to itself, swapped out or not, and shared memory.

        Pages of files are left out: the kernel takes them back when it wants to, and those of libraries would be
        counted for each model.
        """
        held_bytes = self._private_bytes + (self.swap_bytes or 0) + (self.shared_bytes or 0)
        return max(held_bytes, self.group_bytes or 0)

    @property
    def peak_charge_bytes(self) -> int:
        """The highest charge so far: the peak of resident memory, less what of it does not count now."""
        return max(self.charge_bytes, (self.peak_bytes or 0) - self._uncharged_bytes)

    def with_peak_of(self, highest: Memory) -> Memory:
        """Return this sample with a peak of which so much counts as did when `highest` was taken, the largest sample.

        A load that maps a file and copies it has the file in its peak, and no more of it afterwards.
        """
        if self.peak_bytes is None:
            return self
        more_bytes = self._uncharged_bytes - highest._uncharged_bytes
        return self._replace(peak_bytes=self.peak_bytes + more_bytes)

    @property
    def _uncharged_bytes(self) -> int:
        return self.rss_bytes - self._private_bytes - (self.shared_bytes or 0)

    @property
    def _private_bytes(self) -> int:
        if self.held_bytes is not None:
            return self.held_bytes
        return self.rss_bytes if self.uss_bytes is None else self.uss_bytes


class Lane(Protocol):
    """What the outside knows of a worker's calls, and of its clients that do without the host; read when needed."""

    @property
    def address(self) -> Mapping[str, object] | None:
        """What a client needs to call the worker; None if it takes calls from the host alone."""

    def figures(self) -> Figures:
        """Return the figures of the moment."""

    def durations_s(self) -> list[float]:
        """Return how long the last calls took."""

    def by_method(self) -> list[MethodFigures]:
        """Return the calls of each method, of some together (None)."""
