"""The records that the public API returns: plain facts about models, workers and the host.

Instants (`_s`) are seconds since the epoch; sizes are bytes. What the system has not told is None: nothing is invented.
"""

from __future__ import annotations

from dataclasses import field

from hostd.record import Record
from hostd_workers.wire.light_dataclass import dataclass

STANDALONE = "standalone-model"
"""The type of a model if its load names none, as the customer's system has it."""

SERVING = ("READY", "DEGRADED")
"""The states of a model that is loaded: it answers calls."""


@dataclass(frozen=True)
class TensorInfo(Record):
    """An input or output of a method.

    `datatype` is named as in the Open Inference Protocol (BOOL, INT64, FP32, BYTES, ...), "" where it is not known.
    `shape` has -1 for a size that may be any; `()` is a single value, None is not known. An input that is `optional`
    may be left out.
    """

    name: str
    datatype: str = ""
    shape: tuple[int, ...] | None = None
    optional: bool = False

    _revived = {"shape": lambda shape: None if shape is None else tuple(shape)}  # noqa: RUF012 - a ClassVar, by its base


@dataclass(frozen=True)
class MethodInfo(Record):
    """A method that a model serves; `streams` if it yields items, `signature` and first line of `doc` as written.

    `inputs` and `outputs` are its arrays and values, and `known_from` says how they are known: "declared" by the
    model's author, "reported" by the model's library, or "unknown"; then both are empty. `passing` says how a caller
    passes the inputs: "array", the only one as the first argument; "map", all in one map of names to values, the first
    argument; "keywords", each as a keyword argument; "" if that is not known. `batch_axis` is the axis along which
    inputs may be joined, None if there is none. `example` has a value for each input, as lists and plain values, if the
    author gave one.
    """

    name: str
    streams: bool = False
    is_async: bool = False
    signature: str = "(...)"
    doc: str = ""
    inputs: tuple[TensorInfo, ...] = ()
    outputs: tuple[TensorInfo, ...] = ()
    known_from: str = "unknown"
    passing: str = ""
    batch_axis: int | None = None
    example: dict[str, object] | None = None

    _revived = dict.fromkeys(("inputs", "outputs"), lambda tensors: tuple(map(TensorInfo.from_dict, tensors)))


@dataclass(frozen=True)
class WorkerInfo(Record):
    """A worker process and its descendants; the bytes are sums over `processes` processes, sampled at `sampled_s`.

    `baseline_bytes` is the private memory of the process before it was told what to load (the interpreter, mostly), as
    the host has measured it. `shared_bytes` is the shared memory that they hold, mapped or merely open: memfds, files
    of tmpfs such as those in /dev/shm, System V segments. `gpu_bytes` is None where there is no device or no way to ask
    it. `direct_clients` is how many clients call it without the host; `in_flight` counts their calls, too. `template`
    is what it was forked from, None for one that was started afresh, and `why_fresh` why that was, if anything made it.
    """

    id: int
    pid: int | None
    state: str
    processes: int = 0
    rss_bytes: int | None = None
    uss_bytes: int | None = None
    pss_bytes: int | None = None
    peak_bytes: int | None = None
    swap_bytes: int | None = None
    shared_bytes: int | None = None
    gpu_bytes: int | None = None
    baseline_bytes: int | None = None
    sampled_s: float | None = None
    in_flight: int = 0
    direct_clients: int = 0
    started_s: float | None = None
    template: int | None = None
    why_fresh: str = ""


@dataclass(frozen=True)
class ModelInfo(Record):
    """A model as the host knows it.

    `state` is LOADING, READY, DEGRADED, UNLOADING, FAILED or QUARANTINED. Of a model that has no process since its last
    load failed (FAILED), since it was evicted (EVICTED), or because it is merely in the models directory (AVAILABLE,
    IGNORED) only `id`, `state`, `path`, `type` and `reason` are known, and `generation` is 0; of one that was evicted
    also what it served, and its counts.

    Counts do not fall until the model is unloaded: they are of all calls that reached a worker since the id was loaded,
    over evictions, reloads and replacements. Of `calls` that began, so many `succeeded`, ended with `errors` or were
    `cancelled` (or their callers have gone), the rest is in flight; `success_ns` and `fail_ns` are the durations of the
    first two from arrival to answer. Workers ran `executions` calls, which waited there for `queue_ns` and took
    `compute_ns`.

    `size` is the resident memory of its processes in bytes and `size_source` says how it is known ("measured", or
    "unknown" before the first sample). `reason` says why the model is in its `state`.

    `charge_bytes` is what it counts against the budget: what its processes have to themselves and the shared memory
    that they hold, without pages of files, which the kernel can take back; or before that was measured what is reserved
    for it; `reserved_bytes` is the part of it that is reserved and not measured.
    `memory_limit`, `evictable`, `idle_ttl_s` and `cpu_threads` are its settings as in force, `pinned` says whether it
    was pinned. `latency_p50_s` and `latency_p99_s` are of its last calls, in the host's eyes. `warnings` are what was
    warned of while it was loaded, such as another version of the library that saved it.

    `files` says whether the files at `path` are still what was loaded, when the host last looked: "as loaded",
    "changed", "gone" or "unknown". `already_loaded` is set in the answer of `load_model` if nothing had to be loaded.
    `labels` are those that its loads gave it, also of one that has failed or was evicted.
    """

    id: str
    state: str
    path: str | None
    type: str
    loader: str | None = None
    generation: int = 0
    size: int | None = None
    size_source: str = "unknown"
    methods: dict[str, MethodInfo] = field(default_factory=dict)
    default_method: str | None = None
    workers: tuple[WorkerInfo, ...] = ()
    calls: int = 0
    errors: int = 0
    cancelled: int = 0
    succeeded: int = 0
    success_ns: int = 0
    fail_ns: int = 0
    executions: int = 0
    queue_ns: int = 0
    compute_ns: int = 0
    created_s: float | None = None
    ready_s: float | None = None
    load_duration_s: float | None = None
    last_used_s: float | None = None
    reason: str = ""
    charge_bytes: int = 0
    reserved_bytes: int = 0
    memory_limit: int | None = None
    evictable: bool = True
    pinned: bool = False
    idle_ttl_s: float | None = None
    cpu_threads: int | None = None
    latency_p50_s: float | None = None
    latency_p99_s: float | None = None
    warnings: tuple[str, ...] = ()
    files: str = "unknown"
    already_loaded: bool = False
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def files_changed(self) -> bool:
        """Whether the files at `path` are not what was loaded, or gone; `load_model(..., reload=True)` loads anew."""
        return self.files in ("changed", "gone")

    _revived = {  # noqa: RUF012 - a ClassVar, by its base
        "methods": lambda methods: {name: MethodInfo.from_dict(method) for name, method in methods.items()},
        "workers": lambda workers: tuple(map(WorkerInfo.from_dict, workers)),
        "warnings": tuple,
    }


@dataclass(frozen=True)
class UnloadReport(Record):
    """What an unload gave back.

    `size_bytes` is the last measured size, `freed_bytes` what all processes had to themselves just before the kill and
    of shared memory what is gone after it (not a file in /dev/shm that stays, or what others hold too), `processes` how
    many ended, `duration_s` the time from the request to the proof that all of them are gone.
    """

    model_id: str
    size_bytes: int = 0
    freed_bytes: int = 0
    processes: int = 0
    duration_s: float = 0.0


@dataclass(frozen=True)
class Holder(Record):
    """A model that holds memory: how much of the budget, and in `why` what keeps it from being evicted ("": nothing).

    `idle_s` is how long it has not been used, `reload_s` how long its load took.
    """

    model_id: str
    bytes: int
    idle_s: float | None = None
    reload_s: float | None = None
    why: str = ""


@dataclass(frozen=True)
class LoadPlan(Record):
    """What a load would do now: `outcome` is "start", "evict" (then start), "wait" or "refuse"; `reason` says why.

    `need_bytes` is what would be reserved and `need_source` how that is known. `victims` are the models that would be
    evicted, in that order; `holders` those that hold the rest of the budget. Without a budget that is None, and
    every load starts. What is only estimated to need more than can be had is tried with what there is.
    """

    model_id: str
    outcome: str
    need_bytes: int
    need_source: str
    budget_bytes: int | None
    free_bytes: int | None
    victims: tuple[Holder, ...] = ()
    holders: tuple[Holder, ...] = ()
    reason: str = ""

    @property
    def fits(self) -> bool:
        """Whether the load would start, at once or after evictions."""
        return self.outcome in ("start", "evict")

    _revived = dict.fromkeys(("victims", "holders"), lambda holders: tuple(map(Holder.from_dict, holders)))


@dataclass(frozen=True)
class MemoryInfo(Record):
    """The memory of all models against the budget, in bytes; `budget_bytes` and `free_bytes` are None without a budget.

    `budget_source` says in words where the budget comes from. `measured_bytes` is what models hold as measured,
    `reserved_bytes` what is set aside for loads beyond that, `templates_bytes` what templates hold. `waiting` are the
    loads that wait for memory, in order, `paused` those before them that have outgrown what was reserved for them, and
    are stopped until there is room. `over_budget` says what has grown over the budget, None if nothing has. The counts
    and `freed_bytes` (by all unloads, read just before each kill) are since the start of the host; `evictions` are by
    reason. `last_unload` is the report of the last one.
    """

    budget_bytes: int | None = None
    budget_source: str = ""
    measured_bytes: int = 0
    reserved_bytes: int = 0
    templates_bytes: int = 0
    free_bytes: int | None = None
    waiting: tuple[str, ...] = ()
    paused: tuple[str, ...] = ()
    over_budget: str | None = None
    evictions: dict[str, int] = field(default_factory=dict)
    refusals: int = 0
    waits: int = 0
    pauses: int = 0
    unloads: int = 0
    freed_bytes: int = 0
    last_unload: UnloadReport | None = None

    _revived = {  # noqa: RUF012 - as above
        "waiting": tuple,
        "paused": tuple,
        "last_unload": lambda report: None if report is None else UnloadReport.from_dict(report),
    }


@dataclass(frozen=True)
class TemplateInfo(Record):
    """A process that has imported libraries and forks workers.

    `state` is LEARNING (a load is under way that shows what to import), WARMING, READY or ENDING (`reason` says why).
    `python` is its interpreter and `env` what models' settings add to its environment. `libraries` are the packages
    that it has imported beyond what every worker needs, `modules` how many modules these are. `held_bytes` is what it
    holds, which its workers share, `forks` how many it has made, `workers` how many of them live.
    """

    id: int
    pid: int | None
    state: str
    python: str = ""
    env: dict[str, str] = field(default_factory=dict)
    libraries: tuple[str, ...] = ()
    modules: int = 0
    held_bytes: int = 0
    forks: int = 0
    workers: int = 0
    import_s: float = 0.0
    used_s: float = 0.0
    reason: str = ""

    _revived = {"libraries": tuple}  # noqa: RUF012 - as above


@dataclass(frozen=True)
class TemplatesInfo(Record):
    """The templates of a host, and what does without.

    `left_out` are packages that make a process unfit to be forked, with the reasons; `fresh` are the paths (or ids) of
    models that a forked worker could not load and a fresh one could, with what the forked one said. `forks` and
    `starts` count the workers that were forked and that were started afresh, since the start of the host.
    """

    templates: tuple[TemplateInfo, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    fresh: dict[str, str] = field(default_factory=dict)
    forks: int = 0
    starts: int = 0

    _revived = {  # noqa: RUF012 - as above
        "templates": lambda templates: tuple(map(TemplateInfo.from_dict, templates)),
    }


@dataclass(frozen=True)
class SizeEstimate(Record):
    """What a model would take: `bytes`, and `source`, which says how that is known.

    "remembered": measured when the same content was loaded; "at least": measured when a load of it was ended because it
    needed more; "declared": said by `model.yaml`; "estimated": by a sizer.
    """

    bytes: int
    source: str

    def __int__(self) -> int:
        return self.bytes


@dataclass(frozen=True)
class SyncReport(Record):
    """What a sync with the models directory did, each model by its id.

    `loaded` are those that were loaded (without waiting: that load now), `unloaded` those that are gone from the
    directory, `failed` says why by id, `writing` are those that are still being written, which a later sync looks at
    again, `changed` are those that serve what was loaded although their files have changed since (`load_model` with
    `reload`). With waiting they include loads that an earlier sync had begun. `degraded` says why the directory
    could not be read, which unloads nothing; None if it could.
    """

    loaded: tuple[str, ...] = ()
    unloaded: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    writing: tuple[str, ...] = ()
    degraded: str | None = None
    changed: tuple[str, ...] = ()

    _revived = dict.fromkeys(("loaded", "unloaded", "writing", "changed"), tuple)


@dataclass(frozen=True)
class Event(Record):
    """One transition: `subject` ("model" or "worker") went from `old` to `new` because of `cause`.

    `cause` is the input of the lifecycle's table (EXITED, UNLOAD, ...), `reason` the same in words.
    """

    time_s: float
    model_id: str
    subject: str
    old: str
    new: str
    cause: str = ""
    reason: str = ""
    model_type: str = ""
    generation: int = 0
    worker_id: int | None = None
    pid: int | None = None


@dataclass(frozen=True)
class HostInfo(Record):
    """The host itself. `epoch` differs after every start.

    `state` is STARTING until the initial loads are done (if they are waited for), READY, or STOPPING. `models_dir` is
    the models directory, None if there is none; `degraded` says what does not work as it should. `kind`
    says what it belongs to: "serve" (itself: `hostd serve`), "embedded" (one process) or "shared" (several). `fronts`
    are the addresses of its fronts by name, as URLs.
    """

    pid: int
    epoch: str
    version: str
    protocol: int
    endpoint: str
    started_s: float
    models: int
    workers: int
    rss_bytes: int
    metrics_port: int | None
    runtime_dir: str
    state_dir: str
    python: str
    models_dir: str | None = None
    degraded: tuple[str, ...] = ()
    name: str = ""
    kind: str = "serve"
    state: str = "READY"
    metrics_host: str | None = None
    fronts: dict[str, str] = field(default_factory=dict)

    _revived = {"degraded": tuple}  # noqa: RUF012 - as above
