"""What may be asked of the core; nothing here changes anything but what the core takes for the time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from hostd.core import events as ev
from hostd.core.lifecycle import ModelState, WorkerState
from hostd.core.refusals import no_such_model
from hostd.records import MemoryInfo
from hostd.units import format_duration

if TYPE_CHECKING:
    from hostd.core.admission import Admission
    from hostd.core.charges import Charges
    from hostd.core.models import Model
    from hostd.core.planning import Planning
    from hostd.core.registry import Registry
    from hostd.records import Event as StoryEvent
    from hostd.records import LoadPlan, ModelInfo
    from hostd_workers.wire.errors import HostError


SERVING = (ModelState.READY, ModelState.DEGRADED)


class CallTimes(NamedTuple):
    """The calls of one method of a model since it was loaded: counts by duration (`latencies.BUCKETS_S`), and a sum."""

    model_id: str
    method: str
    counts: tuple[int, ...]
    sum_s: float


class Questions:
    """The questions of one core."""

    _registry: Registry
    _charges: Charges
    _planning: Planning
    _admission: Admission

    def list_models(self) -> list[ModelInfo]:
        """Return the records of all models, by id."""
        models = self._registry.models
        return [self._registry.describe(models[model_id]) for model_id in sorted(models)]

    def get_model(self, model_id: str) -> ModelInfo | None:
        """Return the record of a model, or None."""
        model = self._registry.models.get(ev.ModelId(model_id))
        return None if model is None else self._registry.describe(model)

    def story(self, model_id: str) -> list[StoryEvent]:
        """Return the last transitions of a model and its workers, oldest first, also of one that is gone."""
        return list(self._registry.stories.get(ev.ModelId(model_id), ()))

    def knows(self, model_id: str) -> bool:
        """Say whether there is a model of this id, or was one that is remembered."""
        known = ev.ModelId(model_id)
        return any(known in place for place in (self._registry.models, self._registry.evicted, self._registry.stories))

    def worker_count(self) -> int:
        """Return how many workers may have a process."""
        return len(self._registry.workers)

    def absence_of(self, model_id: str) -> HostError:
        """Return the error that says that a model is not loaded, and why if its last load failed."""
        return no_such_model(ev.ModelId(model_id), self._registry)

    def is_finding(self, model_id: ev.ModelId, generation: int) -> bool:
        """Say whether a finder's answer for this generation is still waited for."""
        model = self._registry.generation_of(model_id, generation)
        return model is not None and model.is_finding

    @property
    def degraded(self) -> str | None:
        """Why the models directory cannot be followed at present, or None."""
        return self._registry.degraded

    def activity(self, worker_id: ev.WorkerId, since_s: float) -> tuple[bool, bool]:
        """Say whether a worker is in use, or was since then, and whether it is still loading its model."""
        worker = self._registry.workers.get(worker_id)
        if worker is None:
            return False, False
        used_s = worker.model.last_used_s
        is_recent = used_s is not None and used_s >= since_s
        return bool(worker.calls) or is_recent, worker.state in (WorkerState.IDLE, WorkerState.LOADING)

    @property
    def is_stopping(self) -> bool:
        """Whether the host is shutting down."""
        return self._registry.is_stopping

    def call_times(self) -> list[CallTimes]:
        """Return how long the calls of the models that serve took, by method."""
        return [
            CallTimes(model.id, method, tuple(histogram.counts), histogram.sum_s)
            for model in self._registry.models.values()
            if model.state in SERVING
            for method, histogram in model.latencies.by_method.items()
        ]

    # Memory

    def memory(self) -> MemoryInfo:
        """Return what all models hold of the budget."""
        registry, admission, charges = self._registry, self._admission, self._charges
        budget_bytes, workers = registry.config.budget_bytes, registry.workers.values()
        return MemoryInfo(
            budget_bytes=budget_bytes,
            measured_bytes=sum(worker.measured_bytes for worker in workers),
            reserved_bytes=sum(worker.unmeasured_bytes for worker in workers),
            free_bytes=None if budget_bytes is None else charges.room(budget_bytes).free_bytes,
            waiting=tuple(model.id for model in admission.queue),
            over_budget=admission.over_budget,
            evictions=dict(admission.evictions),
            refusals=admission.refusals,
            waits=admission.waits,
            unloads=registry.unloads,
            freed_bytes=registry.freed_bytes,
            last_unload=registry.last_unload,
        )

    def plan_load(self, model_id: str, prediction: ev.Prediction, now: float) -> LoadPlan:
        """Return what a load that is predicted to need so much would do now."""
        self._registry.now = now
        need = self._registry.need_of(prediction)
        return self._planning.plan(ev.ModelId(model_id), *need, in_line=len(self._admission.queue))

    def explain(self, model_id: str, now: float) -> dict[str, Any] | None:
        """Return all that is known of why a model is as it is, as plain values; None if nothing is known of it."""
        registry = self._registry
        registry.now = now
        known = ev.ModelId(model_id)
        model, story, evicted = registry.models.get(known), self.story(model_id), registry.evicted.get(known)
        if not self.knows(model_id):
            return None
        told = story[-1].new if story and story[-1].subject == "model" else ModelState.UNLOADED.value
        return {
            "model_id": model_id,
            "state": model.state.value if model else told,
            "reason": model.reason if model else evicted.reason if evicted else story[-1].reason,
            "model": registry.describe(model).to_dict() if model else None,
            "story": [event.to_dict() for event in story],
            "size": self._size_of(model) if model else None,
            "eviction": self._eviction_of(model) if model else None,
            "details": model.death.details if model and model.death else {},
        }

    def _size_of(self, model: Model) -> dict[str, Any]:
        sampled = [worker for worker in model.workers.values() if worker.memory is not None]
        sampled_s = [worker.sampled_s for worker in sampled if worker.sampled_s is not None]
        peaks = [worker.memory.peak_bytes for worker in sampled if worker.memory and worker.memory.peak_bytes]
        baselines = [worker.baseline_bytes for worker in sampled if worker.baseline_bytes is not None]
        return {
            "bytes": model.size_bytes,
            "source": model.size_source,
            "age_s": self._registry.now - min(sampled_s) if sampled_s else None,
            "charge_bytes": model.charge_bytes,
            "reserved_bytes": sum(worker.unmeasured_bytes for worker in model.workers.values()),
            "need_bytes": model.need_bytes or None,
            "need_source": model.need_source,
            "peak_bytes": sum(peaks) or None,
            "baseline_bytes": sum(baselines) or None,
        }

    def _eviction_of(self, model: Model) -> dict[str, Any] | None:
        if not model.charge_bytes:
            return None
        models = self._charges.by_what_keeps().get(None, [])
        kept = self._charges.kept(model)
        reload = format_duration(model.load_s)
        return {
            "would_free_bytes": model.charge_bytes,
            "idle_s": self._charges.idle_s(model),
            "reload_s": model.load_s if model.ready_s is not None else None,
            "why_not": "" if kept is None else kept.value,
            "rank": models.index(model) + 1 if model in models else None,
            "returns": f"the next call or retrieve_model loads it again, which took {reload} the last time; calls wait",
        }
