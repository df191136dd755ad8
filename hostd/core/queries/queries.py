"""What may be asked of the core; nothing here changes anything but what the core takes for the time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hostd.core import events as ev
from hostd.core.describing import describe
from hostd.core.lifecycle import ModelState, WorkerState
from hostd.core.models import LoadStep
from hostd.core.queries import views
from hostd.core.queries.explaining import calls_of, direct_of, eviction_of, origins_of, reason_of, settings_of, size_of
from hostd.core.queries.listing import absent, each_of_all
from hostd.core.refusals import no_such_model
from hostd.records import MemoryInfo
from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hostd.core.bookkeeping.totals import Counts
    from hostd.core.calls.routing import Router
    from hostd.core.describing import Facts
    from hostd.core.files.deploying import Deploying
    from hostd.core.memory.admission import Admission
    from hostd.core.memory.charges import Charges
    from hostd.core.memory.planning import Planning
    from hostd.core.registry import Registry
    from hostd.core.templates.choosing import Choosing
    from hostd.records import Event as StoryEvent
    from hostd.records import LoadPlan, ModelInfo, TemplatesInfo
    from hostd.views import ModelSummary
    from hostd_workers.wire.errors import HostError


_LOADING = (WorkerState.IDLE, WorkerState.LOADING, WorkerState.PAUSED)


class CallTimes(NamedTuple):
    """The calls of one method of a model since it was loaded: counts by duration (`latencies.BUCKETS_S`), and a sum."""

    model_id: str
    method: str
    counts: tuple[int, ...]
    sum_s: float


class Activity(NamedTuple):
    """Whether a worker is in use or loads its model, and what is reserved for the load; None for no reservation."""

    is_busy: bool = False
    is_loading: bool = False
    reserved_bytes: int | None = None


class Queries:
    """The queries of one core."""

    def __init__(
        self,
        registry: Registry,
        charges: Charges,
        planning: Planning,
        admission: Admission,
        router: Router,
        deploying: Deploying,
        templates: Choosing,
    ) -> None:
        self._registry = registry
        self._charges = charges
        self._planning = planning
        self._admission = admission
        self._router = router
        self._deploying = deploying
        self._templates = templates

    def list_models(self) -> list[ModelInfo]:
        """Return the records of all models that are loaded, or have lost their process, by id."""
        return [describe(facts) for facts in self.each_model()]

    def each_model(self) -> Iterator[Facts]:
        """Yield what the records of these models are made of, each of the moment in which it is asked for.

        The core may take events between two of them: a model that has come meanwhile may be missing, one that has gone
        is not there.
        """
        models = self._registry.models
        for model_id in sorted(models):
            model = models.get(model_id)
            if model is not None:
                yield self._registry.facts(model)

    def each_of_all_models(self, entries: Iterable[ev.DirectoryEntry]) -> Iterator[Facts | ModelInfo]:
        """Yield the same, and the records of the models that are not loaded; `entries` are of the models directory."""
        return each_of_all(self._registry, entries)

    def loaded(self) -> list[tuple[ev.ModelId, int, str | None]]:
        """Return the id, generation and path of the same models, in no order."""
        return [(model.id, model.generation, model.source.path) for model in self._registry.models.values()]

    def all_ids(self) -> set[ev.ModelId]:
        """Return the ids of all models, also of those that were evicted or whose last load failed."""
        return views.ids(self._registry)

    def known(self, model_id: ev.ModelId) -> views.Known | None:
        """Return what is known of one of them; None if that is nothing."""
        return views.known(self._registry, model_id)

    def summaries(self) -> dict[str, ModelSummary]:
        """Return all of them in short, of one moment."""
        found = ((model_id, views.summary_of(self._registry, model_id)) for model_id in self.all_ids())
        return {model_id: summary for model_id, summary in found if summary is not None}

    def get_model(self, model_id: str) -> ModelInfo | None:
        """Return the record of a model, or None."""
        model = self._registry.models.get(ev.ModelId(model_id))
        return None if model is None else self._registry.describe(model)

    def get_absent(self, model_id: str, entries: Iterable[ev.DirectoryEntry] = ()) -> ModelInfo | None:
        """Return the record of a model that is not loaded, as `each_of_all_models` has it, or None."""
        found = next((entry for entry in entries if entry.model_id == model_id), None)
        return absent(self._registry, ev.ModelId(model_id), found)

    def story(self, model_id: str) -> list[StoryEvent]:
        """Return the last transitions of a model and its workers, oldest first, also of one that is gone."""
        return list(self._registry.stories.get(ev.ModelId(model_id), ()))

    def knows(self, model_id: str) -> bool:
        """Say whether there is a model of this id, or was one that is remembered."""
        known = ev.ModelId(model_id)
        return any(known in place for place in (self._registry.models, self._registry.evicted, self._registry.stories))

    def workers_of(self, model_id: str) -> list[ev.WorkerId]:
        """Return the workers of a model that have a process and are not being killed."""
        model = self._registry.models.get(ev.ModelId(model_id))
        dying = (WorkerState.KILLING, WorkerState.DEAD)
        return [] if model is None else [id for id, worker in model.workers.items() if worker.state not in dying]

    def model_count(self) -> int:
        """Return how many models are loaded, or have lost their process."""
        return len(self._registry.models)

    def worker_count(self) -> int:
        """Return how many workers may have a process."""
        return len(self._registry.workers)

    def absence_of(self, model_id: str) -> HostError:
        """Return the error that says that a model is not loaded, and why if its last load failed."""
        return no_such_model(ev.ModelId(model_id), self._registry)

    def absence_of_upload(self, files_id: ev.FilesId, client: ev.ClientId) -> HostError:
        """Return the error that says that an upload takes nothing, and why if the host has ended it."""
        return self._deploying.uploads.absence_of(files_id, client)

    def is_finding(self, model_id: ev.ModelId, generation: int) -> bool:
        """Say whether a finder's answer for this generation is still waited for."""
        load = self._registry.load_of(model_id, generation)
        return load is not None and load.step is LoadStep.FINDING

    @property
    def degraded(self) -> str | None:
        """Why the models directory cannot be followed at present, or None."""
        return self._registry.degraded

    def activity(self, worker_id: ev.WorkerId, since_s: float) -> Activity:
        """Say what a worker does, and whether it is in use or was since then."""
        worker = self._registry.workers.get(worker_id)
        if worker is None:
            return Activity()
        used_s = worker.model.used_s
        is_recent = used_s is not None and used_s >= since_s
        is_loading = worker.state in _LOADING
        has_reservation = is_loading and self._registry.config.budget_bytes is not None
        reserved_bytes = worker.reserved_bytes if has_reservation else None
        return Activity(bool(worker.in_flight) or is_recent, is_loading, reserved_bytes)

    @property
    def is_stopping(self) -> bool:
        """Whether the host is shutting down."""
        return self._registry.is_stopping

    def call_times(self) -> list[CallTimes]:
        """Return how long the calls of the models that serve took, by method."""
        return [
            CallTimes(model.id, method, tuple(histogram.counts), histogram.sum_s)
            for model in self._registry.models.values()
            if model.is_serving
            for method, histogram in model.call_times().items()
        ]

    def evicted_counts(self) -> list[tuple[ev.ModelId, Counts]]:
        """Return the counts of the models that are evicted and not loaded again."""
        registry = self._registry
        absent = registry.evicted.keys() - registry.models.keys()
        return [(model_id, totals.now([])) for model_id in sorted(absent) if (totals := registry.totals.get(model_id))]

    # Memory

    def memory(self) -> MemoryInfo:
        """Return what all models hold of the budget."""
        registry, admission, charges = self._registry, self._admission, self._charges
        budget_bytes, workers = registry.config.budget_bytes, registry.workers.values()
        return MemoryInfo(
            budget_bytes=budget_bytes,
            measured_bytes=sum(worker.measured_bytes for worker in workers),
            reserved_bytes=sum(worker.unmeasured_bytes for worker in workers),
            templates_bytes=charges.templates_bytes(),
            free_bytes=None if budget_bytes is None else charges.headroom(budget_bytes).free_bytes,
            waiting=tuple(load.model.id for load in admission.queue),
            paused=tuple(worker.model.id for worker in charges.outgrown() if worker in admission.growing.paused),
            over_budget=admission.over_budget,
            evictions=dict(admission.evictions),
            refusals=admission.refusals + admission.growing.refusals,
            waits=admission.waits,
            pauses=admission.growing.pauses,
            unloads=registry.unloads,
            freed_bytes=registry.freed_bytes,
            last_unload=registry.last_unload,
        )

    def templates(self) -> TemplatesInfo:
        """Return the processes that fork workers, and what does without."""
        return self._templates.describe()

    def plan_load(self, model_id: str, prediction: ev.Prediction, now: float) -> LoadPlan:
        """Return what a load that is predicted to need so much would do now."""
        self._registry.now = now
        need = self._registry.baselines.need_of(prediction, self._registry.config.baseline_bytes)
        return self._planning.plan(ev.ModelId(model_id), need, in_line=self._admission.in_line)

    def explain(self, model_id: str, now: float, entries: Iterable[ev.DirectoryEntry] = ()) -> dict[str, Any] | None:
        """Return all that is known of why a model is as it is, as plain values; None if nothing is known of it.

        `entries` are of the models directory, for a model that is not loaded.
        """
        registry = self._registry
        registry.now = now
        known = ev.ModelId(model_id)
        model, story = registry.models.get(known), self.story(model_id)
        entry = next((entry for entry in entries if entry.model_id == known), None)
        record = registry.describe(model) if model else absent(registry, known, entry)
        if record is None and not story:
            return None
        told = story[-1].new if story and story[-1].subject == "model" else ModelState.UNLOADED.value
        return {
            "model_id": model_id,
            "state": record.state if record else told,
            "reason": reason_of(model, now) if model else record.reason if record else story[-1].reason,
            "model": record.to_dict() if record else None,
            "settings": settings_of(model, registry) if model else [],
            "calls": calls_of(model, self._router, now) if model else [],
            "direct": direct_of(model) if model else None,
            "origins": origins_of(model) if model else [],
            "story": [event.to_dict() for event in story],
            "size": size_of(model, now) if model else None,
            "eviction": eviction_of(model, self._charges) if model else None,
            "details": model.death.details if model and model.death else {},
        }
