"""What the registry holds: models, generation by generation, their workers, and those that were evicted.

Plain books: whoever decides writes into them, but for the states, which only `Registry` changes.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from hostd.core.bookkeeping.latencies import Latencies
from hostd.core.bookkeeping.shares import ClientShares
from hostd.core.lifecycle import ALIVE, ModelState, WorkerState
from hostd.core.standing import NOTHING, Standing
from hostd.core.values import Death, LoadSource, Origin
from hostd.records import STANDALONE

if TYPE_CHECKING:
    from hostd.core.values import Caller, CallId, LoadingSpec, Memory, ModelId, Waiters, WorkerId
    from hostd.records import MethodInfo
    from hostd_workers.wire.errors import HostError


ESTIMATES = ("estimated", "assumed")
"""How needs are known of which nobody has measured or said anything."""


class Freshness(enum.Enum):
    """Whether the files of a model are still those that were loaded."""

    UNKNOWN = "unknown"
    AS_LOADED = "as loaded"
    CHANGED = "changed"
    GONE = "gone"


class Reload(NamedTuple):
    """A load that follows an unload."""

    source: LoadSource
    retries: int | None
    origin: Origin


@dataclass(eq=False)
class Worker:
    """A worker process, from the decision to spawn it until the proof that it is gone.

    `highest` is the sample with the most resident memory; `left_s` is what is left of its time to load while it is
    PAUSED. `shares` is whose the calls are that it has, those that it was told to leave included. `disconnected` says
    how its connection ended, "" while it has one or none yet. `obstacle` says why its processes are still there after a
    kill, `is_beyond_reach` that the host may not end them.
    """

    id: WorkerId
    model: Model
    started_s: float
    state: WorkerState = WorkerState.SPAWNING
    pid: int | None = None
    memory: Memory | None = None
    highest: Memory | None = None
    sampled_s: float | None = None
    baseline_bytes: int | None = None
    reserved_bytes: int = 0
    loaded_s: float | None = None
    left_s: float = 0.0
    calls: set[CallId] = field(default_factory=set)
    left: dict[CallId, Left] = field(default_factory=dict)
    shares: ClientShares = field(default_factory=ClientShares)
    last_words: HostError | None = None
    disconnected: str = ""
    exit: str = ""
    stack: str = ""
    killed_for: Memory | None = None
    obstacle: str = ""
    is_beyond_reach: bool = False
    death: Death = Death.UNEXPLAINED

    @property
    def charge_bytes(self) -> int:
        """What it counts against the budget."""
        return max(self.reserved_bytes, self.measured_bytes)

    @property
    def measured_bytes(self) -> int:
        """What its tree held at the last sample; 0 before the first."""
        return self.memory.charge_bytes if self.memory else 0

    @property
    def unmeasured_bytes(self) -> int:
        """What is reserved for it beyond that."""
        return max(0, self.reserved_bytes - self.measured_bytes)

    def __repr__(self) -> str:
        return f"<Worker {self.id} of {self.model.id} {self.state.value} pid={self.pid} calls={len(self.calls)}>"


@dataclass(eq=False)
class Model:
    """One generation of a model; `waiters` are the callers that the end of the load answers.

    `next_waiters` want the load after the unload that is under way (with lazy loading). `earlier` are the workers of
    earlier generations that were dying when this one began. `is_told` says whether its
    story has begun: that of a lazy load begins when something was found. `is_on_demand`: its load began because an
    evicted model was used, so calls wait for it. `eviction`: why the host unloads it by its own decision ("": it does
    not); it is loaded again when it is used, or at once if it `is_wanted` again. `is_yielding`: it yields for
    another, was asked to at `asked_s`, and new calls wait for its next load. `reload`: what is loaded when it is gone.
    `place` is its number in the line for memory. `is_put_back`: its worker is killed to make room for an
    older load, and it waits in line again.

    `source` is what is loaded, with the `standing` arguments where the load gave none. `own_retries` and `has_own_pin`
    are set when somebody has decided these before; `is_reload` when the load follows the unload of a reload. `digest`
    is that of the files when the load began.
    """

    id: ModelId
    generation: int
    source: LoadSource
    created_s: float
    origin: Origin = Origin.REQUESTED
    retries_left: int = 0
    tries: int = 0
    is_finding: bool = False
    is_predicting: bool = False
    is_told: bool = False
    is_on_demand: bool = False
    eviction: str = ""
    is_wanted: bool = False
    is_yielding: bool = False
    asked_s: float = -math.inf
    place: int = 0
    is_put_back: bool = False
    is_pinned: bool = False
    has_own_pin: bool = False
    own_retries: int | None = None
    is_reload: bool = False
    standing: Standing = NOTHING
    reload: Reload | None = None
    digest: str | None = None
    files: Freshness = Freshness.UNKNOWN
    state: ModelState = ModelState.LOADING
    spec: LoadingSpec | None = None
    loader: str | None = None
    workers: dict[WorkerId, Worker] = field(default_factory=dict)
    earlier: list[Worker] = field(default_factory=list)
    ready: list[Worker] = field(default_factory=list)
    methods: dict[str, MethodInfo] = field(default_factory=dict)
    default_method: str | None = None
    warnings: tuple[str, ...] = ()
    waiters: Waiters = field(default_factory=dict)
    unload_waiters: Waiters = field(default_factory=dict)
    next_waiters: Waiters = field(default_factory=dict)
    load_error: HostError | None = None
    death: HostError | None = None
    reason: str = ""
    calls: int = 0
    errors: int = 0
    ready_s: float | None = None
    last_used_s: float | None = None
    unload_began_s: float = 0.0
    size_bytes: int | None = None
    size_source: str = "unknown"
    need_bytes: int = 0
    need_source: str = "unknown"
    ready_bytes: int = 0
    load_s: float = 0.0
    cpu_threads: int | None = None
    latencies: Latencies = field(default_factory=Latencies)
    freed_bytes: int = 0
    processes_ended: int = 0

    def __repr__(self) -> str:
        return f"<Model {self.id}#{self.generation} {self.state.value} workers={list(self.workers.values())}>"

    @property
    def is_evicted(self) -> bool:
        """Whether it is unloaded, or being unloaded, by the host's own decision."""
        return bool(self.eviction)

    @property
    def is_coming_back(self) -> bool:
        """Whether it is loaded again when its unload is over, or when it is used."""
        return self.is_evicted or self.reload is not None

    @property
    def again(self) -> LoadSource:
        """What to load to have it again: only a load that named its path has said more than the path."""
        source = self.source
        return source if self.origin is Origin.REQUESTED else LoadSource(source.path, STANDALONE, None, None, {})

    @property
    def next_load(self) -> Reload:
        """What a reload loads that does not say otherwise: what is about to be loaded, else the same again."""
        retries = self.own_retries if self.origin is Origin.REQUESTED else None
        return self.reload or Reload(self.again, retries, self.origin)

    @property
    def charge_bytes(self) -> int:
        """What its workers count against the budget."""
        return sum(worker.charge_bytes for worker in self.workers.values())

    @property
    def grown_bytes(self) -> int:
        """How much more it counts than when it was ready, or while it loads than was reserved for it."""
        return self.charge_bytes - (self.need_bytes if self.ready_s is None else self.ready_bytes)

    def alive(self) -> list[Worker]:
        """Return the workers that may still have a process, those of earlier generations too."""
        return [worker for worker in (*self.earlier, *self.workers.values()) if worker.state in ALIVE]


class Failure(NamedTuple):
    """The last load of an id, which has failed: its generation, and why."""

    generation: int
    error: HostError
    source: LoadSource
    origin: Origin


class Left(NamedTuple):
    """A call that its worker still has and nobody waits for any more; `why` says in words what became of that."""

    caller: Caller
    method: str
    began_s: float
    size_bytes: int
    why: str


class Evicted(NamedTuple):
    """A model that the host has unloaded by its own decision: how to load it again."""

    source: LoadSource
    origin: Origin
    reason: str
    is_pinned: bool
