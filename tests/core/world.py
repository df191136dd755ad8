"""A world around the core in which anything may happen at any time, move by move.

Every move takes plain values from a small domain (`MOVES`), so hypothesis and a seeded random generator play the same
game. `n` picks one of those to whom it could happen; if there is none, nothing happens. Beside what `Outside` asserts,
a `World` knows what a client may be told: see `_note_answer` and `call`.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final, TypeVar

from driver import METHODS, SPEC, memory_of, source_of
from outside import Asked, Outside, Process, Said, Stage

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.machine import Core
from hostd.core.registry import CoreConfig
from hostd.records import ModelInfo, UnloadReport
from workers.wire.errors import HostError, InternalError, ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")

CONFIG = CoreConfig(max_in_flight=3, max_in_flight_bytes=10, story_length=8, stories_kept=1)
MODELS = tuple(map(ev.ModelId, ("a", "b", "c/d")))
CLIENTS = tuple(map(ev.ClientId, (b"alice", b"bob", b"carol")))
TIMEOUTS_S = (None, None, 0.0, 2.0, 20.0, 700.0)
SOURCES = (source_of("/x"), source_of("/x"), source_of("/y"))
N = tuple(range(6))
BOOL = (False, True)

MOVES: Final[dict[str, dict[str, tuple[Any, ...]]]] = {
    "load": {"model_id": MODELS, "source": SOURCES, "wait": BOOL, "timeout_s": TIMEOUTS_S, "client": CLIENTS},
    "retrieve": {"model_id": MODELS, "timeout_s": TIMEOUTS_S, "client": CLIENTS},
    "unload": {"model_id": MODELS, "timeout_s": TIMEOUTS_S, "client": CLIENTS},
    "unload_all": {"timeout_s": TIMEOUTS_S, "client": CLIENTS},
    "shut_down": {"client": (*CLIENTS, None), "at_once": BOOL},
    "call": {
        "model_id": MODELS,
        "method": ("predict", "generate", "predikt"),
        "timeout_s": TIMEOUTS_S,
        "size_bytes": (1, 4),
        "client": CLIENTS,
    },
    "call_again": {"n": N, "model_id": MODELS},
    "cancel": {"n": N},
    "grant_credit": {"n": N},
    "vanish": {"client": CLIENTS},
    "find": {"n": N, "is_good": (True, True, True, False)},
    "go_on": {"n": N},
    "fail_to_spawn": {"n": N},
    "refuse_load": {"n": N},
    "babble": {"n": N},
    "sample": {"n": N, "is_readable": BOOL},
    "reply": {"n": N, "final": BOOL, "failed": BOOL},
    "lie": {"n": N, "call_id": tuple(range(20))},
    "lose_call": {"n": N, "is_full": BOOL},
    "say_last_words": {"n": N},
    "exit": {"n": N},
    "prove": {"n": N},
    "pass_time": {"seconds": (0.0, 0.1, 0.1, 1.0, 1.0, 11.0, 31.0, 601.0)},
}


class World(Outside):
    """A core and everybody around it."""

    def __init__(self) -> None:
        super().__init__(Core(CONFIG))
        self._ids = itertools.count(1)
        self.asked: dict[ev.Caller, ev.Event] = {}

    # Clients

    def load(
        self, model_id: ev.ModelId, source: ev.LoadSource, wait: bool, timeout_s: Any, client: ev.ClientId
    ) -> None:
        self._ask(lambda caller, at_s: ev.LoadRequested(caller, model_id, source, wait, at_s), client, timeout_s)

    def retrieve(self, model_id: ev.ModelId, timeout_s: float | None, client: ev.ClientId) -> None:
        self._ask(lambda caller, at_s: ev.RetrieveRequested(caller, model_id, at_s), client, timeout_s)

    def unload(self, model_id: ev.ModelId, timeout_s: float | None, client: ev.ClientId) -> None:
        self._ask(lambda caller, at_s: ev.UnloadRequested(caller, model_id, at_s), client, timeout_s)

    def unload_all(self, timeout_s: float | None, client: ev.ClientId) -> None:
        self._ask(ev.UnloadAllRequested, client, timeout_s)

    def shut_down(self, client: ev.ClientId | None, at_once: bool) -> None:
        if client is None:
            self.feed(ev.ShutdownRequested(None, at_once))
        else:
            self._ask(lambda caller, _: ev.ShutdownRequested(caller, at_once), client, None)

    def call(
        self, model_id: ev.ModelId, method: str, timeout_s: float | None, size_bytes: int, client: ev.ClientId
    ) -> None:
        model, bytes_before = self.core.get_model(model_id), self.core._router.in_flight_bytes
        self._ask(
            lambda caller, at_s: ev.CallReceived(
                caller.client, caller.request_id, model_id, method, at_s, size_bytes, Asked(caller, caller.request_id)
            ),
            client,
            timeout_s,
        )
        is_welcome = (
            model is not None
            and model.state == "READY"
            and method in model.methods
            and timeout_s != 0
            and model.workers[0].in_flight < CONFIG.max_in_flight
            and bytes_before + size_bytes <= CONFIG.max_in_flight_bytes
        )
        assert [type(effect) for effect in self.effects] == [fx.ForwardCall if is_welcome else fx.AnswerError]

    def call_again(self, n: int, model_id: ev.ModelId) -> None:
        """Use the request id of a call in flight once more."""
        caller = self._pick(n, sorted(self.core._router.by_caller))
        if caller is not None:
            payload = Asked(caller, caller.request_id)
            self.feed(ev.CallReceived(*caller, model_id, "predict", None, 1, payload))
            assert [type(effect) for effect in self.effects] == [fx.AnswerError]

    def cancel(self, n: int) -> None:
        caller = self._pick_caller(n)
        if caller is not None:
            self.feed(ev.CallCancelled(caller))

    def grant_credit(self, n: int) -> None:
        caller = self._pick_caller(n)
        if caller is not None:
            self.feed(ev.CreditGranted(caller, n))

    def vanish(self, client: ev.ClientId) -> None:
        self.feed(ev.ClientVanished(client))

    # Finders, processes, workers

    def find(self, n: int, is_good: bool) -> None:
        find = self._pick(n, self.finds)
        if find is not None:
            self.finds.remove(find)
            error = ModelError("no finder knows this")
            about = (find.model_id, find.generation)
            self.feed(ev.SpecFound(*about, SPEC, find.source.path) if is_good else ev.SpecRefused(*about, error))

    def go_on(self, n: int) -> None:
        """Let a process do what comes next in a good life."""
        process = self._pick_process(n, _can_go_on)
        if process is None:
            return
        if process.stage is Stage.ORDERED:
            process.stage = Stage.RUNNING
            self.feed(ev.WorkerSpawned(process.id, 5000 + process.id))
        elif not process.has_greeted:
            process.has_greeted = True
            self.feed(ev.WorkerSaidHello(process.id))
        elif process.load is not None and not process.has_loaded:
            process.has_loaded = True
            self.feed(ev.WorkerLoaded(process.id, "python", METHODS, "predict"))
        elif process.samples_due:
            self._sample(process, is_readable=True)

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
                self.feed(ev.WorkerLoaded(process.id, "python", METHODS, "predict"))

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
        if call is not None:
            del self.processes[call.worker_id].calls[call.call_id]
            self.feed(ev.WorkerUnreachable(call.worker_id, call.call_id, is_full))

    def say_last_words(self, n: int) -> None:
        process = self._pick_process(n, lambda p: p.has_greeted)
        if process is not None:
            self.feed(ev.WorkerSpokeLastWords(process.id, ModelError("goodbye")))

    def exit(self, n: int) -> None:
        process = self._pick_process(n, lambda p: p.stage is Stage.RUNNING)
        if process is not None:
            process.stage = Stage.ENDED
            self.feed(ev.WorkerExited(process.id, "exit code 1"))

    def prove(self, n: int) -> None:
        process = self._pick_process(n, lambda p: p.is_killed and p.stage in (Stage.RUNNING, Stage.ENDED))
        if process is not None:
            process.stage = Stage.GONE
            self.feed(ev.WorkerGone(process.id, 10, 2))

    # The end

    def end(self, at_once: bool) -> None:
        """Shut down, let the system prove every death, and see that nothing is left."""
        self.feed(ev.ShutdownRequested(None, at_once))
        self.pass_time(CONFIG.drain_timeout_s)
        for process in self.processes.values():
            if process.stage is Stage.ORDERED:
                process.stage = Stage.RUNNING
                self.feed(ev.WorkerSpawned(process.id, 5000 + process.id))
        while any(process.stage is not Stage.GONE for process in self.processes.values()):
            before = len(self.history)
            self.prove(0)
            assert len(self.history) > before, "a process lives that nobody was told to kill"
        assert self.has_stopped
        assert not +self.open
        self._assert_empty()

    def _assert_empty(self) -> None:
        registry, router, unloading = self.core._registry, self.core._router, self.core._unloading
        left = [registry.models, registry.workers, registry.timers, registry.effects, router.calls, router.by_caller]
        assert not any(map(len, left)), left
        assert (router.in_flight_bytes, unloading.unload_alls, unloading.shutdown_waiters) == (0, [], {})
        assert len(registry.stories) <= CONFIG.stories_kept + 1
        assert self.core.next_deadline() is None

    # How a move is made

    def _ask(
        self, event_of: Callable[[ev.Caller, float | None], ev.Event], client: ev.ClientId, timeout_s: float | None
    ) -> None:
        caller = ev.Caller(client, next(self._ids))
        event = self.asked[caller] = event_of(caller, None if timeout_s is None else self.now + timeout_s)
        self.feed(event)

    def _note_answer(self, caller: ev.Caller, answer: object) -> None:
        super()._note_answer(caller, answer)
        assert not isinstance(answer, InternalError), answer
        if isinstance(answer, HostError):
            return
        match self.asked[caller]:
            case ev.LoadRequested(model_id=model_id, wait=wait, source=source):
                assert isinstance(answer, ModelInfo)
                assert (answer.id, answer.path) == (model_id, source.path)
                assert answer.state in (("READY",) if wait else ("READY", "LOADING"))
            case ev.RetrieveRequested(model_id=model_id):
                assert isinstance(answer, ModelInfo)
                assert (answer.id, answer.state) == (model_id, "READY")
            case ev.UnloadRequested(model_id=model_id):
                assert isinstance(answer, UnloadReport)
                assert answer.model_id == model_id
            case ev.UnloadAllRequested():
                assert isinstance(answer, list)
                assert len({report.model_id for report in answer}) == len(answer)
            case ev.ShutdownRequested():
                assert answer is None
            case ev.CallReceived():
                assert answer == "said"

    def _sample(self, process: Process, is_readable: bool) -> None:
        process.is_sampled = process.has_loaded
        process.samples_due = 0
        self.feed(ev.WorkerMeasured(process.id, memory_of(1000) if is_readable else None))

    def _pick(self, n: int, candidates: Iterable[T]) -> T | None:
        found = list(itertools.islice(candidates, 100))
        return found[n % len(found)] if found else None

    def _pick_caller(self, n: int) -> ev.Caller | None:
        """Return one whose call is in flight, or sometimes one that asked for something else or waits no more."""
        in_flight = sorted(self.core._router.by_caller)
        return self._pick(n, in_flight if n < 4 and in_flight else reversed(self.asked))

    def _pick_process(self, n: int, is_candidate: Callable[[Process], bool]) -> Process | None:
        return self._pick(n, filter(is_candidate, reversed(self.processes.values())))


def _can_go_on(process: Process) -> bool:
    if process.stage is Stage.ORDERED:
        return True
    return process.stage is Stage.RUNNING and not process.is_sampled and not process.is_killed
