"""The core: one state machine for the whole host.

    effects = core.handle(event, now)
    deadline = core.next_deadline()
    core.check_invariants()

Rules
1. `handle` is the only method that changes anything. It never blocks, never fails because of what a client or a worker
   sent, and returns what is to be done, in order.
2. What a worker says is taken only in a state in which it may say it; the rest is late or a lie and changes nothing.
3. Time is an argument; `next_deadline` says when `TimePassed` is due.

This file turns events into calls of those who decide (`Loading`, `Unloading`, `Deploying`, `Syncing`, `Router`) and
follows the workers. It decides nothing that belongs there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hostd.core import events as ev
from hostd.core.admission import Admission, Doing
from hostd.core.charges import Charges
from hostd.core.comparing import Comparing
from hostd.core.deploying import Deploying
from hostd.core.explaining import interpreter_of
from hostd.core.invariants import problems_of
from hostd.core.lifecycle import ModelState, WorkerInput, WorkerState
from hostd.core.loading import Loading
from hostd.core.losing import Losing
from hostd.core.measuring import Measuring
from hostd.core.pinning import Pinning
from hostd.core.planning import Planning
from hostd.core.questions import Questions
from hostd.core.registry import CoreConfig, Registry, proof_of
from hostd.core.reloading import Reloading
from hostd.core.routing import Router
from hostd.core.syncing import Syncing
from hostd.core.timers import (
    AdmissionTimer,
    ConnectionTimer,
    FinderTimer,
    GoneTimer,
    HeldTimer,
    IdleTimer,
    RetryTimer,
    RoomTimer,
    UploadTimer,
    WaiterTimer,
    WorkerTimer,
)
from hostd.core.undeploying import Undeploying
from hostd.core.unloading import Unloading
from hostd_workers.wire.errors import (
    AbortedError,
    CancelledError,
    DeadlineExceededError,
    HostError,
    InternalError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostd.core.effects import Effect
    from hostd.core.models import Worker


class Core(Questions):
    """Events in, effects out."""

    def __init__(self, config: CoreConfig | None = None, wall_offset_s: float = 0.0) -> None:
        """Take the limits, and what to add to `now` for seconds since the epoch (records show wall-clock time)."""
        self._registry = Registry(config or CoreConfig(), wall_offset_s)
        charges = self._charges = Charges(self._registry)
        planning = self._planning = Planning(self._registry, charges)
        admission = self._admission = Admission(self._registry, charges, planning)
        comparing = self._comparing = Comparing(self._registry)
        loading = self._loading = Loading(self._registry, admission, comparing)
        router = self._router = Router(self._registry, loading.wanted)
        unloading = self._unloading = Unloading(self._registry, loading, router.holding)
        reloading = Reloading(self._registry, loading, unloading)
        pinning = Pinning(self._registry, unloading)
        deploying = self._deploying = Deploying(self._registry, loading, unloading, pinning)
        admission.doing = Doing(loading.start, loading.refuse, loading.fail, unloading.evict, router.release)
        losing = self._losing = Losing(self._registry, loading, router)
        measuring = Measuring(self._registry, loading, admission, losing.lose)
        undeploying = self._undeploying = Undeploying(self._registry, loading, unloading, pinning)
        syncing = self._syncing = Syncing(self._registry, loading, unloading, comparing)
        asked = self._asked
        self._handlers: dict[type, Callable[[Any], None]] = {
            ev.CallReceived: router.call,
            ev.WorkerAnswered: router.answered,
            ev.CallCancelled: self._on_cancelled,
            ev.CreditGranted: router.credited,
            ev.WorkerUnreachable: router.unreachable,
            ev.LoadRequested: asked(reloading.load),
            ev.RetrieveRequested: asked(loading.retrieve),
            ev.UnloadRequested: asked(unloading.unload),
            ev.UnloadAllRequested: asked(unloading.unload_all),
            ev.ShutdownRequested: self._on_shutdown,
            ev.SettingsChanged: self._on_settings_changed,
            ev.DeployRequested: asked(deploying.deploy),
            ev.DeployCommitRequested: asked(deploying.commit),
            ev.DeployAbortRequested: asked(deploying.abort),
            ev.UndeployRequested: asked(undeploying.undeploy),
            ev.SyncRequested: asked(syncing.sync),
            ev.PinRequested: asked(pinning.pin),
            ev.ClientVanished: self._on_client_vanished,
            ev.SpecFound: loading.spec_found,
            ev.SizePredicted: loading.size_predicted,
            ev.SpecDelayed: self._on_spec_delayed,
            ev.SpecRefused: lambda e: loading.spec_refused(e.model_id, e.generation, e.error),
            ev.WorkerSpawned: self._on_spawned,
            ev.WorkerSpawnFailed: self._on_spawn_failed,
            ev.WorkerSaidHello: self._on_hello,
            ev.BaselineMeasured: measuring.baseline_measured,
            ev.WorkerLoaded: self._on_loaded,
            ev.WorkerRefusedLoad: self._on_refused_load,
            ev.WorkerMeasured: measuring.measured,
            ev.WorkerPauseFailed: admission.growing.pause_failed,
            ev.WorkerSpokeLastWords: losing.said_last_words,
            ev.WorkerDisconnected: losing.disconnected,
            ev.WorkerExited: losing.exited,
            ev.WorkerGone: self._on_gone,
            ev.WorkerNotEnded: self._on_not_ended,
            ev.FilesStaged: deploying.staged,
            ev.FilesWritten: deploying.written,
            ev.FilesInstalled: deploying.installed,
            ev.FilesConfirmed: deploying.confirmed,
            ev.FilesUndone: deploying.undone,
            ev.PinKept: pinning.kept,
            ev.FilesNoted: comparing.noted,
            ev.FilesCompared: comparing.compared,
            ev.FilesChecked: undeploying.checked,
            ev.FilesRemoved: undeploying.removed,
            ev.FilesFailed: self._on_files_failed,
            ev.DirectoryScanned: syncing.scanned,
            ev.DirectoryUnavailable: syncing.unavailable,
            ev.TimePassed: self._on_time_passed,
        }
        self._timeouts: dict[type, Callable[[Any], None]] = {
            WorkerTimer: lambda key: self._on_worker_timeout(key.worker_id),
            ConnectionTimer: losing.expire,
            WaiterTimer: lambda key: self._registry.waiting.dismiss(key.caller, _too_late()),
            HeldTimer: router.expire_held,
            FinderTimer: loading.expire_finder,
            RetryTimer: loading.retry,
            AdmissionTimer: admission.expire,
            IdleTimer: admission.expire_idle,
            UploadTimer: deploying.expire,
            RoomTimer: lambda _: admission.look(),
            GoneTimer: lambda key: router.lose_client(key.client),
            int: router.expire,
        }

    def handle(self, event: ev.Event, now: float) -> list[Effect]:
        """Take an event at an instant and return what is to be done."""
        registry = self._registry
        registry.now = now
        self._handlers[type(event)](event)
        if registry.room_has_changed:
            self._admission.look()
        elif registry.somebody_is_idle:
            self._admission.look_soon()
        effects, registry.effects = registry.effects, []
        return effects

    def next_deadline(self) -> float | None:
        """Return when `TimePassed` is due, or None."""
        return self._registry.timers.next()

    # Workers

    def _on_spawned(self, event: ev.WorkerSpawned) -> None:
        worker = self._registry.workers.get(event.worker_id)
        if worker is not None:
            worker.pid = event.pid

    def _on_spawn_failed(self, event: ev.WorkerSpawnFailed) -> None:
        worker = self._registry.workers.get(event.worker_id)
        if worker is not None:
            self._loading.load_failed(worker, event.error)
            self._registry.move_worker(worker, WorkerInput.SPAWN_FAILED, event.error.message)
            self._worker_gone(worker)

    def _on_hello(self, event: ev.WorkerSaidHello) -> None:
        worker = self._heard(event.worker_id, WorkerInput.HELLO)
        if worker is not None:
            self._registry.move_worker(worker, WorkerInput.HELLO, "the worker said hello")
            self._registry.timers.set(WorkerTimer(worker.id), self._registry.now + self._registry.config.load_timeout_s)
            self._registry.move_worker(worker, WorkerInput.ASSIGN, f"load {worker.model.source.path or 'no path'}")

    def _on_loaded(self, event: ev.WorkerLoaded) -> None:
        worker = self._heard(event.worker_id, WorkerInput.LOADED)
        if worker is not None and worker.loaded_s is None:
            model = worker.model
            model.loader, model.methods, model.default_method = event.loader, event.methods, event.default_method
            model.warnings = event.warnings
            worker.loaded_s = self._registry.now
            self._registry.move_worker(worker, WorkerInput.LOADED, "loaded, measuring")

    def _on_refused_load(self, event: ev.WorkerRefusedLoad) -> None:
        worker = self._heard(event.worker_id, WorkerInput.LOAD_FAILED)
        if worker is not None:
            self._loading.load_failed(worker, event.error)
            self._registry.move_worker(worker, WorkerInput.LOAD_FAILED, event.error.message)

    def _on_gone(self, event: ev.WorkerGone) -> None:
        worker = self._accepting(event.worker_id, WorkerInput.GONE)
        if worker is not None:
            self._router.fail_all(worker, AbortedError(f"model {worker.model.id!r} was unloaded"))
            self._router.worker_gone(worker)
            model = worker.model
            model.freed_bytes += event.freed_bytes
            self._registry.freed_bytes += event.freed_bytes
            model.processes_ended += event.processes
            # Not at the exit: a process is known to have ended before its last words are read.
            if not model.is_put_back:
                self._loading.load_failed(worker, self._losing.death_of(worker, event.output))
            self._registry.move_worker(worker, WorkerInput.GONE, proof_of(event.processes))
            self._worker_gone(worker)

    def _on_not_ended(self, event: ev.WorkerNotEnded) -> None:
        worker = self._registry.workers.get(event.worker_id)
        if worker is not None and worker.state is WorkerState.KILLING:
            if event.is_beyond_reach:
                self._router.fail_all(worker, AbortedError(f"model {worker.model.id!r} was ended"))
            self._unloading.not_ended(worker, event)

    def _worker_gone(self, worker: Worker) -> None:
        """Go on with whatever waited for the proof of a worker's death."""
        registry, own = self._registry, worker.model
        registry.timers.cancel(WorkerTimer(worker.id))
        registry.timers.cancel(ConnectionTimer(worker.id))
        model = registry.models[own.id]  # perhaps of a later generation, which waits for this worker too
        if own is registry.successors.get(own.id):
            if not own.alive():
                self._loading.try_ended(own)
        elif own is not model and own.state is ModelState.UNLOADING and not own.workers:
            registry.end_model(own)
        if not model.alive():
            if model.state is ModelState.UNLOADING:
                self._unloading.end(model)
            else:
                self._loading.try_ended(model)

    def _accepting(self, worker_id: ev.WorkerId, why: WorkerInput) -> Worker | None:
        worker = self._registry.workers.get(worker_id)
        return worker if worker is not None and self._registry.accepts(worker, why) else None

    def _heard(self, worker_id: ev.WorkerId, why: WorkerInput) -> Worker | None:
        worker = self._accepting(worker_id, why)
        return None if worker is None or worker.disconnected else worker

    # Time and clients

    def _asked(self, decide: Callable[[Any], None]) -> Callable[[Any], None]:
        """Return the handler of a request of the control plane, which ends with an answer if it is refused."""

        def handler(event: Any) -> None:
            try:
                self._registry.waiting.check_id(event.caller)
                self._registry.waiting.check_room(event.caller.client)
                decide(event)
            except HostError as error:
                self._registry.refuse(event.caller, error)

        return handler

    def _on_shutdown(self, event: ev.ShutdownRequested) -> None:
        if event.caller is not None:
            try:
                self._registry.waiting.check_id(event.caller)
            except HostError as error:
                self._registry.refuse(event.caller, error)
                return
        self._syncing.stop()
        self._comparing.stop()
        self._deploying.stop()
        self._unloading.shutdown(event)

    def _on_settings_changed(self, event: ev.SettingsChanged) -> None:
        self._registry.config = event.config
        self._admission.reconfigured()

    def _on_cancelled(self, event: ev.CallCancelled) -> None:
        if event.caller in self._registry.waiting:
            error = CancelledError("the request was cancelled by its caller; what was asked for goes on")
            self._registry.waiting.dismiss(event.caller, error)
        else:
            self._router.cancelled(event)

    def _on_files_failed(self, event: ev.FilesFailed) -> None:
        is_undeploy = event.files_id in self._undeploying.undeploys
        (self._undeploying if is_undeploy else self._deploying).failed(event)

    def _on_spec_delayed(self, event: ev.SpecDelayed) -> None:
        if self._loading.spec_delayed(event):
            self._syncing.delayed(event)

    def _on_client_vanished(self, event: ev.ClientVanished) -> None:
        self._router.lose_client(event.client)
        self._registry.waiting.lose_client(event.client)
        self._deploying.lose_client(event.client)

    def _on_time_passed(self, _event: ev.TimePassed) -> None:
        for key in self._registry.timers.pop_due(self._registry.now):
            self._timeouts[type(key)](key)

    def _on_worker_timeout(self, worker_id: ev.WorkerId) -> None:
        worker, config = self._registry.workers[worker_id], self._registry.config
        if worker.state is WorkerState.SPAWNING:
            late = (
                f"the worker said nothing within {config.spawn_timeout_s:g} s (workers.spawn_timeout_s). hostd logs "
                f"{worker.model.id} has what it printed; its interpreter is {interpreter_of(worker.model, config)}"
            )
            self._loading.load_failed(worker, DeadlineExceededError(late))
        elif worker.state is WorkerState.LOADING:
            late = (
                f"the load took longer than {config.load_timeout_s:g} s (workers.load_timeout_s). hostd logs "
                f"{worker.model.id} has what it printed; hostd stack says during a load where it is"
            )
            self._loading.load_failed(worker, DeadlineExceededError(late))
        else:
            late = f"calls did not end within {config.drain_timeout_s:g} s (workers.drain_timeout_s)"
            self._router.fail_all(worker, AbortedError(f"model {worker.model.id!r} was unloaded: {late}"))
        self._registry.kill(worker, late)

    # Proof

    def check_invariants(self) -> None:
        """Raise `InternalError` if anything that must always hold does not."""
        problems = problems_of(self._registry, self._router, self._unloading)
        problems += (
            self._losing.problems()
            + self._deploying.problems()
            + self._undeploying.problems()
            + self._syncing.problems()
            + self._admission.problems()
        )
        if problems:
            raise InternalError(f"a broken invariant: {'; '.join(problems)}")


def _too_late() -> HostError:
    return DeadlineExceededError("the deadline passed while waiting; what was asked for goes on")
