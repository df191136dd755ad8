"""Loads, unloads and shutdown: what clients ask of whole models, and what becomes of their workers.

Rules
1. Every caller that waits is in exactly one list (`Model.waiters`, `Model.unload_waiters`, an `UnloadAll`, or the
   shutdown's) and leaves it with exactly one answer.
2. Concurrent loads of one source are one load. While a failed load's worker is dying the load is still under way, so a
   caller that comes then gets the same error, and a load that comes after starts afresh.
3. An unload is answered when every worker of the model is DEAD, those of earlier generations too, not before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from hostd.core.effects import Answer, AnswerError, FindSpec, SpawnWorker, Stop
from hostd.core.lifecycle import ModelInput, ModelState, WorkerInput, WorkerState
from hostd.core.names import model_id_of
from hostd.core.routing import no_such_model, refusal_of
from hostd.records import UnloadReport
from workers.wire.errors import (
    AbortedError,
    AlreadyExistsError,
    DeadlineExceededError,
    HostError,
    InvalidArgumentError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostd.core.events import Caller, ClientId, LoadRequested, ModelId, RetrieveRequested, SpecFound, WorkerId
    from hostd.core.registry import Model, Registry, Worker


class WorkerTimer(NamedTuple):
    """The deadline of whatever a worker is doing now."""

    worker_id: WorkerId


class WaiterTimer(NamedTuple):
    """The deadline of a caller that waits for a load or an unload."""

    caller: Caller


@dataclass
class UnloadAll:
    """A caller that waits for several unloads."""

    caller: Caller
    pending: set[ModelId]
    reports: list[UnloadReport] = field(default_factory=list)


class Loading:
    """The control plane's decisions about models."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.unload_alls: list[UnloadAll] = []
        self.shutdown_waiters: list[Caller] = []
        self.is_stopping = False
        self._has_stopped = False

    # What clients ask

    def load(self, event: LoadRequested) -> None:
        """Begin a load, join one that is under way, or answer from what is loaded."""
        registry = self._registry
        try:
            self._refuse_if_stopping()
            model_id = model_id_of(event.model_id)
            model = registry.models.get(model_id)
            if model is None or model.state is ModelState.FAILED:
                model = registry.new_model(model_id, event.source)
                registry.effects.append(FindSpec(model.id, model.generation, event.source))
            else:
                self._check_joinable(model, event)
        except HostError as error:
            registry.effects.append(AnswerError(event.caller, error))
            return
        if model.state is ModelState.LOADING and event.wait:
            self._wait(model.waiters, event.caller, event.deadline_s)
        else:
            registry.effects.append(Answer(event.caller, registry.describe(model)))

    def retrieve(self, event: RetrieveRequested) -> None:
        """Answer with a model that serves, or wait for it while it loads."""
        registry = self._registry
        try:
            model = registry.models.get(model_id_of(event.model_id))
        except InvalidArgumentError as error:
            registry.effects.append(AnswerError(event.caller, error))
            return
        if model is None:
            registry.effects.append(AnswerError(event.caller, no_such_model(event.model_id, registry.models)))
        elif model.state in (ModelState.READY, ModelState.DEGRADED):
            registry.effects.append(Answer(event.caller, registry.describe(model)))
        elif model.state is ModelState.LOADING:
            self._wait(model.waiters, event.caller, event.deadline_s)
        else:
            registry.effects.append(AnswerError(event.caller, refusal_of(model)))

    def unload(self, caller: Caller, model_id: ModelId, deadline_s: float | None) -> None:
        """Begin to unload a model, or answer at once that there was nothing to unload."""
        model = self._registry.models.get(model_id)
        if model is None:
            self._registry.effects.append(Answer(caller, UnloadReport(str(model_id))))
            return
        self._wait(model.unload_waiters, caller, deadline_s)
        self._begin_unload(model, "unload requested")

    def unload_all(self, caller: Caller, deadline_s: float | None) -> None:
        """Begin to unload every model."""
        registry = self._registry
        if not registry.models:
            registry.effects.append(Answer(caller, []))
            return
        self.unload_alls.append(UnloadAll(caller, set(registry.models)))
        if deadline_s is not None:
            registry.timers.set(WaiterTimer(caller), deadline_s)
        for model in list(registry.models.values()):
            self._begin_unload(model, "unload of all models requested")

    def shutdown(self, caller: Caller | None, *, at_once: bool) -> None:
        """Unload everything and stop; `at_once`, or asked again, without draining."""
        registry = self._registry
        if caller is not None:
            self.shutdown_waiters.append(caller)
        at_once = at_once or (self.is_stopping and caller is None)
        self.is_stopping = True
        for model in list(registry.models.values()):
            self._begin_unload(model, "the host is shutting down")
        if at_once:
            for worker in list(registry.workers.values()):
                self.kill(worker, "immediate shutdown")
        self._stop_if_done()

    def expire_waiters(self, callers: set[Caller]) -> None:
        """Answer callers whose deadline has come; what they waited for goes on."""
        error = DeadlineExceededError("the deadline passed while waiting; what was asked for goes on")
        for caller in self._leave(callers.__contains__):
            self._registry.effects.append(AnswerError(caller, error))

    def lose_client(self, client: ClientId) -> None:
        """Forget the waiters of a client that nobody can answer any more."""
        for caller in self._leave(lambda caller: caller.client == client):
            self._registry.timers.cancel(WaiterTimer(caller))

    # What becomes of a load

    def spec_found(self, event: SpecFound) -> None:
        """Spawn a worker for a model whose specification is known now."""
        model = self.current(event.model_id, event.generation)
        if model is None or model.state is not ModelState.LOADING:
            return
        model.spec = event.spec
        worker = self._registry.new_worker(model)
        self._registry.timers.set(WorkerTimer(worker.id), self._registry.now + self._registry.config.spawn_timeout_s)
        self._registry.effects.append(SpawnWorker(worker.id, model.id, event.spec))

    def spec_refused(self, model_id: ModelId, generation: int, error: HostError) -> None:
        """End a load that no finder could specify."""
        model = self.current(model_id, generation)
        if model is not None and model.state is ModelState.LOADING:
            model.load_error = error
            if not model.alive():
                self._end_failed_load(model, error)

    def load_failed(self, worker: Worker, error: HostError) -> None:
        """Note why a load failed; it ends when the worker is gone."""
        if worker.model.load_error is None:
            worker.model.load_error = error

    def load_succeeded(self, worker: Worker) -> None:
        """Answer everybody who waited for the model."""
        model = worker.model
        registry = self._registry
        registry.timers.cancel(WorkerTimer(worker.id))
        model.ready_s = registry.now
        registry.move_model(model, ModelInput.LOAD_SUCCEEDED, f"loaded in {registry.now - model.created_s:.3f} s")
        value = registry.describe(model)
        for caller in self._drain(model.waiters):
            registry.effects.append(Answer(caller, value))

    def worker_gone(self, worker: Worker) -> None:
        """Go on with whatever waited for the proof of a worker's death."""
        self._registry.timers.cancel(WorkerTimer(worker.id))
        model = self._registry.models[worker.model.id]  # perhaps of a later generation, which waits for this one too
        if not model.alive():
            if model.state is ModelState.UNLOADING:
                self._end_unload(model)
            elif model.state is ModelState.LOADING and model.load_error is not None:
                self._end_failed_load(model, model.load_error)

    def kill(self, worker: Worker, reason: str) -> None:
        """Kill a worker that is not being killed yet."""
        if self._registry.accepts(worker, WorkerInput.KILL):
            self._registry.timers.cancel(WorkerTimer(worker.id))
            self._registry.move_worker(worker, WorkerInput.KILL, reason)

    def current(self, model_id: ModelId, generation: int) -> Model | None:
        """Return the registered model if it still is of this generation."""
        model = self._registry.models.get(model_id)
        return model if model is not None and model.generation == generation else None

    # Steps

    def _check_joinable(self, model: Model, event: LoadRequested) -> None:
        if model.state is ModelState.UNLOADING:
            raise refusal_of(model)
        if model.source != event.source:
            differing = [
                f"{name} is {ours!r}, not {theirs!r}"
                for name, ours, theirs in zip(event.source._fields, model.source, event.source, strict=True)
                if ours != theirs
            ]
            raise AlreadyExistsError(
                f"model {model.id!r} is loaded from something else: its {'; '.join(differing)}. "
                f"Unload it first, or use another id",
                details={"model_id": model.id},
            )

    def _refuse_if_stopping(self) -> None:
        if self.is_stopping:
            raise UnavailableError("the host is shutting down")

    def _wait(self, waiters: list[Caller], caller: Caller, deadline_s: float | None) -> None:
        waiters.append(caller)
        if deadline_s is not None:
            self._registry.timers.set(WaiterTimer(caller), deadline_s)

    def _drain(self, waiters: list[Caller]) -> list[Caller]:
        callers = list(waiters)
        waiters.clear()
        for caller in callers:
            self._registry.timers.cancel(WaiterTimer(caller))
        return callers

    def _leave(self, is_leaving: Callable[[Caller], bool]) -> list[Caller]:
        """Take callers out of wherever they wait, and return them."""
        # One pass over everybody: thousands may leave together, and nobody is served meanwhile.
        left: list[Caller] = []
        models = self._registry.models.values()
        for waiters in (self.shutdown_waiters, *(w for m in models for w in (m.waiters, m.unload_waiters))):
            left += filter(is_leaving, waiters)
            waiters[:] = [caller for caller in waiters if not is_leaving(caller)]
        left += (group.caller for group in self.unload_alls if is_leaving(group.caller))
        self.unload_alls = [group for group in self.unload_alls if not is_leaving(group.caller)]
        return left

    def _begin_unload(self, model: Model, reason: str) -> None:
        registry = self._registry
        if model.state is ModelState.UNLOADING:
            return
        model.unload_began_s = registry.now
        registry.move_model(model, ModelInput.UNLOAD, reason)
        overtaken = AbortedError(f"the load of model {model.id!r} was overtaken: {reason}")
        for caller in self._drain(model.waiters):
            registry.effects.append(AnswerError(caller, overtaken))
        for worker in model.alive():
            if worker.state is WorkerState.READY and worker.calls:
                registry.timers.set(WorkerTimer(worker.id), registry.now + registry.config.drain_timeout_s)
                registry.move_worker(worker, WorkerInput.DRAIN, reason)
            else:
                self.kill(worker, reason)
        if not model.alive():
            self._end_unload(model)

    def _end_unload(self, model: Model) -> None:
        registry = self._registry
        registry.move_model(model, ModelInput.ALL_GONE, f"{model.processes_ended} processes are gone")
        registry.forget_model(model)
        report = UnloadReport(
            model_id=model.id,
            size_bytes=model.size_bytes or 0,
            freed_bytes=model.freed_bytes,
            processes=model.processes_ended,
            duration_s=registry.now - model.unload_began_s,
        )
        for caller in self._drain(model.unload_waiters):
            registry.effects.append(Answer(caller, report))
        for group in list(self.unload_alls):
            if model.id in group.pending:
                group.pending.remove(model.id)
                group.reports.append(report)
                if not group.pending:
                    self.unload_alls.remove(group)
                    registry.timers.cancel(WaiterTimer(group.caller))
                    registry.effects.append(Answer(group.caller, group.reports))
        self._stop_if_done()

    def _end_failed_load(self, model: Model, error: HostError) -> None:
        registry = self._registry
        registry.move_model(model, ModelInput.LOAD_FAILED, error.message)
        registry.forget_model(model)
        for caller in self._drain(model.waiters):
            registry.effects.append(AnswerError(caller, error))

    def _stop_if_done(self) -> None:
        registry = self._registry
        if self.is_stopping and not registry.workers and not registry.models:
            for caller in self._drain(self.shutdown_waiters):
                registry.effects.append(Answer(caller, None))
            if not self._has_stopped:
                self._has_stopped = True
                registry.effects.append(Stop())
