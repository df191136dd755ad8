"""The orderly end of a worker: its model may have something to finish before it is killed.

Rules
1. A model closes when its worker has no call any more, and was told to end in order: not after a kill or a death.
2. What drains and closes has `drain_timeout_s` in all; then it is killed. So a close delays an unload by no more.
3. What a close raises changes nothing but the model's story.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostd.core.deadlines import WorkerTimer
from hostd.core.lifecycle import WorkerInput, WorkerState

if TYPE_CHECKING:
    from hostd.core.events import ModelClosed
    from hostd.core.models import Worker
    from hostd.core.registry import Registry


class Closing:
    """The decisions about models that close."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def end(self, worker: Worker, reason: str) -> None:
        """End a worker that has no call, after its model has closed if there is something to close."""
        registry = self._registry
        is_drained = worker.state is WorkerState.DRAINING
        if worker.has_close and not worker.disconnected and registry.accepts(worker, WorkerInput.CLOSE):
            if not is_drained:
                registry.timers.set(WorkerTimer(worker.id), registry.now + registry.config.drain_timeout_s)
            registry.move_worker(worker, WorkerInput.CLOSE, reason)
        elif is_drained:
            registry.timers.cancel(WorkerTimer(worker.id))
            registry.move_worker(worker, WorkerInput.DRAINED, reason)
        else:
            registry.kill(worker, reason)

    def closed(self, event: ModelClosed) -> None:
        """Kill a worker whose model has closed, and tell what that raised."""
        registry = self._registry
        worker = registry.workers.get(event.worker_id)
        if worker is not None and registry.accepts(worker, WorkerInput.CLOSED):
            if event.problem:
                self.tell(worker, f"its close() failed: {event.problem}")
            registry.timers.cancel(WorkerTimer(worker.id))
            registry.move_worker(worker, WorkerInput.CLOSED, "the model has closed")

    def tell(self, worker: Worker, problem: str) -> None:
        """Tell that a model could not finish."""
        self._registry.note(worker.model, "CLOSE_FAILED", problem)

    def problems(self) -> list[str]:
        """Return what is wrong with workers that close; a question for `check_invariants`."""
        workers, timers = self._registry.workers.values(), self._registry.timers
        return [
            f"{worker!r} closes, and has calls or nothing that ends it"
            for worker in workers
            if worker.state is WorkerState.CLOSING and (worker.calls or WorkerTimer(worker.id) not in timers)
        ]
