"""What a program is told that keeps a view of all models."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from hostd.core.describing import Facts
from hostd.core.queries.listing import absent
from hostd.views import ModelSummary

if TYPE_CHECKING:
    from hostd.core.events import ModelId
    from hostd.core.models import Model
    from hostd.core.registry import Registry
    from hostd.records import ModelInfo

Known: TypeAlias = "Facts | ModelInfo"


def ids(registry: Registry) -> set[ModelId]:
    """Return the ids of all models, also of those that were evicted or whose last load failed."""
    return {*registry.models, *registry.evicted, *registry.failures}


def known(registry: Registry, model_id: ModelId) -> Known | None:
    """Return what is known of one of them; None if that is nothing."""
    model = registry.models.get(model_id)
    return absent(registry, model_id, None) if model is None else registry.facts(model)


def lasting(model: Known) -> tuple[object, ...]:
    """Return what makes a change of a model: all of its record but the figures, which change all the time."""
    if not isinstance(model, Facts):
        return (model.state, model.path, model.type, model.reason, model.pinned, model.labels, model.loader)
    workers = tuple((worker.id, worker.pid, worker.state) for worker in model.workers)
    settings = (model.memory_limit, model.is_evictable, model.is_pinned, model.idle_ttl_s, model.cpu_threads)
    came = (model.generation, model.state, model.reason, model.ready_s)
    return (came, model.path, model.type, model.labels, model.files, model.interface, workers, settings)


def summary_of(registry: Registry, model_id: ModelId) -> ModelSummary | None:
    """Return a model as a summary of all has it."""
    model = registry.models.get(model_id)
    if model is not None:
        return _summary(model)
    record, evicted = absent(registry, model_id, None), registry.evicted.get(model_id)
    if record is None:
        return None
    return ModelSummary(record.state, reload_s=evicted.reload_s if evicted else None, pinned=record.pinned)


def _summary(model: Model) -> ModelSummary:
    charge_bytes = in_flight = 0
    for worker in model.workers.values():
        charge_bytes += worker.charge_bytes
        in_flight += worker.in_flight
    reload_s = None if model.loaded is None else model.loaded.took_s
    return ModelSummary(model.state.value, model.generation, charge_bytes, reload_s, in_flight, pinned=model.is_pinned)
