"""A made-up outside for the core: clients, finders, processes and a clock, in one thread and without I/O.

`Outside.feed` gives the core an event, proves its invariants and carries its effects out on paper. Whatever the core
may never do, whoever drives it, is asserted here: answer a request twice or not at all, answer an unload while a
process lives, send to a worker that does not serve, kill twice, stop early, miss a deadline.
"""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.records import UnloadReport

if TYPE_CHECKING:
    from hostd.core.machine import Core
    from hostd.records import Event as StoryEvent


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

    def __init__(self, core: Core) -> None:
        self.core = core
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
        self.states: dict[tuple[str, int | None], str] = {}
        self.has_stopped = False

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

    # The rules of the outside

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
        key = (event.subject, event.worker_id or event.generation)
        assert event.old == self.states.get(key, "NEW") != event.new, f"{event} does not follow {self.states.get(key)}"
        self.states[key] = event.new
        if event.new == "DEAD":
            assert event.worker_id is not None
            assert self.processes[ev.WorkerId(event.worker_id)].stage is Stage.GONE
        if event.new == "UNLOADED":
            self._assert_nothing_lives(event.model_id)
