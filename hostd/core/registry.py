"""What the supervisor knows: models, their generations and workers, and the story of their transitions.

Rules
1. `Registry.move_worker` and `Registry.move_model` are the only ways to a new state, and both end in one line.
2. Every load of an id makes a new `Model` with a new generation. What belongs to an older one still finds its own
   `Model` through its worker, and changes nothing for the one in the registry.
3. A worker is forgotten when it is DEAD; a model when it is UNLOADED or its load failed. Their story stays, bounded, so
   that `explain` can say what became of them.
4. No process is without a registered model: a new generation waits for what is still dying of the earlier ones, so that
   "unloaded" is true of the id and not only of its last load.
5. An id has one registered model, and at most one successor beside it: a new generation that takes its place when it is
   READY, while the registered one serves.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final

from hostd.core import effects as fx
from hostd.core.bookkeeping.baselines import Baselines
from hostd.core.bookkeeping.recent import Recent
from hostd.core.bookkeeping.timers import Timers
from hostd.core.deadlines import LoadTimer, WorkerTimer
from hostd.core.describing import describe, facts_of
from hostd.core.effects import Announce, Effect, SendLoad, refusal
from hostd.core.events import FilesId, LoadSource, ModelId, Origin, WorkerId
from hostd.core.happenings import HEADROOM_CHANGED, MODEL_IDLE
from hostd.core.lifecycle import (
    MODEL_TRANSITIONS,
    WORKER_TRANSITIONS,
    ModelInput,
    ModelState,
    WorkerAction,
    WorkerInput,
    WorkerState,
)
from hostd.core.models import Cause, Evicted, Failure, Load, Model, Unload, Worker
from hostd.core.waiting import Waiting
from hostd.records import Event, UnloadReport
from hostd.units import counted
from hostd_workers.wire.errors import HostError, InternalError, InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from hostd.core.bookkeeping.templates import Template, TemplateId
    from hostd.core.bookkeeping.totals import Totals
    from hostd.core.config import CoreConfig
    from hostd.core.describing import Facts
    from hostd.core.events import Caller, Declared, Memory
    from hostd.core.happenings import Happening
    from hostd.records import ModelInfo


_WANTED_BY: Final[dict[Origin | Cause, str]] = {
    Origin.REQUESTED: "requested",
    Origin.LAZY: "because somebody wants to use it",
    Origin.SYNCED: "found in the models directory",
    Origin.DEPLOYED: "deployed",
    Origin.DECLARED: "declared in the configuration",
    Cause.RELOAD: "requested",
    Cause.ON_USE: "because somebody wants to use it",
}

_ORDERS: Final[dict[WorkerAction, Callable[[WorkerId], Effect]]] = {
    WorkerAction.PAUSE: fx.PauseWorker,
    WorkerAction.RESUME: fx.ResumeWorker,
    WorkerAction.CLOSE: fx.CloseModel,
}

MAX_EVICTED = 10_000
"""More than any machine has resident at some time of the day; a source is some hundred bytes."""


class Registry:
    """Models and workers by id, the timers, and the effects that the event in hand has caused so far."""

    def __init__(self, config: CoreConfig, wall_offset_s: float = 0.0) -> None:
        """Take the limits, and what to add to `now` for seconds since the epoch."""
        self.config = config
        self.wall_offset_s = wall_offset_s
        self.models: dict[ModelId, Model] = {}
        self.successors: dict[ModelId, Model] = {}
        self.reserved: dict[ModelId, str] = {}
        """Ids that may not be loaded at present, and why: their files are being moved."""
        self.workers: dict[WorkerId, Worker] = {}
        self.templates: dict[TemplateId, Template] = {}
        self.stories: OrderedDict[ModelId, deque[Event]] = OrderedDict()
        self.failures: Recent[ModelId, Failure] = Recent(config.stories_kept)
        """The last load of each id, if it has failed; bounded as the stories are."""
        self.evicted: Recent[ModelId, Evicted] = Recent(MAX_EVICTED)
        """Models that are loaded again when they are used; the oldest are forgotten above `MAX_EVICTED`."""
        self.totals: Recent[ModelId, Totals] = Recent(MAX_EVICTED)  # of ids that have no registered model
        self.baselines = Baselines()
        self.happened: list[Happening] = []
        """What the core has still to draw the consequences of."""
        self.unloads = 0
        self.freed_bytes = 0
        self.last_unload: UnloadReport | None = None
        self.timers: Timers[Hashable] = Timers()
        self.effects: list[Effect] = []
        self.waiting = Waiting(self.effects, self.timers)
        self.is_reading = False
        """Whether the models directory is read for the first time, so that a model may be there that is not known."""
        self.declared: dict[ModelId, Declared] = {}
        """What the configuration wants loaded."""
        self.files_in_work: set[FilesId] = set()
        """Deploys and undeploys that are not over; the host does not stop before they are."""
        self.is_stopping = False
        self.degraded: str | None = None
        """Why the models directory cannot be followed at present."""
        self.now = 0.0
        self._generations = 0
        self._workers = 0
        self._files = 0

    def headroom_changed(self) -> None:
        """Note that loads which wait for memory may perhaps go on."""
        if HEADROOM_CHANGED not in self.happened:
            self.happened.append(HEADROOM_CHANGED)

    def model_idle(self, model: Model) -> None:
        """Note that a model has had its last call in flight answered."""
        if self.config.budget_bytes is None:
            return
        if model.is_yielding:
            self.headroom_changed()
        elif MODEL_IDLE not in self.happened:
            self.happened.append(MODEL_IDLE)

    def new_model(self, model_id: ModelId, source: LoadSource, origin: Origin, retries: int, cause: Cause) -> Load:
        """Register a new generation of an id, and return its load."""
        load = self._new_generation(model_id, source, origin, retries, cause)
        self._take_place(load.model)
        if origin is not Origin.LAZY:
            self.begin_story(load)
        return load

    def new_successor(self, model_id: ModelId, source: LoadSource, retries: int) -> Load:
        """Make a new generation beside the one that serves, and return its load."""
        load = self._new_generation(model_id, source, Origin.DEPLOYED, retries, Cause.ASKED)
        self.successors[model_id] = load.model
        self.begin_story(load)
        return load

    def promote(self, model: Model) -> Model:
        """Let a successor take the place of the registered model, and return that."""
        replaced = self.models[model.id]
        del self.successors[model.id]
        self._take_place(model)
        return replaced

    def begin_story(self, load: Load) -> None:
        """Tell that there is a new generation."""
        model = load.model
        if not model.is_told:
            model.is_told = True
            self._tell(model, None, "NEW", model.state.value, "LOAD", _why_loaded(load))

    def note(self, model: Model, cause: str, reason: str) -> None:
        """Tell something of a model that leaves its state as it is."""
        model.reason = reason
        self._tell(model, None, model.state.value, model.state.value, cause, reason)

    def _new_generation(
        self, model_id: ModelId, source: LoadSource, origin: Origin, retries: int, cause: Cause
    ) -> Load:
        self._generations += 1
        model = Model(model_id, self._generations, source, created_s=self.now, origin=origin)
        known = self.models.get(model_id)
        model.totals = known.totals if known is not None else self.totals.pop(model_id, model.totals)
        load = model.load = Load(model, cause, retries)
        return load

    def _take_place(self, model: Model) -> None:
        previous = self.models.get(model.id)
        if previous is not None:
            # Handed over, not shared, or a model that crashes again and again would keep all its generations.
            model.earlier, previous.earlier = previous.alive(), []
            model.pin, model.labels = previous.is_pinned, previous.labels if model.labels is None else model.labels
        self.models[model.id] = model

    def remember_evicted(self, unload: Unload) -> None:
        """Keep what is needed to load an evicted model again."""
        model = unload.model
        more = (model.is_pinned, model.labels, model.loaded.took_s if model.loaded else None)
        self.evicted[model.id] = Evicted(model.again, model.origin, unload.eviction, model.interface, *more)

    def is_loaded_on_use(self, model: Model) -> bool:
        """Say whether a model that does not serve now does soon for what uses it, so that calls wait for it."""
        is_back_soon = model.unload is not None and model.unload.is_coming_back
        is_on_use = model.load is not None and model.load.cause is not Cause.ASKED
        return self.config.lazy_load or is_back_soon or is_on_use

    def declared_source(self, model_id: ModelId) -> LoadSource:
        """Return what to load for a declared id. Raises `InvalidArgumentError` for an entry that is wrong."""
        declared = self.declared[model_id]
        if declared.problem:
            raise InvalidArgumentError(declared.problem, details={"model_id": model_id})
        return LoadSource(declared.path)

    def is_declared_elsewhere(self, model_id: ModelId, path: str | None) -> bool:
        """Say whether the configuration wants an id loaded from another path than this."""
        declared = self.declared.get(model_id)
        return declared is not None and declared.path != path

    def idle_ttl_s(self, model: Model) -> float:
        """Return after how many seconds without a call a model is evicted; 0: never for that."""
        own_s = None if model.spec is None else model.spec.memory.idle_ttl_s
        return self.config.idle_ttl_s if own_s is None else own_s

    def reserve(self, model_id: ModelId, reason: str) -> None:
        """Keep a model from being loaded or evicted while its files are moved."""
        self.reserved[model_id] = reason
        self.headroom_changed()

    def release(self, model_id: ModelId) -> None:
        """Let a model be loaded and evicted again."""
        del self.reserved[model_id]
        self.headroom_changed()

    def refuse(self, caller: Caller, error: HostError) -> None:
        """Have a request answered with an error."""
        self.effects.append(refusal(caller, error))

    def new_files_id(self) -> FilesId:
        """Return the id of a new operation on files, which is in work from now on."""
        self._files += 1
        files_id = FilesId(self._files)
        self.files_in_work.add(files_id)
        return files_id

    def generation_of(self, model_id: ModelId, generation: int) -> Model | None:
        """Return the registered model or the successor of this generation, or None."""
        for model in (self.models.get(model_id), self.successors.get(model_id)):
            if model is not None and model.generation == generation:
                return model
        return None

    def load_of(self, model_id: ModelId, generation: int) -> Load | None:
        """Return the load of this generation, or None if it is over."""
        model = self.generation_of(model_id, generation)
        return None if model is None else model.load

    def intact(self, model_id: ModelId) -> Model | None:
        """Return the registered model, None if there is none or it has failed: its id is free for a load."""
        model = self.models.get(model_id)
        return None if model is None or model.state is ModelState.FAILED else model

    def new_worker(self, load: Load) -> Worker:
        """Register a worker that is about to be spawned for a load."""
        model = load.model
        self._workers += 1
        worker = Worker(WorkerId(self._workers), model, started_s=self.now)
        self.workers[worker.id] = worker
        model.workers[worker.id] = worker
        self._tell(model, worker, "NEW", worker.state.value, "SPAWN", _why_loaded(load))
        return worker

    def accepts(self, worker: Worker, why: WorkerInput) -> bool:
        """Say whether the table has a row for this: what a worker says may be late, or a lie."""
        return (worker.state, why) in WORKER_TRANSITIONS

    def move_worker(self, worker: Worker, why: WorkerInput, reason: str) -> None:
        """Take a worker along a row of its table, and ask for what the row asks for."""
        row = WORKER_TRANSITIONS.get((worker.state, why))
        if row is None:
            raise InternalError(f"a worker that is {worker.state.value} cannot take {why.value}: {worker!r}")
        new, actions = row
        self.headroom_changed()
        effects = [self._effect_of(action, worker) for action in actions]
        if worker.state is WorkerState.READY and new is not WorkerState.READY:
            worker.model.ready.remove(worker)
        if new is WorkerState.READY:
            worker.model.ready.append(worker)
        if worker.state is WorkerState.PAUSED and new is not WorkerState.PAUSED and worker.model.load is not None:
            self.timers.cancel(LoadTimer(worker.model.load))
        self._assign(worker, new, why.value, reason)
        self.effects.extend(effects)
        if new is WorkerState.DEAD:
            del self.workers[worker.id]
            del worker.model.workers[worker.id]

    def move_model(self, model: Model, why: ModelInput, reason: str) -> None:
        """Take a model along a row of its table; whichever that is, it ends a load."""
        new = MODEL_TRANSITIONS.get((model.state, why))
        if new is None:
            raise InternalError(f"a model that is {model.state.value} cannot take {why.value}: {model!r}")
        model.reason = reason
        model.load = None
        self._assign(model, new, why.value, reason)

    def begin_unload(self, model: Model, why: ModelInput, reason: str) -> Unload:
        """Let a model be UNLOADING."""
        self.move_model(model, why, reason)
        model.unload = Unload(model, self.now)
        return model.unload

    def end_unload(self, unload: Unload) -> UnloadReport:
        """Let a model be UNLOADED when its last process is gone; the one place where unloads are counted."""
        model = unload.model
        self.move_model(model, ModelInput.ALL_GONE, proof_of(model.freed.processes))
        report = UnloadReport(
            model_id=model.id,
            size_bytes=model.size.bytes or 0,
            freed_bytes=model.freed.bytes,
            processes=model.freed.processes,
            duration_s=self.now - unload.began_s,
        )
        if model.is_told:
            self.unloads += 1
            self.last_unload = report
        return report

    def forget_model(self, model: Model) -> None:
        """Take a model out of the registry; its story and its counts stay."""
        for place in (self.models, self.successors):
            if place.get(model.id) is model:
                del place[model.id]
                self.totals[model.id] = model.totals

    def forget_absent(self, model_id: ModelId) -> None:
        """Forget what is known of a model that is not loaded and that somebody wants gone; its story stays."""
        for book in (self.evicted, self.failures, self.totals):
            book.pop(model_id, None)

    def note_failure(self, model: Model, error: HostError) -> None:
        """Keep the error of a load that has failed, for later questions."""
        self.failures[model.id] = Failure(model.generation, error, model.source, model.origin, model.labels)

    def kill(self, worker: Worker, reason: str, measured: Memory | None = None) -> None:
        """Kill a worker that is not being killed yet; `measured` is the sample for which, if it is for one."""
        if self.accepts(worker, WorkerInput.KILL):
            worker.killed_for = measured
            self.timers.cancel(WorkerTimer(worker.id))
            self.move_worker(worker, WorkerInput.KILL, reason)

    def _assign(self, subject: Worker | Model, new: WorkerState | ModelState, cause: str, reason: str) -> None:
        old = subject.state
        subject.state = new  # the tables pair each subject with states of its own kind
        if old is not new:
            if isinstance(subject, Worker):
                self._tell(subject.model, subject, old.value, new.value, cause, reason)
            else:
                self._tell(subject, None, old.value, new.value, cause, reason)

    def _effect_of(self, action: WorkerAction, worker: Worker) -> Effect:
        if action is WorkerAction.KILL:
            return fx.KillWorker(worker.id, worker.killed_for)
        if action is WorkerAction.MEASURE:
            return fx.MeasureWorker(worker.id, worker.model.id, worker.model.source)
        if action in _ORDERS:
            return _ORDERS[action](worker.id)
        model = worker.model
        if model.spec is None:
            raise InternalError(f"a worker was told to load before there was a specification: {worker!r}")
        is_learning = self.config.templates == "auto"
        return SendLoad(worker.id, model.id, model.source.path, model.spec, worker.template is not None, is_learning)

    def _tell(self, model: Model, worker: Worker | None, old: str, new: str, cause: str, reason: str) -> None:
        if not model.is_told:
            return
        event = Event(
            time_s=self.now + self.wall_offset_s,
            model_id=model.id,
            subject="worker" if worker else "model",
            old=old,
            new=new,
            cause=cause,
            reason=reason,
            model_type=model.source.type,
            generation=model.generation,
            worker_id=worker.id if worker else None,
            pid=worker.pid if worker else None,
        )
        story = self.stories.get(model.id)
        if story is None:
            story = self.stories[model.id] = deque(maxlen=self.config.story_length)
        story.append(event)
        self.stories.move_to_end(model.id)
        while len(self.stories) > self.config.stories_kept + len(self.models):
            oldest = next(model_id for model_id in self.stories if model_id not in self.models)
            del self.stories[oldest]
        self.effects.append(Announce(event))

    def describe(self, model: Model) -> ModelInfo:
        """Return the public record of a model."""
        return describe(self.facts(model))

    def facts(self, model: Model) -> Facts:
        """Return what the public record of a model is made of."""
        return facts_of(model, self.idle_ttl_s(model), self.wall_offset_s)


def proof_of(processes: int) -> str:
    """Return how the end of so many processes is told."""
    verb = "is" if processes == 1 else "are"
    return f"{counted(processes, 'process', 'processes')} {verb} gone" if processes else "it had no process"


def _why_loaded(load: Load) -> str:
    what = "reload" if load.cause is Cause.RELOAD else "load"
    wanted = _WANTED_BY.get(load.cause) or _WANTED_BY[load.model.origin]
    tries = f", try {load.tries}" if load.tries > 1 else ""
    return f"{what} of {load.model.source.path or 'no path'} {wanted}{tries}"
