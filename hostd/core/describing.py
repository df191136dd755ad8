"""The public records of models and workers: what `list_models` and `get_model` answer.

A record is made of facts alone. To collect these and to compare them with those of before takes a fifth of the time in
which a record is made and encoded: what is asked for again and again is made again only if it is another one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostd.core.lifecycle import ModelState
from hostd.core.values import Size
from hostd.records import ModelInfo, WorkerInfo
from hostd_workers.wire.lane.figures import NO_FIGURES
from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hostd.core.bookkeeping.totals import Counts
    from hostd.core.lifecycle import WorkerState
    from hostd.core.models import Freshness, Interface, Model, Worker
    from hostd.core.values import Memory, ModelId, WorkerId
    from hostd_workers.wire.lane.figures import Figures


class WorkerFacts(NamedTuple):
    """What the record of a worker is made of."""

    id: WorkerId
    pid: int | None
    state: WorkerState
    memory: Memory | None
    baseline_bytes: int | None
    sampled_s: float | None
    in_flight: int
    direct_clients: int
    started_s: float
    template_id: int | None
    why_fresh: str


class Facts(NamedTuple):
    """What the record of a model is made of, all of one moment, and nothing of it changes."""

    id: ModelId
    generation: int
    state: ModelState
    path: str | None
    type: str
    interface: Interface
    size: Size
    workers: tuple[WorkerFacts, ...]
    counts: Counts
    created_s: float
    ready_s: float | None
    load_duration_s: float | None
    used_s: float | None
    latency_s: tuple[float | None, float | None]
    reason: str
    charge_bytes: int
    reserved_bytes: int
    memory_limit: int | None
    is_evictable: bool
    is_pinned: bool
    idle_ttl_s: float
    cpu_threads: int | None
    files: Freshness
    labels: Mapping[str, str]


def facts_of(model: Model, idle_ttl_s: float, wall_offset_s: float) -> Facts:
    """Return what is known of a model now; `wall_offset_s` makes seconds since the epoch of the core's time."""
    spec, loaded, figures = model.spec, model.loaded, model.figures()
    used_s = model.last_used_s or 0.0
    charge_bytes = unmeasured_bytes = 0
    workers = []
    for worker in model.workers.values():
        lane = figures.get(worker.id, NO_FIGURES)
        used_s = max(used_s, lane.last_use_s)
        charge_bytes += worker.charge_bytes
        unmeasured_bytes += worker.unmeasured_bytes
        workers.append(_facts_of_worker(worker, lane, wall_offset_s))
    return Facts(
        model.id,
        model.generation,
        model.state,
        model.source.path,
        model.source.type,
        model.interface,
        model.size,
        tuple(workers),
        model.counts(figures),
        model.created_s + wall_offset_s,
        None if loaded is None else loaded.at_s + wall_offset_s,
        None if loaded is None else loaded.at_s - model.created_s,
        used_s + wall_offset_s if used_s else None,
        model.latency_s(figures),
        model.reason,
        charge_bytes,
        unmeasured_bytes,
        spec.memory.limit_bytes if spec else None,
        spec.memory.is_evictable if spec else True,
        model.is_pinned,
        idle_ttl_s,
        model.cpu_threads,
        model.files,
        model.labels or {},
    )


def _facts_of_worker(worker: Worker, lane: Figures, wall_offset_s: float) -> WorkerFacts:
    sampled_s = worker.sampled_s
    return WorkerFacts(
        worker.id,
        worker.pid,
        worker.state,
        worker.memory,
        worker.baseline_bytes,
        None if sampled_s is None else sampled_s + wall_offset_s,
        len(worker.calls) + lane.in_flight,
        lane.connections,
        worker.started_s + wall_offset_s,
        None if worker.template is None else worker.template.id,
        worker.why_fresh,
    )


def describe(facts: Facts) -> ModelInfo:
    """Return the record of a model; it may be called in any thread."""
    size = Size() if facts.state is ModelState.FAILED else facts.size  # what it took was given back
    p50_s, p99_s = facts.latency_s
    return ModelInfo(
        id=facts.id,
        state=facts.state.value,
        path=facts.path,
        type=facts.type,
        loader=facts.interface.loader,
        generation=facts.generation,
        size=size.bytes,
        size_source=size.source,
        methods=dict(facts.interface.methods),
        default_method=facts.interface.default_method,
        workers=tuple(map(_describe_worker, facts.workers)),
        **facts.counts._asdict(),
        created_s=facts.created_s,
        ready_s=facts.ready_s,
        load_duration_s=facts.load_duration_s,
        last_used_s=facts.used_s,
        reason=facts.reason,
        charge_bytes=facts.charge_bytes,
        reserved_bytes=facts.reserved_bytes,
        memory_limit=facts.memory_limit,
        evictable=facts.is_evictable,
        pinned=facts.is_pinned,
        idle_ttl_s=facts.idle_ttl_s or None,
        cpu_threads=facts.cpu_threads,
        latency_p50_s=p50_s,
        latency_p99_s=p99_s,
        warnings=facts.interface.warnings,
        files=facts.files.value,
        labels=dict(facts.labels),
    )


def _describe_worker(worker: WorkerFacts) -> WorkerInfo:
    memory = worker.memory
    return WorkerInfo(
        id=worker.id,
        pid=worker.pid,
        state=worker.state.value,
        processes=memory.processes if memory else 0,
        rss_bytes=memory.rss_bytes if memory else None,
        uss_bytes=memory.uss_bytes if memory else None,
        pss_bytes=memory.pss_bytes if memory else None,
        peak_bytes=memory.peak_bytes if memory else None,
        swap_bytes=memory.swap_bytes if memory else None,
        shared_bytes=memory.shared_bytes if memory else None,
        gpu_bytes=memory.gpu_bytes if memory else None,
        baseline_bytes=worker.baseline_bytes,
        sampled_s=worker.sampled_s,
        in_flight=worker.in_flight,
        direct_clients=worker.direct_clients,
        started_s=worker.started_s,
        template=worker.template_id,
        why_fresh=worker.why_fresh,
    )
