"""Loads: from what somebody wants to a model that serves, or to the error of its last try.

Rules
1. Concurrent loads of one source are one load. While a failed load's worker is dying the load is still under way, so a
   caller that comes then gets the same error, and a load that comes after starts afresh.
2. A failed load is tried again, in a fresh process, as often as it was asked to be, whether or not somebody waits. What
   no finder knows is not tried again, nor what would fail in the same way: wrong options, a file that is no model, a
   library that is missing (`is_permanent`).
3. With a budget a load starts when there is memory for it (`Admission`), and what the host has evicted is loaded again
   when it is used.
4. With lazy loading whatever is asked for and is not loaded is looked for below the models directory; what is asked for
   while it is unloaded is loaded again after that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from hostd.core.deadlines import IdleTimer, LoadTimer, WorkerTimer
from hostd.core.effects import Answer, FindSpec, PredictSize, RememberSize, SpawnWorker
from hostd.core.events import LoadSource, Origin
from hostd.core.happenings import LoadEnded
from hostd.core.joining import check_joinable
from hostd.core.lifecycle import ModelInput, ModelState
from hostd.core.models import Cause, Freed, Loaded, LoadStep
from hostd.core.names import model_id_of
from hostd.core.refusals import no_such_model, refusal_of
from hostd.core.standing import retries_of
from hostd.core.values import Size
from hostd_workers.wire.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    HostError,
    NotFoundError,
    Status,
    UnavailableError,
)

if TYPE_CHECKING:
    from hostd.core.comparing import Comparing
    from hostd.core.events import (
        LoadingSpec,
        LoadRequested,
        ModelId,
        RetrieveRequested,
        SizePredicted,
        SpecDelayed,
        SpecFound,
        SpecRefused,
    )
    from hostd.core.happenings import UnloadEnded
    from hostd.core.memory.admission import Admission
    from hostd.core.models import Load, Model, Reload, Worker
    from hostd.core.registry import Registry
    from hostd.core.templates.choosing import Choosing

_PERMANENT = (Status.INVALID_ARGUMENT, Status.FAILED_PRECONDITION)
"""In gRPC's words "problematic regardless of the state", and not to be retried "until the state has been explicitly
fixed"."""


class Loading:
    """The decisions about loads."""

    def __init__(self, registry: Registry, admission: Admission, comparing: Comparing, templates: Choosing) -> None:
        """Take the registry, what decides when a load may start, what knows its files, and what it is forked from."""
        self._registry = registry
        self._admission = admission
        self._comparing = comparing
        self._templates = templates

    # What clients ask

    def load(self, event: LoadRequested) -> None:
        """Begin a load, join one that is under way, or answer from what is loaded. Raises `HostError` to refuse."""
        registry = self._registry
        self.refuse_if_stopping()
        model_id = model_id_of(event.model_id)
        retries = retries_of(event.retries, registry.config.load_retries)
        model = registry.intact(model_id)
        if model is None:
            self.check_free(model_id)
            # Calls of what was evicted wait for it, whatever begins its load.
            evicted = registry.evicted.pop(model_id, None)
            cause = Cause.ASKED if evicted is None else Cause.ON_USE
            model = self.begin(model_id, event.source, Origin.REQUESTED, retries, cause).model
            model.own_retries = event.retries
            model.labels = model.labels if evicted is None else evicted.labels
        else:
            check_joinable(model, event.source)
        if event.labels is not None:
            model.labels = event.labels
        if model.unload is not None:
            model.unload.is_wanted = True
        if model.load is not None and event.wait:
            registry.waiting.add(model.load.waiters, event.caller, event.deadline_s)
        elif model.unload is not None and event.wait:
            registry.waiting.add(model.unload.next_waiters, event.caller, event.deadline_s)
        elif model.is_serving:
            self._comparing.loaded_already(model, event.caller, event.deadline_s)
        else:
            registry.effects.append(Answer(event.caller, registry.describe(model)))

    def retrieve(self, event: RetrieveRequested) -> None:
        """Answer with a model that serves, or wait for it while it loads. Raises `HostError` to refuse."""
        registry = self._registry
        model_id = model_id_of(event.model_id)
        failure = registry.failures.get(model_id)
        if model_id not in registry.models and failure is not None and failure.generation == event.generation:
            raise failure.error
        model = self.wanted(model_id)
        if model.is_serving:
            registry.effects.append(Answer(event.caller, registry.describe(model)))
        elif model.load is not None:
            registry.waiting.add(model.load.waiters, event.caller, event.deadline_s)
        elif model.unload is not None and registry.is_loaded_on_use(model):
            registry.waiting.add(model.unload.next_waiters, event.caller, event.deadline_s)
        else:
            raise refusal_of(model)

    def wanted(self, model_id: ModelId) -> Model:
        """Return the model that somebody wants to use; if it is evicted, or with lazy loading, its load begins.

        Raises `NotFoundError` if there is none, and what refuses a load.
        """
        registry = self._registry
        model = registry.models.get(model_id)
        if model is not None and (model.state is not ModelState.FAILED or not registry.config.lazy_load):
            if model.unload is not None:
                self.check_free(model_id)  # an undeploy: nothing will be there to be loaded again
            return model
        evicted = registry.evicted.get(model_id)
        if evicted is not None and model is None:
            self.refuse_if_stopping()
            self.check_free(model_id)
            retries = registry.config.lazy_load_retries
            model = self.begin(model_id, evicted.source, evicted.origin, retries, Cause.ON_USE).model
            model.pin, model.labels = evicted.is_pinned, evicted.labels
            return model
        if not registry.config.lazy_load:
            raise no_such_model(model_id, registry)
        self.refuse_if_stopping()
        model_id = model_id_of(model_id)
        self.check_free(model_id)
        if model is not None:  # it crashed, and comes back as it was
            source, origin = model.again, model.origin
        elif model_id in registry.declared:
            source, origin = registry.declared_source(model_id), Origin.DECLARED
        else:
            source, origin = LoadSource(f"{registry.config.models_dir}/{model_id}"), Origin.LAZY
        return self.begin(model_id, source, origin, registry.config.lazy_load_retries).model

    def begin(
        self, model_id: ModelId, source: LoadSource, origin: Origin, retries: int, cause: Cause = Cause.ASKED
    ) -> Load:
        """Begin a load of an id without a model, or with one that has failed; that it is free was checked."""
        load = self._registry.new_model(model_id, source, origin, retries, cause)
        self.find(load)
        return load

    def begin_successor(self, model_id: ModelId, source: LoadSource, retries: int) -> Load:
        """Begin a load beside the model that serves under this id."""
        load = self._registry.new_successor(model_id, source, retries)
        self.find(load)
        return load

    def check_free(self, model_id: ModelId) -> None:
        """Raise `FailedPreconditionError` while the files of an id, or of one above or below it, are being moved."""
        reserved = self._registry.reserved
        near = (f"{id!r}: {why}" for id, why in reserved.items() if is_overlapping(id, model_id))
        reason = reserved.get(model_id) or next(near, None)
        if reason is not None:
            raise FailedPreconditionError(
                f"model {model_id!r} cannot be loaded now: {reason}; try again when that is done",
                details={"model_id": model_id},
            )

    def is_busy(self, model_id: ModelId) -> bool:
        """Say whether somebody moves the files of this id, or replaces its model."""
        return model_id in self._registry.reserved or model_id in self._registry.successors

    def refuse_if_stopping(self) -> None:
        """Raise `UnavailableError` once the host is shutting down."""
        if self._registry.is_stopping:
            raise UnavailableError("the host is shutting down")

    # What becomes of a load

    def spec_found(self, event: SpecFound) -> None:
        """Go on with a load that has its specification now; with a budget, what it needs is asked for first."""
        registry = self._registry
        load = self._found(event)
        if load is None:
            return
        model = load.model
        model.spec = event.spec
        model.source = event.standing.under(model.source._replace(path=event.path))
        model.standing = event.standing
        if model.pin is None:
            model.pin = bool(event.standing.is_pinned)
        if model.labels is None:
            model.labels = event.standing.labels
        if model.own_retries is None and event.standing.retries is not None:
            load.retries_left = model.own_retries = event.standing.retries
        registry.begin_story(load)
        if registry.config.budget_bytes is None:
            self.start(load)
            return
        load.step = LoadStep.SIZING
        registry.timers.set(LoadTimer(load), registry.now + registry.config.load_timeout_s)
        wanted = PredictSize(model.id, model.generation, event.path, model.source.type, event.spec)
        registry.effects.append(wanted._replace(is_forked=self._templates.may_fork(load)))

    def size_predicted(self, event: SizePredicted) -> None:
        """Let a load start when there is memory for it."""
        registry = self._registry
        load = registry.load_of(event.model_id, event.generation)
        if load is not None and load.step is LoadStep.SIZING:
            registry.timers.cancel(LoadTimer(load))
            load.model.need = registry.baselines.need_of(event.prediction, registry.config.baseline_bytes)
            self._admission.enter(load)

    def start(self, load: Load, reserve_bytes: int = 0) -> None:
        """Spawn the worker of a load that may start, and reserve what it may take."""
        registry, config, model = self._registry, self._registry.config, load.model
        load.step = LoadStep.STARTING
        worker = registry.new_worker(load)
        worker.reserved_bytes = reserve_bytes
        registry.timers.set(WorkerTimer(worker.id), registry.now + config.spawn_timeout_s)
        spec = cast("LoadingSpec", model.spec)  # nothing is started that was not found
        share = max(1, config.cores // len({other.model.id for other in registry.workers.values()}))
        model.cpu_threads = spec.cpu_threads or config.cpu_threads or share
        origination = self._templates.origin_of(load)
        load.is_forked = origination.template_id is not None
        limit_bytes = spec.memory.limit_bytes
        registry.effects.append(SpawnWorker(worker.id, model.id, spec, model.cpu_threads, limit_bytes, origination))

    def refuse(self, load: Load, error: HostError) -> None:
        """End a load that has not started and will not; it is not tried again."""
        load.retries_left = 0
        self._end(load, error)
        self.try_ended(load.model)

    def spec_delayed(self, event: SpecDelayed) -> bool:
        """Note that the files are still being written; say whether anybody waits for them."""
        load = self._registry.load_of(event.model_id, event.generation)
        if load is None or load.step is not LoadStep.FINDING:
            return False
        self._registry.begin_story(load)
        self._registry.note(load.model, "BEING_WRITTEN", event.reason)
        return True

    def spec_refused(self, event: SpecRefused) -> None:
        """End a load that no finder could specify."""
        load = self._found(event)
        if load is not None:
            if not isinstance(event.error, NotFoundError):
                self._registry.begin_story(load)  # something was there, and is not right
            self.refuse(load, event.error)

    def load_failed(self, worker: Worker, error: HostError) -> None:
        """Note why a load failed, unless that is known, or its worker ends for another one; it ends with the worker."""
        load = worker.model.load
        if load is not None and load.step is LoadStep.STARTING:
            self._end(load, error)

    def fail(self, worker: Worker, error: HostError) -> None:
        """End a load that is under way, by the host's own decision; it is not tried again."""
        worker.model.try_no_more()
        self.load_failed(worker, error)
        self._registry.kill(worker, error.message, worker.memory)

    def load_succeeded(self, worker: Worker, *, is_measured: bool) -> None:
        """Answer the callers that waited for the model; what was measured just now is remembered."""
        registry, model = self._registry, worker.model
        load = cast("Load", model.load)  # nothing else is measured for the first time
        registry.timers.cancel(WorkerTimer(worker.id))
        took_s = registry.now - worker.started_s
        model.loaded = Loaded(registry.now, took_s, model.charge_bytes)
        registry.failures.pop(model.id, None)
        registry.evicted.pop(model.id, None)
        registry.move_model(model, ModelInput.LOAD_SUCCEEDED, f"loaded in {registry.now - model.created_s:.3f} s")
        if is_measured and model.source.path is not None and model.spec is not None and worker.memory is not None:
            memory = worker.memory if worker.highest is None else worker.memory.with_peak_of(worker.highest)
            size = RememberSize(model.source.path, model.spec, memory, took_s)
            registry.effects.append(size._replace(is_forked=worker.template is not None))
        self._templates.faults.succeeded(load)
        registry.waiting.answer(load.waiters, registry.describe(model))
        registry.happened.append(LoadEnded(model, None))

    def try_ended(self, model: Model) -> None:
        """Go on with a load after its last process, if that is what it waits for."""
        load = model.load
        if load is None or model.alive():
            return
        if load.step is LoadStep.ENDING:
            self._end_failed_try(load, cast("HostError", load.error))
        elif load.step is LoadStep.PUT_BACK:
            model.freed, model.size = Freed(), Size()
            self._admission.enter_again(load)

    def give_up_finding(self, load: Load) -> None:
        """Give up a finder that does not answer, or files that are written without end."""
        limit_s, reason = self._registry.config.load_timeout_s, load.model.reason
        said = f": {reason}" if reason else ""
        late = f"no finder could say within {limit_s:g} s (workers.load_timeout_s) how to load it{said}"
        self._registry.begin_story(load)
        self.refuse(load, DeadlineExceededError(late))

    def overtake(self, model: Model) -> None:
        """Forget what a model waits for that is about to be unloaded."""
        self._registry.timers.cancel(IdleTimer(model))
        if model.load is not None:
            self._registry.timers.cancel(LoadTimer(model.load))
            self._admission.leave(model.load)

    def unload_ended(self, what: UnloadEnded) -> None:
        """Load again what is reloaded, or was wanted meanwhile."""
        unload, waiting = what.unload, self._registry.waiting
        if unload.reload is None and not unload.next_waiters and not (unload.eviction and unload.is_wanted):
            return
        try:
            model = self.wanted(unload.model.id) if unload.reload is None else self._reload(unload.model, unload.reload)
            waiting.move(unload.next_waiters, cast("Load", model.load).waiters)  # it has just begun
        except HostError as error:
            waiting.refuse(unload.next_waiters, error)

    # Steps

    def _reload(self, unloaded: Model, reload: Reload) -> Model:
        self.refuse_if_stopping()
        self._registry.evicted.pop(unloaded.id, None)
        retries = retries_of(reload.retries, self._registry.config.load_retries)
        model = self.begin(unloaded.id, reload.source, reload.origin, retries, Cause.RELOAD).model
        model.own_retries = reload.retries
        model.pin, model.labels = unloaded.is_pinned, unloaded.labels
        return model

    def find(self, load: Load) -> None:
        """Begin a try: ask a finder."""
        registry, model = self._registry, load.model
        load.tries += 1
        load.step = LoadStep.FINDING
        registry.timers.set(LoadTimer(load), registry.now + registry.config.load_timeout_s)
        registry.effects.append(FindSpec(model.id, model.generation, model.source, model.origin))

    def _found(self, event: SpecFound | SpecRefused) -> Load | None:
        """Return the load that a finder has answered for; None if that does not wait for it any more."""
        load = self._registry.load_of(event.model_id, event.generation)
        if load is None or load.step not in (LoadStep.FINDING, LoadStep.SIZING):
            return None
        self._registry.timers.cancel(LoadTimer(load))
        return load

    def _end(self, load: Load, error: HostError) -> None:
        load.step, load.error = LoadStep.ENDING, error

    def _end_failed_try(self, load: Load, error: HostError) -> None:
        registry, model = self._registry, load.model
        if self._templates.faults.is_to_blame(load, error):
            load.is_fresh, load.fresh_because, load.error = True, error.message, None
            model.freed = Freed()  # as below
            registry.note(model, "FRESH", f"a worker that was forked from a template failed: {error.message}")
            if registry.config.budget_bytes is None:
                self.start(load)
            else:
                self._admission.enter_again(load)
            return
        if load.retries_left > 0 and not is_permanent(error):
            load.retries_left -= 1
            load.step, load.error = LoadStep.BACKOFF, None
            model.freed = Freed()  # what the failed try gave back is no unload's
            config = registry.config
            wait_s = min(config.retry_max_backoff_s, config.retry_backoff_s * 2 ** (load.tries - 1))
            registry.timers.set(LoadTimer(load), registry.now + wait_s)
            tries = f"try {load.tries} of {load.tries + 1 + load.retries_left}"
            registry.note(model, "RETRY", f"{tries} failed, the next in {wait_s:g} s: {error.message}")
            return
        registry.move_model(model, ModelInput.LOAD_FAILED, error.message)
        registry.forget_model(model)
        registry.note_failure(model, error)
        if isinstance(error, NotFoundError):
            registry.evicted.pop(model.id, None)  # what is gone cannot be loaded again
        registry.waiting.refuse(load.waiters, error)
        registry.happened.append(LoadEnded(model, error))


def is_permanent(error: HostError) -> bool:
    """Say whether a load that failed so would fail in the same way again: the worker says it, else the status."""
    return bool(error.details.get("permanent", error.status in _PERMANENT))


def is_overlapping(one: str, other: str) -> bool:
    """Say whether two ids are the same, or one is a folder that the other is in."""
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")
