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

from hostd.core.deadlines import FinderTimer, IdleTimer, RetryTimer, WorkerTimer
from hostd.core.effects import Answer, FindSpec, PredictSize, RememberSize, SpawnWorker
from hostd.core.events import STANDALONE, LoadSource, Origin
from hostd.core.happenings import LoadEnded
from hostd.core.joining import check_joinable
from hostd.core.lifecycle import SERVING, ModelInput, ModelState
from hostd.core.names import model_id_of
from hostd.core.refusals import no_such_model, refusal_of
from hostd_workers.wire.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    HostError,
    InvalidArgumentError,
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
    )
    from hostd.core.happenings import UnloadEnded
    from hostd.core.memory.admission import Admission
    from hostd.core.models import Model, Reload, Worker
    from hostd.core.registry import Registry

MAX_RETRIES = 100
"""With the longest backoff that is most of an hour; whoever wants more wants a supervisor of their own."""

_PERMANENT = (Status.INVALID_ARGUMENT, Status.FAILED_PRECONDITION)
"""In gRPC's words "problematic regardless of the state", and not to be retried "until the state has been explicitly
fixed"."""


class Loading:
    """The decisions about loads."""

    def __init__(self, registry: Registry, admission: Admission, comparing: Comparing) -> None:
        """Take the registry, what decides when a load that knows what it needs may start, and what knows its files."""
        self._registry = registry
        self._admission = admission
        self._comparing = comparing

    # What clients ask

    def load(self, event: LoadRequested) -> None:
        """Begin a load, join one that is under way, or answer from what is loaded. Raises `HostError` to refuse."""
        registry = self._registry
        self.refuse_if_stopping()
        model_id = model_id_of(event.model_id)
        retries = retries_of(event.retries, registry.config.load_retries)
        model = registry.models.get(model_id)
        is_serving = model is not None and model.state in SERVING
        if model is None or model.state is ModelState.FAILED:
            self.check_free(model_id)
            registry.evicted.pop(model_id, None)
            model = self.begin(model_id, event.source, Origin.REQUESTED, retries)
            model.own_retries = event.retries
        else:
            check_joinable(model, event.source)
        model.is_wanted = True
        if model.state is ModelState.LOADING and event.wait:
            registry.waiting.add(model.waiters, event.caller, event.deadline_s)
        elif model.state is ModelState.UNLOADING and event.wait:
            registry.waiting.add(model.next_waiters, event.caller, event.deadline_s)
        elif is_serving:
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
        if model.state in SERVING:
            registry.effects.append(Answer(event.caller, registry.describe(model)))
        elif model.state is ModelState.LOADING:
            registry.waiting.add(model.waiters, event.caller, event.deadline_s)
        elif model.state is ModelState.UNLOADING and registry.is_loaded_on_use(model):
            registry.waiting.add(model.next_waiters, event.caller, event.deadline_s)
        else:
            raise refusal_of(model)

    def wanted(self, model_id: ModelId) -> Model:
        """Return the model that somebody wants to use; if it is evicted, or with lazy loading, its load begins.

        Raises `NotFoundError` if there is none, and what refuses a load.
        """
        registry = self._registry
        model = registry.models.get(model_id)
        if model is not None and (model.state is not ModelState.FAILED or not registry.config.lazy_load):
            if model.state is ModelState.UNLOADING:
                self.check_free(model_id)  # an undeploy: nothing will be there to be loaded again
            return model
        evicted = registry.evicted.get(model_id)
        if evicted is not None and model is None:
            self.refuse_if_stopping()
            self.check_free(model_id)
            model = self.begin(model_id, evicted.source, evicted.origin, registry.config.lazy_load_retries)
            model.is_on_demand = model.has_own_pin = True
            model.is_pinned = evicted.is_pinned
            return model
        if not registry.config.lazy_load:
            raise no_such_model(model_id, registry)
        self.refuse_if_stopping()
        model_id = model_id_of(model_id)
        self.check_free(model_id)
        if model is not None:  # it crashed, and comes back as it was
            return self.begin(model_id, model.again, model.origin, registry.config.lazy_load_retries)
        retries = registry.config.lazy_load_retries
        if model_id in registry.declared:
            return self.begin(model_id, registry.declared_source(model_id), Origin.DECLARED, retries)
        source = LoadSource(f"{registry.config.models_dir}/{model_id}", STANDALONE, None, None, {})
        return self.begin(model_id, source, Origin.LAZY, retries)

    def begin(
        self, model_id: ModelId, source: LoadSource, origin: Origin, retries: int, *, is_reload: bool = False
    ) -> Model:
        """Begin a load of an id without a model, or whose model has failed; the caller has checked that it is free."""
        model = self._registry.new_model(model_id, source, origin, retries, is_reload=is_reload)
        self._find(model)
        return model

    def begin_successor(self, model_id: ModelId, source: LoadSource, retries: int) -> Model:
        """Begin a load beside the model that serves under this id."""
        model = self._registry.new_successor(model_id, source, retries)
        self._find(model)
        return model

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
        """Go on with a model whose specification is known now; with a budget, what it needs is asked for first."""
        registry = self._registry
        model = self._found(event.model_id, event.generation)
        if model is None:
            return
        model.spec = event.spec
        model.source = event.standing.under(model.source._replace(path=event.path))
        model.standing = event.standing
        if not model.has_own_pin:
            model.is_pinned, model.has_own_pin = bool(event.standing.is_pinned), True
        if model.own_retries is None and event.standing.retries is not None:
            model.retries_left = model.own_retries = event.standing.retries
        registry.begin_story(model)
        if registry.config.budget_bytes is None:
            self.start(model)
            return
        model.is_predicting = True
        registry.timers.set(FinderTimer(model), registry.now + registry.config.load_timeout_s)
        registry.effects.append(PredictSize(model.id, model.generation, event.path, model.source.type, event.spec))

    def size_predicted(self, event: SizePredicted) -> None:
        """Let a load start when there is memory for it."""
        model = self._registry.generation_of(event.model_id, event.generation)
        if model is None or not model.is_predicting:
            return
        model.is_predicting = False
        self._registry.timers.cancel(FinderTimer(model))
        model.need_bytes, model.need_source = self._registry.baselines.need_of(
            event.prediction, self._registry.config.baseline_bytes
        )
        self._admission.enter(model)

    def start(self, model: Model, reserve_bytes: int = 0) -> None:
        """Spawn the worker of a load that may start, and reserve what it may take."""
        registry, config = self._registry, self._registry.config
        worker = registry.new_worker(model)
        worker.reserved_bytes = reserve_bytes
        registry.timers.set(WorkerTimer(worker.id), registry.now + config.spawn_timeout_s)
        spec = cast("LoadingSpec", model.spec)  # nothing is started that was not found
        share = max(1, config.cores // len({other.model.id for other in registry.workers.values()}))
        model.cpu_threads = spec.cpu_threads or config.cpu_threads or share
        registry.effects.append(SpawnWorker(worker.id, model.id, spec, model.cpu_threads, spec.memory.limit_bytes))

    def refuse(self, model: Model, error: HostError) -> None:
        """End a load that has not started and will not; it is not tried again."""
        model.load_error = error
        model.retries_left = 0
        if not model.alive():
            self._end_failed_try(model, error)

    def spec_delayed(self, event: SpecDelayed) -> bool:
        """Note that the files are still being written; say whether anybody waits for them."""
        model = self._registry.generation_of(event.model_id, event.generation)
        if model is None or not model.is_finding:
            return False
        self._registry.begin_story(model)
        self._registry.note(model, "BEING_WRITTEN", event.reason)
        return True

    def spec_refused(self, model_id: ModelId, generation: int, error: HostError) -> None:
        """End a load that no finder could specify."""
        model = self._found(model_id, generation)
        if model is not None:
            if not isinstance(error, NotFoundError):
                self._registry.begin_story(model)  # something was there, and is not right
            self.refuse(model, error)

    def load_failed(self, worker: Worker, error: HostError) -> None:
        """Note why a load failed; it ends when the worker is gone."""
        if worker.model.load_error is None:
            worker.model.load_error = error

    def fail(self, worker: Worker, error: HostError) -> None:
        """End a load that is under way, by the host's own decision; it is not tried again."""
        worker.model.retries_left = 0
        self.load_failed(worker, error)
        self._registry.kill(worker, error.message, worker.memory)

    def load_succeeded(self, worker: Worker, *, is_measured: bool) -> None:
        """Answer everybody who waited for the model; what was measured just now is remembered."""
        model = worker.model
        registry = self._registry
        registry.timers.cancel(WorkerTimer(worker.id))
        model.ready_s = registry.now
        model.load_s = registry.now - worker.started_s
        model.ready_bytes = model.charge_bytes
        registry.failures.pop(model.id, None)
        registry.evicted.pop(model.id, None)
        load_s = registry.now - model.created_s
        registry.move_model(model, ModelInput.LOAD_SUCCEEDED, f"loaded in {load_s:.3f} s")
        if is_measured and model.source.path is not None and model.spec is not None and worker.memory is not None:
            memory = worker.memory if worker.highest is None else worker.memory.with_peak_of(worker.highest)
            registry.effects.append(RememberSize(model.source.path, model.spec, memory, model.load_s))
        registry.waiting.answer(model.waiters, registry.describe(model))
        registry.happened.append(LoadEnded(model, None))

    def try_ended(self, model: Model) -> None:
        """Go on after the last worker of a failed try is gone."""
        if model.state is ModelState.LOADING and model.load_error is not None:
            self._end_failed_try(model, model.load_error)
        elif model.state is ModelState.LOADING and model.is_put_back:
            model.freed_bytes = model.processes_ended = 0
            model.size_bytes, model.size_source = None, "unknown"
            self._admission.enter_again(model)

    def expire_finder(self, key: FinderTimer) -> None:
        """Give up a finder that does not answer, or files that are written without end."""
        limit_s = self._registry.config.load_timeout_s
        said = f": {key.model.reason}" if key.model.reason else ""
        late = f"no finder could say within {limit_s:g} s (workers.load_timeout_s) how to load it{said}"
        self.spec_refused(key.model.id, key.model.generation, DeadlineExceededError(late))

    def retry(self, key: RetryTimer) -> None:
        """Try a failed load again."""
        key.model.load_error = None
        self._find(key.model)

    def overtake(self, model: Model) -> None:
        """Forget the timers of a model that an unload overtakes."""
        model.is_finding = model.is_predicting = False
        self._registry.timers.cancel(IdleTimer(model))
        self._registry.timers.cancel(FinderTimer(model))
        self._registry.timers.cancel(RetryTimer(model))
        self._admission.leave(model)

    def unload_ended(self, what: UnloadEnded) -> None:
        """Load again what is reloaded, or was wanted meanwhile."""
        unloaded = what.model
        reload, waiting = unloaded.reload, self._registry.waiting
        if reload is None and not unloaded.next_waiters and not (unloaded.is_evicted and unloaded.is_wanted):
            return
        try:
            model = self.wanted(unloaded.id) if reload is None else self._reload(unloaded, reload)
            waiting.move(unloaded.next_waiters, model.waiters)
        except HostError as error:
            waiting.refuse(unloaded.next_waiters, error)

    # Steps

    def _reload(self, unloaded: Model, reload: Reload) -> Model:
        self.refuse_if_stopping()
        self._registry.evicted.pop(unloaded.id, None)
        retries = retries_of(reload.retries, self._registry.config.load_retries)
        model = self.begin(unloaded.id, reload.source, reload.origin, retries, is_reload=True)
        model.own_retries = reload.retries
        model.is_on_demand = model.has_own_pin = True
        model.is_pinned = unloaded.is_pinned
        return model

    def _find(self, model: Model) -> None:
        registry = self._registry
        model.tries += 1
        model.is_finding = True
        registry.timers.set(FinderTimer(model), registry.now + registry.config.load_timeout_s)
        registry.effects.append(FindSpec(model.id, model.generation, model.source, model.origin))

    def _found(self, model_id: ModelId, generation: int) -> Model | None:
        """Return the model whose finder has answered; None if nobody waits for its answer any more."""
        model = self._registry.generation_of(model_id, generation)
        if model is None or not (model.is_finding or model.is_predicting):
            return None
        model.is_finding = model.is_predicting = False
        self._registry.timers.cancel(FinderTimer(model))
        return model

    def _end_failed_try(self, model: Model, error: HostError) -> None:
        registry = self._registry
        if model.retries_left > 0 and not is_permanent(error):
            model.retries_left -= 1
            model.freed_bytes = model.processes_ended = 0  # what the failed try gave back is no unload's
            config = registry.config
            wait_s = min(config.retry_max_backoff_s, config.retry_backoff_s * 2 ** (model.tries - 1))
            registry.timers.set(RetryTimer(model), registry.now + wait_s)
            tries = f"try {model.tries} of {model.tries + 1 + model.retries_left}"
            registry.note(model, "RETRY", f"{tries} failed, the next in {wait_s:g} s: {error.message}")
            return
        registry.move_model(model, ModelInput.LOAD_FAILED, error.message)
        registry.forget_model(model)
        registry.note_failure(model, error)
        if isinstance(error, NotFoundError):
            registry.evicted.pop(model.id, None)  # what is gone cannot be loaded again
        registry.waiting.refuse(model.waiters, error)
        registry.happened.append(LoadEnded(model, error))


def is_permanent(error: HostError) -> bool:
    """Say whether a load that failed so would fail in the same way again: the worker says it, else the status."""
    return bool(error.details.get("permanent", error.status in _PERMANENT))


def is_overlapping(one: str, other: str) -> bool:
    """Say whether two ids are the same, or one is a folder that the other is in."""
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")


def retries_of(asked: int | None, default: int) -> int:
    """Return how often a failed load is tried again. Raises `InvalidArgumentError` for no such number."""
    if asked is None:
        return default
    if not 0 <= asked <= MAX_RETRIES:
        raise InvalidArgumentError(f"retries must be from 0 to {MAX_RETRIES}, got {asked}")
    return asked
