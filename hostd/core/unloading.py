"""Unloads and shutdown: from a model that serves to the proof that every process of it is gone.

Rules
1. An unload is answered when every worker of the model is DEAD, those of earlier generations too, not before.
2. An unload overtakes whatever is under way for its id: a load, a try that waits, a successor.
3. The host stops when no worker, no model and no operation on files is left, but for workers that it may not end.
4. What cannot be ended is never called unloaded: callers that wait are told why, and it is tried again for ever.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Final

from hostd.core.bookkeeping.templates import TemplateState
from hostd.core.deadlines import WorkerTimer
from hostd.core.effects import Answer, CloseModel, Stop
from hostd.core.happenings import LoadEnded, UnloadEnded
from hostd.core.lifecycle import ModelInput, ModelState, WorkerInput, WorkerState
from hostd.labels import has_labels, shown
from hostd.records import UnloadReport
from hostd_workers.wire.errors import AbortedError, FailedPreconditionError, HostError
from hostd_workers.wire.light_dataclass import dataclass

if TYPE_CHECKING:
    from hostd.core.calls.lanes import Lanes
    from hostd.core.calls.pending import PendingCalls
    from hostd.core.closing import Closing
    from hostd.core.events import ModelId, ShutdownRequested, UnloadAllRequested, UnloadRequested, WorkerNotEnded
    from hostd.core.loading import Loading
    from hostd.core.models import Model, Unload, Worker
    from hostd.core.registry import Registry
    from hostd.core.values import Waiters


_AT_ONCE: Final = "unload at once requested"


@dataclass(eq=False)
class UnloadAll:
    """Callers that wait for several unloads."""

    pending: set[ModelId]
    waiters: Waiters = field(default_factory=dict)
    reports: list[UnloadReport] = field(default_factory=list)


class Unloading:
    """The decisions about unloads."""

    def __init__(
        self, registry: Registry, loading: Loading, pending: PendingCalls, lanes: Lanes, closing: Closing
    ) -> None:
        """Take the registry, the decisions about loads, the calls that wait for them, and what ends workers."""
        self._registry = registry
        self._loading = loading
        self._pending = pending
        self._lanes = lanes
        self._closing = closing
        self.unload_alls: list[UnloadAll] = []
        self.shutdown_waiters: Waiters = {}
        self._has_stopped = False

    # What clients ask

    def unload(self, event: UnloadRequested) -> None:
        """Begin to unload a model, or answer at once that there was nothing to unload."""
        registry = self._registry
        model = registry.models.get(event.model_id)
        if model is None:
            registry.forget_absent(event.model_id)
            registry.effects.append(Answer(event.caller, UnloadReport(str(event.model_id))))
            return
        self.begin(model, "unload requested", event)
        if event.at_once:
            self._kill_all(model.alive(), _AT_ONCE)

    def unload_all(self, event: UnloadAllRequested) -> None:
        """Begin to unload every model that has the labels which are named; of what is not loaded, forget these."""
        registry, wanted = self._registry, event.labels
        for book in (registry.evicted, registry.failures):
            for model_id in [model_id for model_id, known in book.items() if has_labels(known.labels, wanted)]:
                registry.forget_absent(model_id)
        models = [model for model in registry.models.values() if has_labels(model.labels, wanted)]
        if not models:
            registry.effects.append(Answer(event.caller, []))
            return
        group = UnloadAll({model.id for model in models})
        registry.waiting.add(group.waiters, event.caller, event.deadline_s)
        self.unload_alls.append(group)
        for model in models:
            self.begin(model, f"unload of all models{f' with {shown(wanted)}' if wanted else ''} requested")
        if event.at_once:
            self._kill_all([worker for model in models for worker in model.alive()], _AT_ONCE)

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
            self._kill_all(list(registry.workers.values()), "immediate shutdown")

    def _kill_all(self, workers: list[Worker], reason: str) -> None:
        """Wait no longer for calls in flight and for what closes, also of models that drain already."""
        effects, ids = self._registry.effects, {worker.id for worker in workers}
        # What was decided just now is not to begin.
        effects[:] = [each for each in effects if not (isinstance(each, CloseModel) and each.worker_id in ids)]
        for worker in workers:
            self._registry.kill(worker, reason)

    # Steps

    def begin(self, model: Model, reason: str, asked: UnloadRequested | None = None) -> None:
        """Begin to unload a registered model, whatever it is doing; a caller that has `asked` waits for the end."""
        registry = self._registry
        registry.evicted.pop(model.id, None)  # it is not only the host that wants it gone
        unload = model.unload or self._begin(model, ModelInput.UNLOAD, reason)
        if unload.is_coming_back:
            unload.eviction, unload.reload = "", None
            registry.waiting.refuse(unload.next_waiters, _overtaken(model, reason))
        if asked is not None:
            registry.waiting.add(unload.waiters, asked.caller, asked.deadline_s)
        self.end_if_gone(unload)

    def begin_reload(self, model: Model) -> Unload:
        """Begin to unload a model that is loaded again when it is gone."""
        return self._begin(model, ModelInput.UNLOAD, "it is being reloaded")

    def evict(self, model: Model, reason: str) -> None:
        """Begin to unload a model that serves, by the host's own decision: it is loaded again when it is used."""
        self._begin(model, ModelInput.EVICT, reason).eviction = reason

    def _begin(self, model: Model, why: ModelInput, reason: str) -> Unload:
        registry, load = self._registry, model.load
        self._loading.overtake(model)
        unload = registry.begin_unload(model, why, reason)
        overtaken = _overtaken(model, reason)
        if load is not None:
            registry.waiting.refuse(load.waiters, overtaken)
        successor = registry.successors.get(model.id)
        if successor is not None:
            self.give_up(successor, reason)
        self._let_go(model, reason)
        if load is not None:
            registry.happened.append(LoadEnded(model, overtaken, is_overtaken=True))
        return unload

    def replace(self, successor: Model) -> None:
        """Let a READY successor take over; the model that served until now drains and goes."""
        registry = self._registry
        replaced = registry.promote(successor)
        self._loading.overtake(replaced)
        reason = f"replaced by generation {successor.generation}"
        unload = registry.begin_unload(replaced, ModelInput.UNLOAD, reason)
        self._let_go(successor, reason, only_earlier=True)
        if not replaced.workers:
            registry.end_unload(unload)

    def give_up(self, successor: Model, reason: str) -> None:
        """End a successor; the registered model waits for its processes too."""
        registry, load = self._registry, successor.load
        self._loading.overtake(successor)
        unload = registry.begin_unload(successor, ModelInput.UNLOAD, reason)
        registry.forget_model(successor)
        registry.models[successor.id].earlier += successor.alive()
        self._let_go(successor, reason)
        if not successor.workers:
            registry.end_unload(unload)
        if load is not None:
            overtaken = AbortedError(f"the deploy of model {successor.id!r} was overtaken: {reason}")
            registry.happened.append(LoadEnded(successor, overtaken))

    def end_if_gone(self, unload: Unload) -> None:
        """Answer the callers that waited for the proof, if this is it."""
        registry, model = self._registry, unload.model
        if model.alive():
            return
        report = registry.end_unload(unload)
        registry.forget_model(model)
        if unload.eviction:
            registry.remember_evicted(unload)
        elif not unload.is_coming_back and model.id not in registry.evicted:
            registry.forget_absent(model.id)
        registry.waiting.answer(unload.waiters, report)
        for group in list(self.unload_alls):
            if model.id in group.pending:
                group.pending.remove(model.id)
                group.reports.append(report)
                if not group.pending:
                    self.unload_alls.remove(group)
                    registry.waiting.answer(group.waiters, group.reports)
        registry.happened.append(UnloadEnded(unload, report))

    def not_ended(self, worker: Worker, event: WorkerNotEnded) -> None:
        """Note why a worker's processes are still there; if the host may not end them, tell all that wait for that."""
        registry = self._registry
        is_news, worker.obstacle = worker.obstacle != event.reason, event.reason
        worker.is_beyond_reach = event.is_beyond_reach
        waits = registry.models[worker.model.id]  # perhaps a later generation
        if is_news:
            for model in {worker.model.generation: worker.model, waits.generation: waits}.values():
                registry.note(model, "NOT_ENDED", event.reason)
        if event.is_beyond_reach:
            self._tell_waiters(waits)

    def _tell_waiters(self, model: Model) -> None:
        waiting, error, load, unload = self._registry.waiting, _not_unloaded([model]), model.load, model.unload
        if unload is not None:
            for waiters in (unload.waiters, unload.next_waiters):
                waiting.refuse(waiters, error)
        self._pending.refuse(model.id, error)
        if load is not None and load.error is not None:
            waiting.refuse(load.waiters, load.error)
        for group in list(self.unload_alls):
            pending = [self._registry.models[model_id] for model_id in sorted(group.pending)]
            if all(_is_beyond_reach(model) for model in pending):
                self.unload_alls.remove(group)
                waiting.refuse(group.waiters, _not_unloaded(pending))

    def stop_if_done(self) -> None:
        """Stop the host if it is shutting down and nothing is left that it may end."""
        registry = self._registry
        left = list(registry.models.values())
        has_templates = any(each.state is not TemplateState.GONE for each in registry.templates.values())
        is_done = all(map(_is_beyond_reach, left)) and all(one.is_beyond_reach for one in registry.workers.values())
        if registry.is_stopping and is_done and not registry.files_in_work and not has_templates:
            for model in left:
                self._tell_waiters(model)
            if left:
                registry.waiting.refuse(self.shutdown_waiters, _left_behind(left))
            registry.waiting.answer(self.shutdown_waiters, None)
            if not self._has_stopped:
                self._has_stopped = True
                registry.effects.append(Stop())

    def _let_go(self, model: Model, reason: str, *, only_earlier: bool = False) -> None:
        registry = self._registry
        for worker in list(model.earlier) if only_earlier else model.alive():
            if worker.state is WorkerState.READY and (self._lanes.closing(worker) or worker.calls):
                registry.timers.set(WorkerTimer(worker.id), registry.now + registry.config.drain_timeout_s)
                registry.move_worker(worker, WorkerInput.DRAIN, reason)
            elif worker.state not in (WorkerState.DRAINING, WorkerState.CLOSING):
                self._closing.end(worker, reason)


def _is_beyond_reach(model: Model) -> bool:
    """Say whether of a model that is being unloaded only workers are left that the host may not end."""
    left = model.alive()
    return model.state is ModelState.UNLOADING and bool(left) and all(worker.is_beyond_reach for worker in left)


def _not_unloaded(models: list[Model]) -> HostError:
    names = ", ".join(repr(model.id) for model in models)
    verb = "is" if len(models) == 1 else "are"
    return FailedPreconditionError(
        f"{names} {verb} not unloaded: {_obstacles(models)}. It stays UNLOADING, and is unloaded when they are gone",
        details={"model_ids": [model.id for model in models]},
    )


def _left_behind(models: list[Model]) -> HostError:
    return FailedPreconditionError(f"the host has ended, and this goes on: {_obstacles(models)}")


def _obstacles(models: list[Model]) -> str:
    return "; ".join(worker.obstacle for model in models for worker in model.alive() if worker.obstacle)


def _overtaken(model: Model, reason: str) -> HostError:
    return AbortedError(f"the load of model {model.id!r} was overtaken: {reason}")
