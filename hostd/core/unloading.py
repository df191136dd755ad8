"""Unloads and shutdown: from a model that serves to the proof that every process of it is gone.

Rules
1. An unload is answered when every worker of the model is DEAD, those of earlier generations too, not before.
2. An unload overtakes whatever is under way for its id: a load, a try that waits, a successor.
3. The host stops when no worker, no model and no operation on files is left.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hostd.core.effects import Answer, Stop
from hostd.core.lifecycle import ModelInput, ModelState, WorkerInput, WorkerState
from hostd.core.timers import WorkerTimer
from hostd.records import UnloadReport
from hostd_workers.wire.errors import AbortedError, HostError

if TYPE_CHECKING:
    from hostd.core.events import ModelId, ShutdownRequested, UnloadAllRequested, UnloadRequested
    from hostd.core.loading import Loading
    from hostd.core.models import Model
    from hostd.core.registry import Registry
    from hostd.core.waiting import Waiters


@dataclass(eq=False)
class UnloadAll:
    """Somebody who waits for several unloads."""

    pending: set[ModelId]
    waiters: Waiters = field(default_factory=dict)
    reports: list[UnloadReport] = field(default_factory=list)


class Unloading:
    """The decisions about unloads."""

    def __init__(self, registry: Registry, loading: Loading) -> None:
        self._registry = registry
        self._loading = loading
        self.unload_alls: list[UnloadAll] = []
        self.shutdown_waiters: Waiters = {}
        self._has_stopped = False

    # What clients ask

    def unload(self, event: UnloadRequested) -> None:
        """Begin to unload a model, or answer at once that there was nothing to unload."""
        registry = self._registry
        model = registry.models.get(event.model_id)
        if model is None:
            registry.evicted.pop(event.model_id, None)
            registry.effects.append(Answer(event.caller, UnloadReport(str(event.model_id))))
            return
        registry.waiting.add(model.unload_waiters, event.caller, event.deadline_s)
        self.begin(model, "unload requested")
        if event.at_once:
            self._kill_all([model])

    def unload_all(self, event: UnloadAllRequested) -> None:
        """Begin to unload every model."""
        registry = self._registry
        registry.evicted.clear()
        if not registry.models:
            registry.effects.append(Answer(event.caller, []))
            return
        group = UnloadAll(set(registry.models))
        registry.waiting.add(group.waiters, event.caller, event.deadline_s)
        self.unload_alls.append(group)
        for model in list(registry.models.values()):
            self.begin(model, "unload of all models requested")
        if event.at_once:
            self._kill_all(list(registry.models.values()))

    def shutdown(self, event: ShutdownRequested) -> None:
        """Unload everything and stop; `at_once`, or a second signal, without draining."""
        registry = self._registry
        at_once = event.at_once or (registry.is_stopping and event.caller is None)
        if event.caller is not None:
            registry.waiting.add(self.shutdown_waiters, event.caller, None)
        registry.is_stopping = True
        for model in list(registry.models.values()):
            self.begin(model, "the host is shutting down")
        if at_once:
            for worker in list(registry.workers.values()):
                registry.kill(worker, "immediate shutdown")
        self.stop_if_done()

    def _kill_all(self, models: list[Model]) -> None:
        """Wait no longer for calls in flight, also of models that drain already."""
        for worker in [worker for model in models for worker in model.alive()]:
            self._registry.kill(worker, "unload at once requested")

    # Steps

    def begin(self, model: Model, reason: str) -> None:
        """Begin to unload a registered model, whatever it is doing."""
        self._registry.evicted.pop(model.id, None)  # it is not only the host that wants it gone
        if model.is_coming_back:
            model.eviction, model.reload = "", None
            self._registry.waiting.refuse(model.next_waiters, _overtaken(model, reason))
        if model.state is not ModelState.UNLOADING:
            self._begin(model, ModelInput.UNLOAD, reason)

    def begin_reload(self, model: Model) -> None:
        """Begin to unload a model that is loaded again when it is gone."""
        self._begin(model, ModelInput.UNLOAD, "it is being reloaded")

    def evict(self, model: Model, reason: str) -> None:
        """Begin to unload a model that serves, by the host's own decision: it is loaded again when it is used."""
        model.eviction = reason
        model.is_wanted = False
        self._begin(model, ModelInput.EVICT, reason)

    def _begin(self, model: Model, why: ModelInput, reason: str) -> None:
        registry = self._registry
        was_loading = model.state is ModelState.LOADING
        self._loading.overtake(model)
        registry.move_model(model, why, reason)
        overtaken = _overtaken(model, reason)
        registry.waiting.refuse(model.waiters, overtaken)
        successor = registry.successors.get(model.id)
        if successor is not None:
            self.give_up(successor, reason)
        self._let_go(model, reason)
        if was_loading:
            for listener in registry.load_ended:
                listener(model, overtaken)
        if not model.alive():
            self.end(model)

    def replace(self, successor: Model) -> None:
        """Let a READY successor take over; the model that served until now drains and goes."""
        registry = self._registry
        replaced = registry.promote(successor)
        self._loading.overtake(replaced)
        reason = f"replaced by generation {successor.generation}"
        registry.move_model(replaced, ModelInput.UNLOAD, reason)
        self._let_go(successor, reason, only_earlier=True)
        if not replaced.workers:
            registry.end_model(replaced)

    def give_up(self, successor: Model, reason: str) -> None:
        """End a successor; the registered model waits for its processes too."""
        registry = self._registry
        was_loading = successor.state is ModelState.LOADING
        self._loading.overtake(successor)
        registry.move_model(successor, ModelInput.UNLOAD, reason)
        registry.forget_model(successor)
        registry.models[successor.id].earlier += successor.alive()
        for worker in successor.alive():
            registry.kill(worker, reason)
        if not successor.workers:
            registry.end_model(successor)
        if was_loading:
            overtaken = AbortedError(f"the deploy of model {successor.id!r} was overtaken: {reason}")
            for listener in registry.load_ended:
                listener(successor, overtaken)

    def end(self, model: Model) -> None:
        """Answer everybody who waited for the proof."""
        registry = self._registry
        report = registry.end_model(model)
        registry.forget_model(model)
        if model.is_evicted:
            registry.remember_evicted(model)
        registry.waiting.answer(model.unload_waiters, report)
        for group in list(self.unload_alls):
            if model.id in group.pending:
                group.pending.remove(model.id)
                group.reports.append(report)
                if not group.pending:
                    self.unload_alls.remove(group)
                    registry.waiting.answer(group.waiters, group.reports)
        for listener in registry.unload_ended:
            listener(model, report)
        self.stop_if_done()

    def stop_if_done(self) -> None:
        """Stop the host if it is shutting down and nothing is left."""
        registry = self._registry
        if registry.is_stopping and not (registry.workers or registry.models or registry.files_in_work):
            registry.waiting.answer(self.shutdown_waiters, None)
            if not self._has_stopped:
                self._has_stopped = True
                registry.effects.append(Stop())

    def _let_go(self, model: Model, reason: str, *, only_earlier: bool = False) -> None:
        registry = self._registry
        for worker in list(model.earlier) if only_earlier else model.alive():
            if worker.state is WorkerState.READY and worker.calls:
                registry.timers.set(WorkerTimer(worker.id), registry.now + registry.config.drain_timeout_s)
                registry.move_worker(worker, WorkerInput.DRAIN, reason)
            else:
                registry.kill(worker, reason)


def _overtaken(model: Model, reason: str) -> HostError:
    return AbortedError(f"the load of model {model.id!r} was overtaken: {reason}")
