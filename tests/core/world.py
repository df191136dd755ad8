"""A world around the core in which anything may happen at any time, move by move.

Every move takes plain values from a small domain (`moves.MOVES`), so hypothesis and a seeded random generator play the same
game. `n` picks one of those to which it could happen; if there is none, nothing happens. Beside what `Outside` asserts,
a `World` knows what a client may be told: see `_note_answer` and `call`. What has to do with files is in
`world_of_files`. There are worlds with lazy loading and worlds without.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING, Final

from driver import SPEC
from endings import can_go_on, finish
from outside import Asked, Process, Said, Stage
from world_of_memory import BUDGET_BYTES, SPECS, WorldOfMemory

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.config import CoreConfig
from hostd.core.lifecycle import ModelState
from hostd.records import ModelInfo, SyncReport, UnloadReport
from hostd_workers.wire.errors import HostError, InternalError, InvalidArgumentError, ModelError, NotFoundError
from hostd_workers.wire.shares import capacity_for

if TYPE_CHECKING:
    from collections.abc import Callable

CONFIG = CoreConfig(
    max_in_flight=3,
    max_in_flight_bytes=10,
    story_length=8,
    stories_kept=1,
    models_dir="/models",
    lazy_load_retries=1,
    retry_backoff_s=0.5,
)


class World(WorldOfMemory):
    """A core and everybody around it; `is_tight` with a memory budget, and models that grow only if they `may_grow`."""

    def __init__(
        self, *, is_lazy: bool, is_tight: bool = False, may_grow: bool = False, templates: str | tuple[str, ...] = "off"
    ) -> None:
        budget_bytes = BUDGET_BYTES if is_tight else None
        config = dataclasses.replace(CONFIG, lazy_load=is_lazy, budget_bytes=budget_bytes, templates=templates)
        super().__init__(config, may_grow=may_grow)
        self.is_lazy = is_lazy
        self.is_tight = is_tight
        self.were_delayed: set[int] = set()
        """The generations of models that were still being written at a time."""

    # Clients

    def call(
        self, model_id: ev.ModelId, method: str, timeout_s: float | None, size_bytes: int, client: ev.ClientId
    ) -> None:
        model, router = self.queries.get_model(model_id), self.router
        worker = self.registry.models[model_id].ready[0] if model is not None and model.state == "READY" else None
        sent = Counter() if worker is None else self._calls_of(worker.id)
        has_place = has_share(sent, client, 1, capacity_for(CONFIG.max_in_flight))
        may_send = has_share(self._bytes_by_client(), client, size_bytes, CONFIG.max_in_flight_bytes)
        was_evicted = model_id in self.registry.evicted
        caller = super().call(model_id, method, timeout_s=timeout_s, size_bytes=size_bytes, client=client)
        is_yielding = model is not None and self.registry.models[model_id].is_yielding
        is_welcome = (
            model is not None
            and model.state == "READY"
            and not is_yielding
            and method in model.methods
            and timeout_s != 0
            and has_place
            and may_send
        )
        if caller in router.pending.by_caller:
            held_for = self.registry.models[model_id]
            assert self.registry.is_loaded_on_use(held_for) or held_for.is_yielding
            assert not is_welcome
            assert held_for.state.value in ("LOADING", "UNLOADING") or held_for.is_yielding
            return
        kinds = [type(effect) for effect in self.effects if not isinstance(effect, (fx.FindSpec, fx.Announce))]
        assert kinds == [fx.ForwardCall if is_welcome else fx.AnswerError]
        assert self.is_lazy or self.is_tight or was_evicted or len(self.effects) == 1

    def _calls_of(self, worker_id: ev.WorkerId) -> Counter[ev.ClientId]:
        """Return how many calls of each client a worker has, by what it was sent and has not ended."""
        return Counter(call.payload.caller.client for call in self.processes[worker_id].calls.values())

    def _bytes_by_client(self) -> Counter[ev.ClientId]:
        """Return the bytes of each client's calls that the host has: those that workers have, and held ones."""
        workers = self.registry.workers
        callers = [
            call.payload.caller
            for worker_id in workers
            for call in self.processes[worker_id].calls.values()
            # What was in flight when a worker died, or was killed, is over before it is gone.
            if call.call_id in workers[worker_id].calls or call.call_id in workers[worker_id].left
        ]
        found: Counter[ev.ClientId] = Counter()
        for caller in [*callers, *self.router.pending.by_caller]:
            asked = self.asked[caller]
            assert isinstance(asked, ev.CallReceived)
            found[caller.client] += asked.size_bytes
        return found

    def call_again(self, n: int, model_id: ev.ModelId) -> None:
        """Use the request id of a call in flight, or one that is held, once more."""
        router = self.router
        caller = self._pick(n, sorted([*router.by_caller, *router.pending.by_caller]))
        if caller is not None:
            payload = Asked(caller, caller.request_id)
            self.feed(ev.CallReceived(*caller, model_id, "predict", None, 1, payload))
            assert [type(effect) for effect in self.effects] == [fx.AnswerError]

    def ask_again(self, n: int, is_shutdown: bool) -> None:
        """Use the request id of a request that waits once more."""
        caller = self._pick(n, sorted(self.registry.waiting._places))
        if caller is not None:
            self.feed(ev.ShutdownRequested(caller) if is_shutdown else ev.UnloadAllRequested(caller, None))
            assert [type(effect) for effect in self.effects] == [fx.AnswerError]
            assert isinstance(self.answers[caller].pop(), InvalidArgumentError)

    def cancel(self, n: int) -> None:
        caller = self._pick_caller(n)
        if caller is not None:
            self.feed(ev.CallCancelled(caller))

    def grant_credit(self, n: int) -> None:
        caller = self._pick_caller(n)
        if caller is not None:
            self.feed(ev.CreditGranted(caller, n))
            self.feed(ev.FeedReceived(caller, Asked(caller, caller.request_id)))

    def vanish(self, client: ev.ClientId) -> None:
        self.feed(ev.ClientVanished(client))

    # Finders, processes, workers

    def find(self, n: int, how: str) -> None:
        """Let a finder answer, perhaps one that nobody waits for any more."""
        find = self._pick(n, self.finds)
        if find is None:
            return
        self.finds.remove(find)
        about, path = (find.model_id, find.generation), find.source.path
        if how in ("found", "ephemeral"):
            is_ephemeral = how == "ephemeral" and find.origin is ev.Origin.LAZY
            spec = SPECS[n] if self.is_tight else SPEC
            standing = ev.Standing(is_kept=find.origin is ev.Origin.DEPLOYED)
            self.feed(ev.SpecFound(*about, spec, str(find.model_id) if is_ephemeral else path, standing))
        else:
            error = NotFoundError("nothing is there") if how == "nothing" else ModelError("no finder knows this")
            self.feed(ev.SpecRefused(*about, error))

    def delay(self, n: int) -> None:
        find = self._pick(n, self.finds)
        if find is not None:
            self.were_delayed.add(find.generation)
            self.feed(ev.SpecDelayed(find.model_id, find.generation, "it is being written"))

    def go_on(self, n: int) -> None:
        """Let a process do what comes next in a good life."""
        process = self._pick_process(n, can_go_on)
        if process is not None:
            self.advance(process)

    def advance(self, process: Process) -> None:
        """Let a process do what comes next in a good life."""
        if process.stage is Stage.ORDERED:
            self.spawn(process)
        elif not process.has_greeted:
            process.has_greeted = True
            self.feed(ev.WorkerSaidHello(process.id))
            self.feed(ev.BaselineMeasured(process.id, 10))
        elif process.load is not None and not process.has_loaded:
            process.has_loaded = True
            self.say_loaded(process)
        elif process.samples_due:
            self._sample(process, is_readable=True)

    def spawn(self, process: Process) -> None:
        """Let a worker get a process, forked if its template is ready."""
        process.stage = Stage.RUNNING
        template_id = process.origination.template_id
        is_ready = template_id is not None and self.templates.get(template_id) is Stage.RUNNING
        self.feed(ev.WorkerSpawned(process.id, 5000 + process.id, template_id if is_ready else None))

    def greet_early(self, n: int) -> None:
        """Let a worker be heard before its process is known: what has made it is late."""
        process = self._pick_process(n, lambda p: p.stage is Stage.ORDERED and not p.has_greeted)
        if process is not None:
            process.has_greeted = True
            self.feed(ev.WorkerSaidHello(process.id))

    def fail_to_spawn(self, n: int) -> None:
        process = self._pick_process(n, lambda p: p.stage is Stage.ORDERED)
        if process is not None:
            process.stage = Stage.GONE
            self.feed(ev.WorkerSpawnFailed(process.id, ModelError("no process")))

    def refuse_load(self, n: int) -> None:
        process = self._pick_process(n, lambda p: p.load is not None and not p.has_loaded)
        if process is not None:
            self.feed(ev.WorkerRefusedLoad(process.id, ModelError("the model raised")))

    def babble(self, n: int) -> None:
        """Let any worker, even a dead one, say what it said before."""
        process = self._pick_process(n, lambda p: p.has_greeted)
        if process is not None:
            self.feed(ev.WorkerSaidHello(process.id))
            if process.has_loaded:
                self.say_loaded(process)
            if not process.closes_lanes:
                assert self.feed(ev.LanesClosed(process.id)) == []
            if not process.is_closing:
                assert self.feed(ev.ModelClosed(process.id)) == []

    def sample(self, n: int, is_readable: bool) -> None:
        process = self._pick_process(n, lambda p: p.stage is not Stage.ORDERED)
        if process is not None:
            self._sample(process, is_readable)

    def reply(self, n: int, final: bool, failed: bool) -> None:
        """Let a worker answer a call, perhaps one that nobody waits for any more."""
        call = self._pick(n, [call for process in self.processes.values() for call in process.calls.values()])
        if call is not None:
            if final:
                del self.processes[call.worker_id].calls[call.call_id]
            self.feed(ev.WorkerAnswered(call.worker_id, call.call_id, final, failed, Said(call.payload, "said", final)))

    def lie(self, n: int, call_id: int) -> None:
        """Let a worker answer a call that it was not given."""
        process = self._pick_process(n, lambda p: ev.CallId(call_id) not in p.calls)
        if process is not None:
            assert self.feed(ev.WorkerAnswered(process.id, ev.CallId(call_id), True, False, None)) == []

    def lose_call(self, n: int, is_full: bool) -> None:
        call = self._pick(n, [call for process in self.processes.values() for call in process.calls.values()])
        has_begun = n % 3 == 2  # then it is an item of its feed that is lost
        if call is not None:
            if not has_begun:
                del self.processes[call.worker_id].calls[call.call_id]
            self.feed(ev.WorkerUnreachable(call.worker_id, call.call_id, is_full, has_begun))

    def say_last_words(self, n: int) -> None:
        process = self._pick_process(n, lambda p: p.has_greeted)
        if process is not None:
            self.feed(ev.WorkerSpokeLastWords(process.id, ModelError("goodbye")))

    def disconnect(self, n: int, is_again: bool) -> None:
        """Let a worker's connection end, which may be told of one that is gone, or twice."""
        process = self._pick_process(n, lambda p: p.is_disconnected == is_again)
        if process is not None:
            process.is_disconnected = True
            worker = self.registry.workers.get(process.id)
            self.reached[f"disconnected {worker.state.value if worker else 'DEAD'}"] += 1
            self.feed(ev.WorkerDisconnected(process.id, "it was closed"))

    def exit(self, n: int) -> None:
        process = self._pick_process(n, lambda p: p.stage is Stage.RUNNING)
        if process is not None:
            process.stage = Stage.ENDED
            self.feed(ev.WorkerExited(process.id, "exit code 1"))

    def prove(self, n: int, obstacle: str | None = None) -> None:
        """Let the operating system say that nothing is left of a worker, or what still is."""
        process = self._pick_process(n, lambda p: p.is_killed and p.stage in (Stage.RUNNING, Stage.ENDED))
        if process is not None and obstacle is not None:
            process.is_beyond_reach = obstacle == "beyond reach"
            self.feed(ev.WorkerNotEnded(process.id, f"it {obstacle}", process.is_beyond_reach))
        elif process is not None:
            process.stage = Stage.GONE
            self.feed(ev.WorkerGone(process.id, 10, 2))

    # The end

    def end(self, at_once: bool) -> None:
        """Shut down, let the system prove every death and the disk do its work, and see that nothing is left."""
        self.feed(ev.ShutdownRequested(None, at_once))
        if at_once:
            self.scan(2, 1, is_readable=True)
        self.pass_time(CONFIG.drain_timeout_s)
        for process in self.processes.values():
            if process.stage is Stage.ORDERED:
                self.spawn(process)
        finish(self)
        living = [process for process in self.processes.values() if process.is_alive()]
        assert not living, f"{living} live, and nobody was told to kill them"
        assert self.has_stopped
        assert not +self.open
        while self.finds:
            self.find(0, "found")
            assert self.effects == [], "a finder's answer after the end has effects"
        while self.predictions:
            self.predict(0, 1000, "remembered")
            assert self.effects == [], "a prediction after the end has effects"
        self.scan(2, 1, is_readable=True)
        assert not any(isinstance(effect, fx.ScanDirectory) for effect in self.effects)
        self._assert_empty()

    def _assert_empty(self) -> None:
        core, registry, router = self.core, self.registry, self.router
        left = [
            *(registry.models, registry.successors, registry.reserved, registry.files_in_work, registry.workers),
            core._lanes._waiting,
            *(registry.timers, registry.effects, registry.waiting, router.calls, router.by_caller),
            *(
                router.pending.by_caller,
                router.pending._by_model,
                router.bytes,
                core._deploying.deploys,
                core._undeploying.undeploys,
            ),
            *(core._admission.queue, core._admission._yielding),
            *(core._syncing._queue, core._unloading.unload_alls, core._unloading.shutdown_waiters),
        ]
        left += [sync.waiters for sync in core._syncing._syncs.values()]
        assert not any(map(len, left)), left
        # What is never told is forgotten without a look at what else is kept.
        assert self.is_lazy or len(registry.stories) <= CONFIG.stories_kept + 1
        assert self.core.next_deadline() is None

    # What clients are told

    def _note_answer(self, caller: ev.Caller, answer: object) -> None:
        super()._note_answer(caller, answer)
        assert not isinstance(answer, InternalError), answer
        if isinstance(answer, HostError):
            return
        event = self.asked[caller]
        match event:
            case ev.LoadRequested(source=source, wait=wait):
                assert isinstance(answer, ModelInfo)
                # What a reload unloads may have come from elsewhere; the id is the path of an ephemeral model.
                is_from_anywhere = (event.reload and source.path is None) or answer.state == "UNLOADING"
                assert is_from_anywhere or answer.path in (source.path, event.model_id)
                assert answer.state in (("READY",) if wait else ("READY", "LOADING", "UNLOADING"))
            case ev.RetrieveRequested():
                assert isinstance(answer, ModelInfo)
                assert answer.state == "READY"
            case ev.UnloadAllRequested():
                assert isinstance(answer, list)
                assert len({report.model_id for report in answer}) == len(answer)
            case ev.SyncRequested(wait=True):
                assert isinstance(answer, SyncReport)
                self._assert_unloaded(caller, answer)
                assert not event.load or self._left_by_a_sync(caller, answer) == set()
            case ev.CallReceived():
                assert answer == "said"
            case _:
                assert isinstance(answer, _ANSWERS[type(event)])
        if isinstance(answer, ModelInfo):
            asked_id = getattr(event, "model_id", answer.id)  # a commit names its upload
            assert answer.id == asked_id

    def _assert_unloaded(self, caller: ev.Caller, report: SyncReport) -> None:
        gone = self.unloaded_by[self.sync_of[caller]]
        living = [process for process in self.processes.values() if process.is_alive() and process.generation in gone]
        assert not living, f"{report}, but there are {living}"

    def _left_by_a_sync(self, caller: ev.Caller, report: SyncReport) -> set[str]:
        """Return what syncs had begun to load when that of this caller began to look, and what it did not wait for."""
        seen = self.seen[self.sync_of[caller]]
        models = [self.registry.generation_of(*known) for known in seen.items()]
        under_way = [model for model in models if model is not None and model.state is ModelState.LOADING]
        begun = {model.id: model.generation for model in under_way if model.origin is ev.Origin.SYNCED}
        # What is declared elsewhere has failed, and nothing else is said of it while it is being written.
        written = {model_id for model_id, generation in begun.items() if generation in self.were_delayed}
        return set(begun) - {*report.writing} - (written & {*report.failed})

    def _sample(self, process: Process, is_readable: bool) -> None:
        process.is_sampled = process.has_loaded
        process.samples_due = 0
        self.feed(ev.WorkerMeasured(process.id, self.measure(process) if is_readable else None, self.now))

    def _pick_caller(self, n: int) -> ev.Caller | None:
        """Return one with a call in flight, or sometimes one that asked for something else or waits no more."""
        in_flight = sorted(self.router.by_caller)
        return self._pick(n, in_flight if n < 4 and in_flight else reversed(self.asked))

    def _pick_process(self, n: int, is_candidate: Callable[[Process], bool]) -> Process | None:
        return self._pick(n, filter(is_candidate, reversed(self.processes.values())))


def has_share(has: Counter[ev.ClientId], client: ev.ClientId, amount: int, capacity: int) -> bool:
    """Say whether a client that has what it has beside others may have so much more: see `core/bookkeeping/shares`."""
    free = capacity - has.total() - amount
    return free >= 0 if not has[client] else (has[client] + amount) * len(+has) <= 2 * free


_ANSWERS: Final = {
    ev.UnloadRequested: UnloadReport,
    ev.UndeployRequested: UnloadReport,
    ev.ShutdownRequested: type(None),
    ev.DeployRequested: dict,
    ev.DeployCommitRequested: ModelInfo,
    ev.DeployAbortRequested: type(None),
    ev.SyncRequested: SyncReport,
    ev.PinRequested: ModelInfo,
    ev.LaneRequested: type(None),
}
