"""The public records of models and workers: what `list_models` and `get_model` answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostd.core.lifecycle import ModelState
from hostd.core.values import Size
from hostd.records import ModelInfo, WorkerInfo

if TYPE_CHECKING:
    from hostd.core.models import Model, Worker


def describe(model: Model, idle_ttl_s: float, wall_offset_s: float) -> ModelInfo:
    """Return the record of a model; `wall_offset_s` makes seconds since the epoch of the core's time."""

    def wall(instant_s: float | None) -> float | None:
        return None if instant_s is None else instant_s + wall_offset_s

    spec, workers = model.spec, model.workers.values()
    size = Size() if model.state is ModelState.FAILED else model.size  # what it took was given back
    ready_s = model.loaded and model.loaded.at_s
    (p50_s, p99_s), (calls, errors) = model.latency_s, model.all_calls
    return ModelInfo(
        id=model.id,
        state=model.state.value,
        path=model.source.path,
        type=model.source.type,
        loader=model.interface.loader,
        generation=model.generation,
        size=size.bytes,
        size_source=size.source,
        methods=dict(model.interface.methods),
        default_method=model.interface.default_method,
        workers=tuple(_describe_worker(worker, wall(worker.sampled_s), wall(worker.started_s)) for worker in workers),
        calls=calls,
        errors=errors,
        created_s=wall(model.created_s),
        ready_s=wall(ready_s),
        load_duration_s=None if ready_s is None else ready_s - model.created_s,
        last_used_s=wall(model.used_s),
        reason=model.reason,
        charge_bytes=model.charge_bytes,
        reserved_bytes=sum(worker.unmeasured_bytes for worker in workers),
        memory_limit=spec.memory.limit_bytes if spec else None,
        evictable=spec.memory.is_evictable if spec else True,
        pinned=model.is_pinned,
        idle_ttl_s=idle_ttl_s or None,
        cpu_threads=model.cpu_threads,
        latency_p50_s=p50_s,
        latency_p99_s=p99_s,
        warnings=model.interface.warnings,
        files=model.files.value,
    )


def _describe_worker(worker: Worker, sampled_s: float | None, started_s: float | None) -> WorkerInfo:
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
        sampled_s=sampled_s,
        in_flight=worker.in_flight,
        started_s=started_s,
    )
