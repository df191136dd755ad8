"""The core: one state machine for the whole host.

    effects = core.handle(event, now)
    deadline = core.next_deadline()
    core.check_invariants()

Rules
1. `handle` is the only method that changes anything. It never blocks, never fails because of what a client or a worker
   sent, and returns what is to be done, in order.
2. Time is an argument; `next_deadline` says when `TimePassed` is due.
3. What follows from what stands in one table (`_follows`), and is settled before `handle` returns.
4. `queries` answers questions and changes nothing.

This file dispatches events, deadlines and what follows from them to the modules that decide. It decides nothing itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hostd.core import deadlines as due
from hostd.core import events as ev
from hostd.core.abandoning import Abandoning
from hostd.core.calls.lanes import Lanes
from hostd.core.calls.routing import Router
from hostd.core.closing import Closing
from hostd.core.comparing import Comparing
from hostd.core.config import CoreConfig
from hostd.core.files.deploying import Deploying
from hostd.core.files.pinning import Pinning
from hostd.core.files.syncing import Syncing
from hostd.core.files.undeploying import Undeploying
from hostd.core.happenings import HeadroomChanged, LoadEnded, ModelIdle, ReloadBegun, UnloadEnded
from hostd.core.invariants import problems_of
from hostd.core.loading import Loading
from hostd.core.losing import Losing
from hostd.core.measuring import Measuring
from hostd.core.memory.admission import Admission, Evict, GiveWay, Hold, Refuse, Release, Start
from hostd.core.memory.charges import Charges
from hostd.core.memory.growing import Fail
from hostd.core.memory.planning import Planning
from hostd.core.models import LoadStep
from hostd.core.queries.queries import Queries
from hostd.core.registry import Registry
from hostd.core.reloading import Reloading
from hostd.core.templates.choosing import Choosing
from hostd.core.unloading import Unloading
from hostd.core.workers import Workers
from hostd_workers.wire.errors import CancelledError, DeadlineExceededError, HostError, InternalError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from hostd.core.effects import Effect
    from hostd.core.memory.admission import Verdict
    from hostd.core.models import Load


class Core:
    """Events in, effects out."""

    def __init__(self, config: CoreConfig | None = None, wall_offset_s: float = 0.0) -> None:
        """Take the limits, and what to add to `now` for seconds since the epoch (records show wall-clock time)."""
        self._registry = Registry(config or CoreConfig(), wall_offset_s)
        charges = Charges(self._registry)
        planning = Planning(self._registry, charges)
        admission = self._admission = Admission(self._registry, charges, planning)
        comparing = self._comparing = Comparing(self._registry)
        templates = self._templates = Choosing(self._registry, charges)
        loading = self._loading = Loading(self._registry, admission, comparing, templates)
        closing = self._closing = Closing(self._registry)
        lanes = self._lanes = Lanes(self._registry, closing)
        router = self._router = Router(self._registry, loading, lanes)
        unloading = self._unloading = Unloading(self._registry, loading, router.pending, lanes, closing)
        reloading = Reloading(self._registry, loading, unloading)
        abandoning = self._abandoning = Abandoning(self._registry, reloading, unloading, router.pending)
        pinning = Pinning(self._registry)
        deploying = self._deploying = Deploying(self._registry, loading, unloading, pinning)
        losing = self._losing = Losing(self._registry, loading, router, closing)
        workers = Workers(self._registry, loading, unloading, losing, router, lanes, templates, closing)
        measuring = Measuring(self._registry, loading, admission, losing)
        undeploying = self._undeploying = Undeploying(self._registry, loading, unloading, pinning)
        syncing = self._syncing = Syncing(self._registry, loading, unloading, comparing)
        self.queries = Queries(self._registry, charges, planning, admission, router, deploying, templates)
        asked = self._asked
        self._handlers: dict[type, Callable[[Any], None]] = {
            ev.CallReceived: router.call,
            ev.WorkerAnswered: router.answered,
            ev.CallCancelled: self._on_cancelled,
            ev.CreditGranted: router.credited,
            ev.FeedReceived: router.fed,
            ev.WorkerUnreachable: router.unreachable,
            ev.LaneRequested: asked(lanes.open),
            ev.FateRequested: asked(lanes.fate),
            ev.LanesClosed: lanes.closed,
            ev.ModelClosed: closing.closed,
            ev.LoadRequested: asked(abandoning.load),
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
            ev.SpecRefused: loading.spec_refused,
            ev.WorkerSpawned: workers.spawned,
            ev.WorkerSpawnFailed: workers.spawn_failed,
            ev.WorkerSaidHello: workers.said_hello,
            ev.BaselineMeasured: measuring.baseline_measured,
            ev.WorkerLoaded: workers.loaded,
            ev.WorkerImported: workers.imported,
            ev.ImportsRecalled: templates.recalled,
            ev.TemplateReady: templates.ready,
            ev.TemplateEnded: templates.ended,
            ev.WorkerRefusedLoad: workers.refused_load,
            ev.WorkerMeasured: measuring.measured,
            ev.WorkerPauseFailed: lambda event: self._see_to(admission.growing.pause_failed(event)),
            ev.WorkerSpokeLastWords: losing.said_last_words,
            ev.WorkerDisconnected: losing.disconnected,
            ev.WorkerExited: losing.exited,
            ev.WorkerGone: workers.gone,
            ev.WorkerNotEnded: workers.not_ended,
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
            due.WorkerTimer: workers.expire,
            due.TemplateTimer: templates.expire,
            due.ConnectionTimer: losing.expire,
            due.WaiterTimer: self._on_too_late,
            due.HeldTimer: router.expire_held,
            due.LoadTimer: lambda key: self._late_steps[key.load.step](key.load),
            due.IdleTimer: lambda key: self._see_to(admission.expire_idle(key)),
            due.UploadTimer: deploying.expire,
            due.HeadroomTimer: lambda _: self._registry.headroom_changed(),
            due.GoneTimer: lambda key: router.lose_client(key.client),
            int: router.expire,
        }
        self._doing: dict[type, Callable[[Any], None]] = {
            Start: lambda verdict: loading.start(verdict.load, verdict.reserve_bytes),
            Refuse: lambda verdict: loading.refuse(verdict.load, verdict.error),
            Fail: lambda verdict: loading.fail(verdict.worker, verdict.error),
            Evict: lambda verdict: unloading.evict(verdict.model, verdict.reason),
            Hold: lambda verdict: lanes.hold(verdict.model),
            Release: self._release,
            GiveWay: lambda verdict: templates.give_way(verdict.short_bytes),
        }
        self._late_steps: dict[LoadStep, Callable[[Load], None]] = {
            LoadStep.FINDING: loading.give_up_finding,
            LoadStep.SIZING: loading.give_up_finding,
            LoadStep.QUEUED: lambda load: self._see_to(admission.expire(load)),
            LoadStep.STARTING: lambda load: self._see_to(admission.growing.expire(load)),
            LoadStep.BACKOFF: loading.find,
        }
        """What is done when the deadline of a load's step has come."""
        self._follows: dict[type, tuple[Callable[[Any], None], ...]] = {
            LoadEnded: (
                admission.load_ended,
                templates.load_ended,
                router.load_ended,
                deploying.load_ended,
                syncing.load_ended,
            ),
            UnloadEnded: (
                loading.unload_ended,
                templates.unload_ended,
                router.unload_ended,
                deploying.unload_ended,
                undeploying.unload_ended,
                syncing.unload_ended,
            ),
            ReloadBegun: (reloading.tell,),
            HeadroomChanged: (lambda _: self._see_to(admission.look()),),
            ModelIdle: (lambda _: admission.look_soon(),),
        }
        """What follows from what, in order; what stands further up is settled before what stands below."""

    def handle(self, event: ev.Event, now: float) -> list[Effect]:
        """Take an event at an instant and return what is to be done."""
        registry = self._registry
        registry.now = now
        self._handlers[type(event)](event)
        self._settle()
        if registry.is_stopping:
            self._unloading.stop_if_done()
        effects = registry.effects.copy()
        registry.effects.clear()
        return effects

    def next_deadline(self) -> float | None:
        """Return when `TimePassed` is due, or None."""
        return self._registry.timers.next()

    def _settle(self) -> None:
        """Do what follows from what has happened, until nothing does."""
        self._abandoning.settle()
        happened = self._registry.happened
        while happened:
            what = next(what for kind in self._follows for what in happened if type(what) is kind)
            happened.remove(what)
            for follow in self._follows[type(what)]:
                follow(what)

    def _see_to(self, verdicts: Iterable[Verdict]) -> None:
        """Do what admission decides, one after the other: each decision counts with what was done before it."""
        for verdict in verdicts:
            self._doing[type(verdict)](verdict)

    def _release(self, verdict: Release) -> None:
        self._lanes.release(verdict.model)
        self._router.release(verdict.model)

    # Time and clients

    def _asked(self, decide: Callable[[Any], None]) -> Callable[[Any], None]:
        """Return the handler of a request of the control plane, which ends with an answer if it is refused."""

        def handler(event: Any) -> None:
            try:
                self._registry.waiting.check_id(event.caller)
                self._registry.waiting.check_room(event.caller.client, self._registry.config.max_waiting)
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
        self._templates.stop()
        self._unloading.shutdown(event)

    def _on_settings_changed(self, event: ev.SettingsChanged) -> None:
        self._registry.config = event.config
        self._admission.reconfigured()

    def _on_cancelled(self, event: ev.CallCancelled) -> None:
        if event.caller in self._registry.waiting:
            fate = self._abandoning.fate_after(event.caller)
            error = CancelledError(f"the request was cancelled by its caller; {fate}")
            self._registry.waiting.dismiss(event.caller, error)
        else:
            self._router.cancelled(event)

    def _on_too_late(self, key: due.WaiterTimer) -> None:
        fate = self._abandoning.fate_after(key.caller)
        self._registry.waiting.dismiss(key.caller, DeadlineExceededError(f"the deadline passed while waiting; {fate}"))

    def _on_files_failed(self, event: ev.FilesFailed) -> None:
        is_undeploy = event.files_id in self._undeploying.undeploys
        (self._undeploying if is_undeploy else self._deploying).failed(event)

    def _on_spec_delayed(self, event: ev.SpecDelayed) -> None:
        if self._loading.spec_delayed(event):
            self._syncing.delayed(event)

    def _on_client_vanished(self, event: ev.ClientVanished) -> None:
        self._router.lose_client(event.client)
        self._registry.waiting.lose_client(event.client)
        self._lanes.lose_client(event.client)
        self._deploying.lose_client(event.client)

    def _on_time_passed(self, _event: ev.TimePassed) -> None:
        for key in self._registry.timers.pop_due(self._registry.now):
            self._timeouts[type(key)](key)
            self._settle()

    # Proof

    def check_invariants(self) -> None:
        """Raise `InternalError` if anything that must always hold does not."""
        problems = problems_of(self._registry, self._router, self._unloading)
        problems += (
            self._lanes.problems()
            + self._losing.problems()
            + self._closing.problems()
            + self._deploying.problems()
            + self._undeploying.problems()
            + self._syncing.problems()
            + self._admission.problems()
            + self._templates.problems()
            + self._abandoning.problems()
        )
        if problems:
            raise InternalError(f"a broken invariant: {'; '.join(problems)}")
