"""What the registry holds: models, generation by generation, their loads, unloads and workers; what was evicted.

Plain books: the deciding modules write into them, but for the states, which only `Registry` changes.
"""

from __future__ import annotations

import enum
import math
from dataclasses import field
from typing import TYPE_CHECKING

from hostd.core.bookkeeping.latencies import OTHER, Histogram, Latencies
from hostd.core.bookkeeping.shares import ClientShares
from hostd.core.bookkeeping.templates import TemplateState
from hostd.core.bookkeeping.totals import Totals
from hostd.core.lifecycle import ALIVE, SERVING, LaneState, ModelState, WorkerState
from hostd.core.standing import NOTHING, Standing
from hostd.core.values import Death, LoadSource, Need, Origin, Size
from hostd_workers.wire.light import NamedTuple
from hostd_workers.wire.light_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hostd.core.bookkeeping.templates import Template
    from hostd.core.bookkeeping.totals import Counts
    from hostd.core.values import Caller, CallId, ClientId, Lane, LoadingSpec, Memory, ModelId, Waiters, WorkerId
    from hostd.records import MethodInfo
    from hostd_workers.wire.errors import HostError
    from hostd_workers.wire.lane.figures import Figures


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

    `memory` is the last sample, of `sampled_s`, and `measured_bytes` what that counts against the budget, 0 before it;
    `highest` is the sample with the most resident memory; `left_s` is what is left of its time to load while it is
    PAUSED. `shares` says which clients have its calls, those that it was told to leave included. `disconnected` says
    how its connection ended, "" while it has one or none yet. `obstacle` says why its processes are still there after a
    kill, `is_beyond_reach` that the host may not end them. `lane` tells of its clients that do without the host.
    `has_close`: its model has something to finish before it is ended.
    """

    id: WorkerId
    model: Model
    started_s: float
    state: WorkerState = WorkerState.SPAWNING
    pid: int | None = None
    memory: Memory | None = None
    highest: Memory | None = None
    measured_bytes: int = 0
    sampled_s: float | None = None
    baseline_bytes: int | None = None
    reserved_bytes: int = 0
    loaded_s: float | None = None
    left_s: float = 0.0
    calls: set[CallId] = field(default_factory=set)
    left: dict[CallId, Call] = field(default_factory=dict)
    shares: ClientShares = field(default_factory=ClientShares)
    last_words: HostError | None = None
    disconnected: str = ""
    exit: str = ""
    stack: str = ""
    killed_for: Memory | None = None
    obstacle: str = ""
    is_beyond_reach: bool = False
    death: Death = Death.UNEXPLAINED
    lane: Lane | None = None
    lane_clients: dict[ClientId, Caller] = field(default_factory=dict)
    lane_state: LaneState = LaneState.UNUSED
    template: Template | None = None
    why_fresh: str = ""
    has_taught: bool = False
    has_close: bool = False

    @property
    def in_flight(self) -> int:
        """How many calls it has, by the host and by lanes."""
        return len(self.calls) + (self.lane.figures().in_flight if self.lane else 0)

    @property
    def charge_bytes(self) -> int:
        """What it counts against the budget."""
        return max(self.reserved_bytes, self.measured_bytes)

    @property
    def unmeasured_bytes(self) -> int:
        """What is reserved for it beyond that."""
        return max(0, self.reserved_bytes - self.measured_bytes)

    @property
    def place(self) -> int:
        """The number of its load in the line for memory."""
        return self.model.load.place if self.model.load else 0

    @property
    def inherited_bytes(self) -> int:
        """What it may have to itself of a template that is gone: that is no growth of its own."""
        is_heir = self.template is not None and self.template.state is TemplateState.GONE
        return self.template.held_bytes if self.template is not None and is_heir else 0

    @property
    def size_bytes(self) -> int:
        """What it takes, as far as it was measured: resident memory, but for what it has of its template."""
        if self.memory is None:
            return 0
        return self.memory.rss_bytes if self.template is None else self.memory.charge_bytes

    def sampled(self, memory: Memory, asked_s: float) -> None:
        """Take a sample that was asked for then."""
        self.memory, self.sampled_s, self.measured_bytes = memory, asked_s, memory.charge_bytes
        if self.highest is None or memory.rss_bytes > self.highest.rss_bytes:
            self.highest = memory

    def __repr__(self) -> str:
        return f"<Worker {self.id} of {self.model.id} {self.state.value} pid={self.pid} calls={len(self.calls)}>"


class Cause(enum.Enum):
    """Why a load has begun."""

    ASKED = "ASKED"
    ON_USE = "ON_USE"
    RELOAD = "RELOAD"


class LoadStep(enum.Enum):
    """What a load waits for.

    FINDING: its finder. SIZING: what it will need. QUEUED: memory. STARTING: its worker. PUT_BACK: the end of its
    worker, which was killed for an older load; then it is QUEUED again. ENDING: the end of its last process, because it
    has failed. BACKOFF: its next try.
    """

    FINDING = "FINDING"
    SIZING = "SIZING"
    QUEUED = "QUEUED"
    STARTING = "STARTING"
    PUT_BACK = "PUT_BACK"
    ENDING = "ENDING"
    BACKOFF = "BACKOFF"


@dataclass(eq=False)
class Load:
    """The load of a model that is LOADING, with all its tries; its end answers the `waiters`.

    `place` is its number in the line for memory. `error` is why its last try has failed, while it is ENDING.
    `is_forked`: its worker is a template's child. `is_fresh`: it is not to be, `fresh_because` of what became of one.
    """

    model: Model
    cause: Cause
    retries_left: int
    step: LoadStep = LoadStep.FINDING
    tries: int = 0
    place: int = 0
    error: HostError | None = None
    waiters: Waiters = field(default_factory=dict)
    is_forked: bool = False
    is_fresh: bool = False
    fresh_because: str = ""
    is_wordless: bool = False

    def __repr__(self) -> str:
        return f"<Load of {self.model.id}#{self.model.generation} {self.step.value} try={self.tries}>"


@dataclass(eq=False)
class Unload:
    """The unload of a model that is UNLOADING; the proof answers the `waiters`, and the load after it `next_waiters`.

    `eviction`: why the host unloads it by its own decision ("": it does not); it is loaded again when it is used, or at
    once if it `is_wanted` again. `reload`: what is loaded when it is gone.
    """

    model: Model
    began_s: float
    eviction: str = ""
    is_wanted: bool = False
    reload: Reload | None = None
    waiters: Waiters = field(default_factory=dict)
    next_waiters: Waiters = field(default_factory=dict)

    @property
    def is_coming_back(self) -> bool:
        """Whether the model is loaded again when this is over, or when it is used."""
        return bool(self.eviction) or self.reload is not None


class Freed(NamedTuple):
    """What the processes of a model that have ended gave back, and how many they were."""

    bytes: int = 0
    processes: int = 0


class Loaded(NamedTuple):
    """The end of a load that succeeded: when it was, how long its worker took, and what the model held then."""

    at_s: float
    took_s: float
    bytes: int


class Interface(NamedTuple):
    """What a worker says of the model that it has loaded."""

    loader: str | None = None
    methods: Mapping[str, MethodInfo] = {}
    default_method: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(eq=False)
class Model:
    """One generation of a model. It has a `load` while it is LOADING, an `unload` from UNLOADING on.

    `earlier` are the workers of earlier generations that were dying when this one began. `is_told` says whether its
    story has begun: that of a lazy load begins when something was found. `is_yielding`: it yields for another, was
    asked to at `asked_s`, and new calls wait for its next load.

    `source` is what is loaded, with the `standing` arguments where the load gave none. `own_retries`, `pin` and
    `labels` are None until somebody has decided them. `digest` is that of the files when the load began.
    """

    id: ModelId
    generation: int
    source: LoadSource
    created_s: float
    origin: Origin = Origin.REQUESTED
    state: ModelState = ModelState.LOADING
    load: Load | None = None
    unload: Unload | None = None
    is_told: bool = False
    is_yielding: bool = False
    asked_s: float = -math.inf
    pin: bool | None = None
    own_retries: int | None = None
    labels: Mapping[str, str] | None = None
    standing: Standing = NOTHING
    digest: str | None = None
    files: Freshness = Freshness.UNKNOWN
    spec: LoadingSpec | None = None
    interface: Interface = field(default_factory=Interface)
    workers: dict[WorkerId, Worker] = field(default_factory=dict)
    earlier: list[Worker] = field(default_factory=list)
    ready: list[Worker] = field(default_factory=list)
    death: HostError | None = None
    reason: str = ""
    totals: Totals = field(default_factory=Totals)
    last_used_s: float | None = None
    latencies: Latencies = field(default_factory=Latencies)
    loaded: Loaded | None = None
    size: Size = field(default_factory=Size)
    need: Need = field(default_factory=Need)
    freed: Freed = field(default_factory=Freed)
    cpu_threads: int | None = None
    _sorted_at: tuple[object, ...] = ()
    _latency_s: tuple[float | None, float | None] = (None, None)

    def __repr__(self) -> str:
        return f"<Model {self.id}#{self.generation} {self.state.value} workers={list(self.workers.values())}>"

    @property
    def is_serving(self) -> bool:
        """Whether it answers calls."""
        return self.state in SERVING

    def figures(self) -> dict[WorkerId, Figures]:
        """Return what the lanes of its workers say now, by worker."""
        return {worker.id: worker.lane.figures() for worker in self.workers.values() if worker.lane}

    def counts(self, figures: Mapping[WorkerId, Figures]) -> Counts:
        """Return the counts of its id, of which its lanes say `figures`, those of earlier generations included."""
        return self.totals.now([*figures.values(), *[worker.lane.figures() for worker in self.earlier if worker.lane]])

    def call_times(self) -> dict[str, Histogram]:
        """Return how long its calls took, by method, by the host and by lanes."""
        lanes = [worker.lane for worker in self.workers.values() if worker.lane]
        if not lanes:
            return self.latencies.by_method
        all_calls = Latencies()
        for method, histogram in self.latencies.by_method.items():
            all_calls.merge(method, histogram.counts, histogram.sum_s)
        for method_of_lane, counts, sum_s in [each for lane in lanes for each in lane.by_method()]:
            all_calls.merge(method_of_lane or OTHER, counts, sum_s)
        return all_calls.by_method

    @property
    def used_s(self) -> float | None:
        """When it was used last, by the host or by a lane; None: never."""
        used_s = self.last_used_s or 0.0
        for worker in self.workers.values():
            if worker.lane:
                used_s = max(used_s, worker.lane.figures().last_use_s)
        return used_s or None

    def latency_s(self, figures: Mapping[WorkerId, Figures]) -> tuple[float | None, float | None]:
        """Return the median and the 99th percentile of its last calls, by the host and by lanes, which say `figures`.

        To sort them takes ten times as long as to collect all else that is shown of a model: 0.1 ms, once per change.
        """
        ended = (self.latencies.count, *[(worker_id, each.ended) for worker_id, each in figures.items()])
        if ended != self._sorted_at:
            lanes = [self.workers[worker_id].lane for worker_id in figures]
            others_s = [duration_s for lane in lanes if lane for duration_s in lane.durations_s()]
            self._sorted_at, self._latency_s = ended, self.latencies.quantiles(others_s)
        return self._latency_s

    @property
    def is_pinned(self) -> bool:
        """Whether it is kept whatever the budget says."""
        return bool(self.pin)

    @property
    def again(self) -> LoadSource:
        """What to load to have it again: only a load that named its path has said more than the path."""
        source = self.source
        return source if self.origin is Origin.REQUESTED else LoadSource(source.path)

    @property
    def next_load(self) -> Reload:
        """What a reload loads that does not say otherwise: what is about to be loaded, else the same again."""
        retries = self.own_retries if self.origin is Origin.REQUESTED else None
        return (self.unload and self.unload.reload) or Reload(self.again, retries, self.origin)

    @property
    def charge_bytes(self) -> int:
        """What its workers count against the budget."""
        return sum([worker.charge_bytes for worker in self.workers.values()])

    @property
    def grown_bytes(self) -> int:
        """How much more it counts than when it was ready, or while it loads than was reserved for it."""
        return self.charge_bytes - (self.loaded.bytes if self.loaded else self.need.bytes)

    def try_no_more(self) -> None:
        """Let the try in hand be the last: the next would end in the same way."""
        if self.load is not None:
            self.load.retries_left = 0
            self.load.is_fresh = True

    def alive(self) -> list[Worker]:
        """Return the workers that may still have a process, those of earlier generations too."""
        return [worker for worker in (*self.earlier, *self.workers.values()) if worker.state in ALIVE]


class Failure(NamedTuple):
    """The last load of an id, which has failed: its generation, and why."""

    generation: int
    error: HostError
    source: LoadSource
    origin: Origin
    labels: Mapping[str, str] | None


class Call(NamedTuple):
    """A call that a worker has; if nothing waits for it any more, `left` says in words why."""

    id: CallId
    caller: Caller
    worker: Worker
    size_bytes: int
    began_s: float
    method: str
    left: str = ""


class Evicted(NamedTuple):
    """A model that the host has unloaded by its own decision: how to load it again, in what time, what it served."""

    source: LoadSource
    origin: Origin
    reason: str
    interface: Interface
    is_pinned: bool
    labels: Mapping[str, str] | None
    reload_s: float | None = None
