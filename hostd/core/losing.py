"""Workers that are lost: last words, connections that end, exits, and what callers hear of the end of a worker.

Rules
1. A worker that ends says last words if it can, then its connection ends, then its process. The exit status is the best
   reason, so one that loses its connection has `DISCONNECT_GRACE_S` to exit.
2. A worker without a connection never serves again. If its process lives on after that time (it has started another
   program, closed descriptors or lost its loop) it is killed; calls and a load that wait for it end with this reason.
3. Nothing speaks for a worker after its connection has ended, whatever token it shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hostd.core.deadlines import ConnectionTimer, IdleTimer
from hostd.core.lifecycle import ModelInput, WorkerInput, WorkerState
from hostd.core.refusals import limit_error
from hostd.core.values import Death
from hostd_workers.wire.errors import HostError, ResourceExhaustedError, UnavailableError

if TYPE_CHECKING:
    from hostd.core.calls.routing import Router
    from hostd.core.closing import Closing
    from hostd.core.events import WorkerDisconnected, WorkerExited, WorkerSpokeLastWords
    from hostd.core.loading import Loading
    from hostd.core.models import Worker
    from hostd.core.registry import Registry

DISCONNECT_GRACE_S: Final = 1.0
"""A process that dies closes its connection some milliseconds before the system says that it has ended: a core dump, or
half a gigabyte to give back, takes longer than anything else there."""

_QUOTED_LINES: Final = 5
"""Of what a worker printed before it died: the end of a traceback, with the place and the reason."""


class Losing:
    """The decisions about workers that end by themselves."""

    def __init__(self, registry: Registry, loading: Loading, router: Router, closing: Closing) -> None:
        """Take what is known, what goes on with a load, what has the calls, and what tells of models that close."""
        self._registry = registry
        self._closing = closing
        self._loading = loading
        self._router = router

    def said_last_words(self, event: WorkerSpokeLastWords) -> None:
        """Keep why a worker is about to end."""
        worker = self._registry.workers.get(event.worker_id)
        if worker is not None:
            worker.last_words = event.error

    def disconnected(self, event: WorkerDisconnected) -> None:
        """Give a worker that lost its connection time to exit, unless it is being killed anyway."""
        registry = self._registry
        worker = registry.workers.get(event.worker_id)
        if worker is not None and not worker.disconnected and registry.accepts(worker, WorkerInput.KILL):
            worker.disconnected = event.reason or "it was closed"
            registry.timers.set(ConnectionTimer(worker.id), registry.now + DISCONNECT_GRACE_S)

    def expire(self, key: ConnectionTimer) -> None:
        """Kill a worker that lives on without a connection."""
        registry = self._registry
        worker = registry.workers[key.worker_id]
        if not registry.accepts(worker, WorkerInput.KILL):
            return
        lost = self._lost_connection_of(worker)
        self._loading.load_failed(worker, lost)
        registry.kill(worker, lost.message)
        self.lose(worker, lost)

    def exited(self, event: WorkerExited) -> None:
        """Go on with a worker after its process has ended: what is left of its tree is killed, and its calls end."""
        registry = self._registry
        worker = registry.workers.get(event.worker_id)
        if worker is None:
            return
        worker.exit, worker.death, worker.stack = event.how, event.death, event.stack
        if event.death is not Death.UNEXPLAINED:
            worker.model.try_no_more()  # it would take as much again
        state = worker.state
        if state is WorkerState.CLOSING:
            self._closing.tell(worker, f"its worker ended in close(): {event.how}")
        registry.move_worker(worker, WorkerInput.EXITED, event.how)
        if state is not WorkerState.KILLING:
            self.lose(worker, self.death_of(worker))

    def lose(self, worker: Worker, death: HostError) -> None:
        """End the calls of a worker that is lost; the state of a model that served follows."""
        self._router.fail_all(worker, death)
        model = worker.model
        if model.is_serving:
            why = ModelInput.WORKER_LOST if model.ready else ModelInput.LAST_WORKER_LOST
            model.death = death
            self._registry.move_model(model, why, death.message)
            if not model.ready:
                self._registry.timers.cancel(IdleTimer(model))
                model.is_yielding = False
                self._router.release(model)

    def death_of(self, worker: Worker, output: str = "") -> HostError:
        """Return what the callers of a worker hear of its exit; `output` is the end of what it printed."""
        if worker.death is Death.MEMORY_LIMIT:
            limit_bytes = worker.model.spec.memory.limit_bytes if worker.model.spec else None
            return limit_error(worker.model, limit_bytes, None)
        message = f"the worker of model {worker.model.id!r} died: {worker.exit}"
        printed = "\n".join(output.strip().splitlines()[-_QUOTED_LINES:])
        if printed:
            message = f"{message}; it printed: {printed}"
        details = {"exit": worker.exit, "pid": worker.pid, "model_id": worker.model.id}
        if worker.stack:
            message = f"{message}; hostd logs {worker.model.id} has its whole stack\n{worker.stack}"
            details["stack"] = worker.stack
        if worker.death is Death.OUT_OF_MEMORY:
            details["reason"] = worker.death.value
            return ResourceExhaustedError(f"{message}. The machine, or the host's cgroup, has no more", details=details)
        return _unavailable(worker, message, details)

    def problems(self) -> list[str]:
        """Return what is wrong with workers without a connection; a question for `check_invariants`."""
        registry = self._registry
        return [
            f"{worker!r} has no connection and nothing ends it"
            for worker in registry.workers.values()
            if worker.disconnected
            and registry.accepts(worker, WorkerInput.KILL)
            and ConnectionTimer(worker.id) not in registry.timers
        ]

    def _lost_connection_of(self, worker: Worker) -> HostError:
        message = (
            f"the worker of model {worker.model.id!r} was killed: it lost its connection to the host "
            f"({worker.disconnected}), and its process lived on. Has the model started another program in its place "
            f"(exec), or closed descriptors that are not its own? hostd logs {worker.model.id} has what it printed"
        )
        return _unavailable(worker, message, {"pid": worker.pid, "model_id": worker.model.id})


def _unavailable(worker: Worker, message: str, details: dict[str, Any]) -> HostError:
    words = worker.last_words
    if words is None:
        return UnavailableError(message, details=details)
    details = {**words.details, **details, "last_words": words.message}
    return UnavailableError(f"{message}; its last words: {words.message}", details=details)
