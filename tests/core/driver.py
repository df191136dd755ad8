"""A made-up outside for the core: clients, a finder, processes and a clock, in one thread and without I/O.

`Outside.feed` gives the core an event, proves its invariants and carries its effects out on paper. Whatever the core
may never do, whoever drives it, is asserted here: answer a request twice or not at all, answer an unload while a
process lives, send to a worker that does not serve, kill twice, stop early, miss a deadline.
"""

from __future__ import annotations

import enum
import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.machine import Core
from hostd.core.registry import CoreConfig
from hostd.records import Event as StoryEvent
from hostd.records import MethodInfo, UnloadReport
from workers.wire.errors import HostError

ALICE, BOB = ev.ClientId(b"alice"), ev.ClientId(b"bob")
CONFIG = CoreConfig(spawn_timeout_s=30, load_timeout_s=600, drain_timeout_s=10, max_in_flight=4, max_in_flight_bytes=99)
METHODS = {"predict": MethodInfo("predict"), "generate": MethodInfo("generate", streams=True)}
SPEC = ev.LoadingSpec("python", {}, None, {}, None, None)


def source_of(path: str | None = "/models/m", kind: str = "standalone-model", **options: object) -> ev.LoadSource:
    return ev.LoadSource(path, kind, None, None, options)


def memory_of(rss_bytes: int, processes: int = 1) -> ev.Memory:
    return ev.Memory(processes, rss_bytes, rss_bytes // 2, None, rss_bytes * 2)


class Asked(NamedTuple):
    """The payload of a call: who asked, and the serial number of the question."""

    caller: ev.Caller
    serial: int


class Said(NamedTuple):
    """The payload of a worker's answer; `asked` is the question that it answers."""

    asked: Asked
    text: str
    final: bool


class Stage(enum.Enum):
    """What the operating system knows of a worker's process."""

    ORDERED = "ORDERED"
    RUNNING = "RUNNING"
    ENDED = "ENDED"
    GONE = "GONE"


@dataclass(eq=False)
class Process:
    """A worker as the outside sees it; `calls` are those that it has not finished."""

    id: ev.WorkerId
    model_id: ev.ModelId
    stage: Stage = Stage.ORDERED
    is_killed: bool = False
    has_greeted: bool = False
    has_loaded: bool = False
    is_sampled: bool = False
    load: fx.SendLoad | None = None
    samples_due: int = 0
    calls: dict[ev.CallId, fx.ForwardCall] = field(default_factory=dict)
    cancelled: list[ev.CallId] = field(default_factory=list)
    credits: list[fx.ForwardCredit] = field(default_factory=list)


class Outside:
    """Everything around one core, on paper."""

    def __init__(self, config: CoreConfig = CONFIG, *, wall_offset_s: float = 0.0) -> None:
        self.core = Core(config, wall_offset_s)
        self.now = 1000.0
        self.effects: list[fx.Effect] = []
        self.history: list[ev.Event] = []
        self.open: Counter[ev.Caller] = Counter()
        self.deadlines: dict[ev.Caller, float] = {}
        self.answers: dict[ev.Caller, list[object]] = {}
        self.items: dict[ev.Caller, list[str]] = {}
        self.finds: list[fx.FindSpec] = []
        self.processes: dict[ev.WorkerId, Process] = {}
        self.announced: list[StoryEvent] = []
        self.has_stopped = False
        self._ids = itertools.count(1)

    def feed(self, event: ev.Event) -> list[fx.Effect]:
        """Give the core an event, and return the effects that it had."""
        self.history.append(event)
        self._note_question(event)
        self.effects = self.core.handle(event, self.now)
        self.core.check_invariants()
        for effect in self.effects:
            self._carry_out(effect)
        return self.effects

    def pass_time(self, seconds: float) -> None:
        """Let the clock run, and wake the core whenever it wants to be woken."""
        end = self.now + seconds
        while (due := self.core.next_deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            self.feed(ev.TimePassed())
            still_due = self.core.next_deadline()
            assert still_due is None or still_due > self.now, "a deadline that has come is still to come"
        self.now = end
        late = [caller for caller in +self.open if self.deadlines.get(caller, end + 1) <= end]
        assert not late, f"{late} were not answered before their deadlines"

    # What clients ask

    def load(
        self,
        model_id: str = "m",
        source: ev.LoadSource | None = None,
        *,
        wait: bool = True,
        timeout_s: float | None = None,
        client: ev.ClientId = ALICE,
    ) -> ev.Caller:
        caller = self.caller(client)
        source = source or source_of(f"/models/{model_id}")
        self.feed(ev.LoadRequested(caller, ev.ModelId(model_id), source, wait, self._deadline(timeout_s)))
        return caller

    def retrieve(
        self, model_id: str = "m", *, timeout_s: float | None = None, client: ev.ClientId = ALICE
    ) -> ev.Caller:
        caller = self.caller(client)
        self.feed(ev.RetrieveRequested(caller, ev.ModelId(model_id), self._deadline(timeout_s)))
        return caller

    def unload(self, model_id: str = "m", *, timeout_s: float | None = None, client: ev.ClientId = ALICE) -> ev.Caller:
        caller = self.caller(client)
        self.feed(ev.UnloadRequested(caller, ev.ModelId(model_id), self._deadline(timeout_s)))
        return caller

    def unload_all(self, *, timeout_s: float | None = None, client: ev.ClientId = ALICE) -> ev.Caller:
        caller = self.caller(client)
        self.feed(ev.UnloadAllRequested(caller, self._deadline(timeout_s)))
        return caller

    def shut_down(self, *, at_once: bool = False, client: ev.ClientId = ALICE) -> ev.Caller:
        caller = self.caller(client)
        self.feed(ev.ShutdownRequested(caller, at_once))
        return caller

    def signal(self, *, at_once: bool = False) -> None:
        self.feed(ev.ShutdownRequested(None, at_once))

    def call(
        self,
        model_id: str = "m",
        method: str = "predict",
        *,
        timeout_s: float | None = None,
        size_bytes: int = 1,
        client: ev.ClientId = ALICE,
        request_id: int | None = None,
    ) -> ev.Caller:
        caller = self.caller(client, request_id)
        self.feed(
            ev.CallReceived(
                caller.client,
                caller.request_id,
                ev.ModelId(model_id),
                method,
                self._deadline(timeout_s),
                size_bytes,
                Asked(caller, next(self._ids)),
            )
        )
        return caller

    def caller(self, client: ev.ClientId = ALICE, request_id: int | None = None) -> ev.Caller:
        return ev.Caller(client, next(self._ids) if request_id is None else request_id)

    # What becomes of it

    def answer(self, caller: ev.Caller) -> object:
        """Return the one answer that a caller got."""
        answers = self.answers.get(caller, [])
        assert len(answers) == 1, f"{caller} got {len(answers)} answers: {answers}"
        return answers[0]

    def error(self, caller: ev.Caller) -> HostError:
        """Return the one answer that a caller got, which is an error."""
        answer = self.answer(caller)
        assert isinstance(answer, HostError), answer
        return answer

    def is_waiting(self, caller: ev.Caller) -> bool:
        return self.open[caller] > 0

    def state(self, model_id: str = "m") -> str | None:
        """Return the state of a model, or None if there is no such model."""
        model = self.core.get_model(model_id)
        return model.state if model else None

    @property
    def worker(self) -> ev.WorkerId:
        """The worker that was ordered last."""
        return max(self.processes)

    def worker_state(self, worker: ev.WorkerId | None = None) -> str | None:
        """Return the state of a worker, or None if the core has forgotten it."""
        known = self.core._registry.workers.get(self.worker if worker is None else worker)
        return known.state.value if known else None

    def effects_of(self, kind: type[fx.Effect]) -> list[fx.Effect]:
        """Return the effects of one kind that the last event had."""
        return [effect for effect in self.effects if isinstance(effect, kind)]

    # What finders and workers do

    def found(self, spec: ev.LoadingSpec = SPEC) -> None:
        find = self.finds.pop(0)
        self.feed(ev.SpecFound(find.model_id, find.generation, spec))

    def not_found(self, error: HostError) -> None:
        find = self.finds.pop(0)
        self.feed(ev.SpecRefused(find.model_id, find.generation, error))

    def spawned(self, worker: ev.WorkerId | None = None) -> None:
        process = self._process(worker)
        process.stage = Stage.RUNNING
        self.feed(ev.WorkerSpawned(process.id, 5000 + process.id))

    def not_spawned(self, error: HostError, worker: ev.WorkerId | None = None) -> None:
        process = self._process(worker)
        process.stage = Stage.GONE
        self.feed(ev.WorkerSpawnFailed(process.id, error))

    def greeted(self, worker: ev.WorkerId | None = None) -> None:
        process = self._process(worker)
        process.has_greeted = True
        self.feed(ev.WorkerSaidHello(process.id))

    def loaded(self, worker: ev.WorkerId | None = None, default_method: str | None = "predict") -> None:
        process = self._process(worker)
        process.has_loaded = True
        self.feed(ev.WorkerLoaded(process.id, "python", METHODS, default_method))

    def not_loaded(self, error: HostError, worker: ev.WorkerId | None = None) -> None:
        self.feed(ev.WorkerRefusedLoad(self._process(worker).id, error))

    def measured(self, worker: ev.WorkerId | None = None, memory: ev.Memory | None = None) -> None:
        process = self._process(worker)
        process.is_sampled = process.has_loaded
        process.samples_due = 0
        self.feed(ev.WorkerMeasured(process.id, memory))

    def said_last_words(self, error: HostError, worker: ev.WorkerId | None = None) -> None:
        self.feed(ev.WorkerSpokeLastWords(self._process(worker).id, error))

    def exited(self, how: str = "exit code 1", worker: ev.WorkerId | None = None) -> None:
        process = self._process(worker)
        process.stage = Stage.ENDED
        self.feed(ev.WorkerExited(process.id, how))

    def gone(self, worker: ev.WorkerId | None = None, *, freed_bytes: int = 100, processes: int = 1) -> None:
        process = self._process(worker)
        assert process.is_killed, "the outside proves the end only of what it was told to kill"
        process.stage = Stage.GONE
        self.feed(ev.WorkerGone(process.id, freed_bytes, processes))

    def up_to(self, stage: str, model_id: str = "m", *, client: ev.ClientId = ALICE) -> ev.Caller:
        """Load a model until it is FINDING, SPAWNING, STARTED, LOADING, MEASURING or READY, and return who waits."""
        caller = self.load(model_id, client=client)
        steps = {
            "FINDING": None,
            "SPAWNING": self.found,
            "STARTED": self.spawned,
            "LOADING": self.greeted,
            "MEASURING": self.loaded,
            "READY": lambda: self.measured(memory=memory_of(1000)),
        }
        for name, step in steps.items():
            if step is not None:
                step()
            if name == stage:
                return caller
        raise AssertionError(f"there is no stage {stage}")

    def sent(self, caller: ev.Caller) -> fx.ForwardCall:
        """Return the call as its worker got it."""
        return next(
            call
            for process in self.processes.values()
            for call in process.calls.values()
            if call.payload.caller == caller
        )

    def answered(self, call: fx.ForwardCall, text: str = "done", *, final: bool = True, failed: bool = False) -> None:
        if final:
            self.processes[call.worker_id].calls.pop(call.call_id, None)
        said = Said(call.payload, text, final)
        self.feed(ev.WorkerAnswered(call.worker_id, call.call_id, final, failed, said))

    # The rules of the outside

    def _process(self, worker: ev.WorkerId | None) -> Process:
        return self.processes[self.worker if worker is None else worker]

    def _deadline(self, timeout_s: float | None) -> float | None:
        return None if timeout_s is None else self.now + timeout_s

    def _note_question(self, event: ev.Event) -> None:
        caller = getattr(event, "caller", None)
        if isinstance(event, ev.CallReceived):
            caller = ev.Caller(event.client, event.request_id)
        elif isinstance(event, ev.ClientVanished):
            for known in [known for known in self.open if known.client == event.client]:
                del self.open[known]
        if caller is None or isinstance(event, (ev.CallCancelled, ev.CreditGranted)):
            return
        self.open[caller] += 1
        deadline_s = getattr(event, "deadline_s", None)
        if deadline_s is not None:
            self.deadlines[caller] = deadline_s

    def _note_answer(self, caller: ev.Caller, answer: object) -> None:
        assert self.open[caller] > 0, f"{caller} was answered, but waits for nothing: {answer!r}"
        self.open[caller] -= 1
        if not self.open[caller]:
            del self.open[caller]
            self.deadlines.pop(caller, None)
        self.answers.setdefault(caller, []).append(answer)

    def _assert_nothing_lives(self, model_id: str) -> None:
        living = [p for p in self.processes.values() if p.model_id == model_id and p.stage is not Stage.GONE]
        assert not living, f"{model_id} was called unloaded, but there are {living}"

    def _carry_out(self, effect: fx.Effect) -> None:  # noqa: C901 - one case for each kind of effect
        match effect:
            case fx.Answer(caller, value):
                if isinstance(value, UnloadReport):
                    self._assert_nothing_lives(value.model_id)
                self._note_answer(caller, value)
            case fx.AnswerError(caller, error):
                self._note_answer(caller, error)
            case fx.RelayAnswer(client, request_id, said):
                caller = ev.Caller(client, request_id)
                assert said.asked.caller == caller, f"{said} went to {caller}"
                assert self.open[caller] > 0, f"{said} came too late"
                if said.final:
                    self._note_answer(caller, said.text)
                else:
                    self.items.setdefault(caller, []).append(said.text)
            case fx.ForwardCall(worker_id, call_id, remaining_s, _):
                process = self._receiver(worker_id)
                assert process.is_sampled, f"{process} got a call before it was ready"
                assert remaining_s is None or remaining_s > 0
                process.calls[call_id] = effect
            case fx.ForwardCancel(worker_id, call_id):
                self.processes[worker_id].cancelled.append(call_id)
            case fx.ForwardCredit(worker_id):
                self.processes[worker_id].credits.append(effect)
            case fx.FindSpec():
                self.finds.append(effect)
            case fx.SpawnWorker(worker_id, model_id):
                assert worker_id not in self.processes, "an id of a worker was used again"
                self.processes[worker_id] = Process(worker_id, model_id)
            case fx.SendLoad(worker_id):
                process = self._receiver(worker_id)
                assert process.load is None, f"{process} was told twice what to load"
                process.load = effect
            case fx.MeasureWorker(worker_id):
                process = self._receiver(worker_id)
                assert not process.samples_due, f"{process} is being measured already"
                process.samples_due += 1
            case fx.KillWorker(worker_id):
                process = self.processes[worker_id]
                assert not process.is_killed, f"{process} was killed twice"
                process.is_killed = True
            case fx.Announce(event):
                self._on_announced(event)
            case fx.Stop():
                assert not self.has_stopped, "the host was stopped twice"
                assert all(process.stage is Stage.GONE for process in self.processes.values()), self.processes
                assert not +self.open, f"the host stopped before it answered {+self.open}"
                self.has_stopped = True

    def _receiver(self, worker_id: ev.WorkerId) -> Process:
        process = self.processes[worker_id]
        assert process.has_greeted, f"{process} got a message before it said hello"
        assert not process.is_killed, f"{process} got a message after its end was ordered"
        return process

    def _on_announced(self, event: StoryEvent) -> None:
        self.announced.append(event)
        if event.new == "DEAD":
            assert event.worker_id is not None
            assert self.processes[ev.WorkerId(event.worker_id)].stage is Stage.GONE
        if event.new == "UNLOADED":
            self._assert_nothing_lives(event.model_id)
