"""The lives of workers, from the decision to spawn one to the proof that no process of it is left.

Rules
1. What a worker says is taken only in a state in which it may say it; the rest is late or a lie and changes nothing.
2. A worker is told one thing at a time, and has so long for it; then it is killed.
3. A load has failed when its worker is gone, not before. What waited for that proof goes on from here.
4. A worker is told what to load when it has said hello and its process is known. A shell that is late knows the process
   after the hello; until it does, nothing can be measured, paused or watched, nor is it known whether it was forked.

Covers what the host expects of workers. Those that end by themselves are in `losing`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostd.core.deadlines import ConnectionTimer, WorkerTimer
from hostd.core.lifecycle import WorkerInput, WorkerState
from hostd.core.models import Freed, Interface
from hostd.core.queries.explaining import interpreter_of
from hostd.core.registry import proof_of
from hostd_workers.wire.errors import AbortedError, DeadlineExceededError

if TYPE_CHECKING:
    from hostd.core.calls.lanes import Lanes
    from hostd.core.calls.routing import Router
    from hostd.core.closing import Closing
    from hostd.core.events import (
        WorkerGone,
        WorkerId,
        WorkerImported,
        WorkerLoaded,
        WorkerNotEnded,
        WorkerRefusedLoad,
        WorkerSaidHello,
        WorkerSpawned,
        WorkerSpawnFailed,
    )
    from hostd.core.loading import Loading
    from hostd.core.losing import Losing
    from hostd.core.models import Worker
    from hostd.core.registry import Registry
    from hostd.core.templates.choosing import Choosing
    from hostd.core.unloading import Unloading


class Workers:
    """The decisions about workers that do, or do not, what they are told."""

    def __init__(
        self,
        registry: Registry,
        loading: Loading,
        unloading: Unloading,
        losing: Losing,
        router: Router,
        lanes: Lanes,
        templates: Choosing,
        closing: Closing,
    ) -> None:
        self._registry = registry
        self._loading = loading
        self._unloading = unloading
        self._losing = losing
        self._router = router
        self._lanes = lanes
        self._templates = templates
        self._closing = closing

    def spawned(self, event: WorkerSpawned) -> None:
        """Keep the process id of a worker, and how it came into being."""
        worker = self._registry.workers.get(event.worker_id)
        if worker is not None:
            worker.pid = event.pid
            self._templates.spawned(worker, event)
            self._assign(worker)

    def imported(self, event: WorkerImported) -> None:
        """Learn what a load has imported."""
        worker = self._registry.workers.get(event.worker_id)
        if worker is not None:
            self._templates.imported(worker, event)

    def spawn_failed(self, event: WorkerSpawnFailed) -> None:
        """End the try of a load after its worker could not be started."""
        worker = self._registry.workers.get(event.worker_id)
        if worker is not None:
            self._loading.load_failed(worker, event.error)
            self._lanes.ended(worker, event.error)
            self._registry.move_worker(worker, WorkerInput.SPAWN_FAILED, event.error.message)
            self._worker_gone(worker)

    def said_hello(self, event: WorkerSaidHello) -> None:
        """Have a worker load its model, as soon as its process is known."""
        worker = self._heard(event.worker_id, WorkerInput.HELLO)
        if worker is not None:
            self._registry.move_worker(worker, WorkerInput.HELLO, "the worker said hello")
            self._registry.timers.set(WorkerTimer(worker.id), self._registry.now + self._registry.config.load_timeout_s)
            self._assign(worker)

    def loaded(self, event: WorkerLoaded) -> None:
        """Have a worker measured that has loaded its model."""
        worker = self._heard(event.worker_id, WorkerInput.LOADED)
        if worker is not None and worker.loaded_s is None:
            model = worker.model
            model.interface = Interface(event.loader, event.methods, event.default_method, event.warnings)
            worker.loaded_s = self._registry.now
            worker.lane, worker.has_close = event.lane, event.has_close
            self._registry.move_worker(worker, WorkerInput.LOADED, "loaded, measuring")

    def refused_load(self, event: WorkerRefusedLoad) -> None:
        """Note why a load failed, and end its worker."""
        worker = self._heard(event.worker_id, WorkerInput.LOAD_FAILED)
        if worker is not None:
            self._loading.load_failed(worker, event.error)
            self._registry.move_worker(worker, WorkerInput.LOAD_FAILED, event.error.message)

    def gone(self, event: WorkerGone) -> None:
        """Take the proof that no process of a worker is left."""
        worker = self._accepting(event.worker_id, WorkerInput.GONE)
        if worker is not None:
            self._router.fail_all(worker, AbortedError(f"model {worker.model.id!r} was unloaded"))
            self._router.worker_gone(worker)
            self._lanes.settle(worker)
            model = worker.model
            model.freed = Freed(model.freed.bytes + event.freed_bytes, model.freed.processes + event.processes)
            self._registry.freed_bytes += event.freed_bytes
            # Not at the exit: a process is known to have ended before its last words are read.
            self._loading.load_failed(worker, self._losing.death_of(worker, event.output))
            self._registry.move_worker(worker, WorkerInput.GONE, proof_of(event.processes))
            self._worker_gone(worker)

    def not_ended(self, event: WorkerNotEnded) -> None:
        """Note why processes of a worker are still there."""
        worker = self._registry.workers.get(event.worker_id)
        if worker is not None and worker.state is WorkerState.KILLING:
            if event.is_beyond_reach:
                self._router.fail_all(worker, AbortedError(f"model {worker.model.id!r} was ended"))
            self._unloading.not_ended(worker, event)

    def expire(self, key: WorkerTimer) -> None:
        """End a worker that takes too long for what it is doing."""
        worker, config = self._registry.workers[key.worker_id], self._registry.config
        if worker.state is WorkerState.SPAWNING:
            late = (
                f"the worker said nothing within {config.spawn_timeout_s:g} s (workers.spawn_timeout_s). hostd logs "
                f"{worker.model.id} has what it printed; its interpreter is {interpreter_of(worker.model, config)}"
            )
            self._loading.load_failed(worker, DeadlineExceededError(late))
        elif worker.state in (WorkerState.IDLE, WorkerState.LOADING):
            late = (
                f"the load took longer than {config.load_timeout_s:g} s (workers.load_timeout_s). hostd logs "
                f"{worker.model.id} has what it printed; hostd stack says during a load where it is"
            )
            self._loading.load_failed(worker, DeadlineExceededError(late))
        elif worker.state is WorkerState.CLOSING:
            late = f"close() did not end within {config.drain_timeout_s:g} s (workers.drain_timeout_s)"
            self._closing.tell(worker, late)
        else:
            late = f"calls did not end within {config.drain_timeout_s:g} s (workers.drain_timeout_s)"
            self._registry.kill(worker, late)  # before its calls end, or it would close after the last of them
            self._router.fail_all(worker, AbortedError(f"model {worker.model.id!r} was unloaded: {late}"))
        self._registry.kill(worker, late)

    # Steps

    def _assign(self, worker: Worker) -> None:
        is_there = worker.pid is not None and not worker.disconnected
        if is_there and self._registry.accepts(worker, WorkerInput.ASSIGN):
            self._registry.move_worker(worker, WorkerInput.ASSIGN, f"load {worker.model.source.path or 'no path'}")

    def _worker_gone(self, worker: Worker) -> None:
        """Go on with whatever waited for the proof of a worker's death."""
        registry, own = self._registry, worker.model
        registry.timers.cancel(WorkerTimer(worker.id))
        registry.timers.cancel(ConnectionTimer(worker.id))
        model = registry.models[own.id]  # perhaps of a later generation, which waits for this worker too
        if own is registry.successors.get(own.id):
            self._loading.try_ended(own)
        elif own is not model and own.unload is not None and not own.workers:
            registry.end_unload(own.unload)
        if model.unload is not None:
            self._unloading.end_if_gone(model.unload)
        self._loading.try_ended(model)

    def _accepting(self, worker_id: WorkerId, why: WorkerInput) -> Worker | None:
        worker = self._registry.workers.get(worker_id)
        return worker if worker is not None and self._registry.accepts(worker, why) else None

    def _heard(self, worker_id: WorkerId, why: WorkerInput) -> Worker | None:
        worker = self._accepting(worker_id, why)
        return None if worker is None or worker.disconnected else worker
