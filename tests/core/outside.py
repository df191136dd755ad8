"""A made-up outside for the core: clients, finders, processes and a clock, in one thread and without I/O.

`Outside.feed` gives the core an event, proves its invariants and carries its effects out on paper. Whatever the core
may never do, however it is driven, is asserted here: answer a request twice or not at all, answer an unload while a
process lives, send to a worker that does not serve, kill twice, try too often or too early, load what is being moved,
let a model go before what replaces it is there to stay, stop early, miss a deadline. The disk is in `files_on_paper`,
what answers about files promise in `promises`.
"""

from __future__ import annotations

import enum
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from files_on_paper import FilesOnPaper, is_in
from promises import Promises

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.records import UnloadReport

if TYPE_CHECKING:
    from world_of_lanes import LaneOnPaper

    from hostd.core.bookkeeping.templates import TemplateId
    from hostd.core.machine import Core
    from hostd.records import Event as StoryEvent


NOTES = (
    "RETRY",
    "BEING_WRITTEN",
    "WAIT",
    "PIN",
    "UNPIN",
    "GROWN",
    "FILES_CHANGED",
    "PAUSED",
    "RESUMED",
    "PUT_BACK",
    "NOT_ENDED",
    "FRESH",
    "CLOSE_FAILED",
)
"""Causes of what is told of a model that leaves its state as it is."""


class Asked(NamedTuple):
    """The payload of a call: the caller that asked, and the serial number of the question."""

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
    generation: int
    stage: Stage = Stage.ORDERED
    is_killed: bool = False
    is_beyond_reach: bool = False
    is_paused: bool = False
    closes_lanes: bool = False
    has_close: bool = False
    is_closing: bool = False
    is_disconnected: bool = False
    has_greeted: bool = False
    has_loaded: bool = False
    is_sampled: bool = False
    load: fx.SendLoad | None = None
    origination: fx.Origination = field(default_factory=fx.Origination)
    lane: LaneOnPaper | None = None
    samples_due: int = 0
    calls: dict[ev.CallId, fx.ForwardCall] = field(default_factory=dict)
    cancelled: list[ev.CallId] = field(default_factory=list)
    credits: list[fx.ForwardCredit] = field(default_factory=list)

    def is_alive(self) -> bool:
        return self.stage is not Stage.GONE

    def is_reading(self) -> bool:
        """Say whether it reads its model's files, and will do so until it is told to end."""
        return self.is_alive() and not self.is_killed and self.load is not None and not self.has_loaded


class Outside:
    """Everything around one core, on paper."""

    def __init__(self, core: Core) -> None:
        self.core = core
        # What only a proof may see of the core.
        self.registry, self.router, self.admission = core._registry, core._router, core._admission
        self.charges, self.planning = core.queries._charges, core.queries._planning
        self.queries = core.queries
        self.now = 1000.0
        self.effects: list[fx.Effect] = []
        self.history: list[ev.Event] = []
        self.kinds: set[type] = set()
        self.asked: dict[ev.Caller, ev.Event] = {}
        """What each caller has asked for first."""
        self.open: Counter[ev.Caller] = Counter()
        self.deadlines: dict[ev.Caller, float] = {}
        self.answers: dict[ev.Caller, list[object]] = {}
        self.items: dict[ev.Caller, list[Any]] = {}
        self.finds: list[fx.FindSpec] = []
        self.predictions: list[fx.PredictSize] = []
        self.processes: dict[ev.WorkerId, Process] = {}
        self.templates: dict[TemplateId, Stage] = {}
        """The templates that were started; RUNNING are those that have imported all."""
        self.ending: set[TemplateId] = set()
        self.imports: list[fx.RememberImports] = []
        self.announced: list[StoryEvent] = []
        self.states: dict[tuple[str, int | None], str] = {}
        self.files = FilesOnPaper()
        self.pins: deque[fx.KeepPin] = deque()
        self.comparisons: list[fx.CompareFiles] = []
        self.reloads: dict[ev.ModelId, ev.LoadRequested] = {}
        self.asked_retries: Counter[ev.ModelId] = Counter()
        self.promises = Promises()
        self.tries: Counter[int] = Counter()
        self.retries: dict[int, int] = {}
        self.seen: dict[ev.SyncId, dict[ev.ModelId, int]] = {}
        self.unloaded_by: dict[ev.SyncId, set[int]] = defaultdict(set)
        """The generations that each sync has unloaded, or waits for because their files are gone."""
        self.has_overslept = False
        self.has_stopped = False

    def feed(self, event: ev.Event) -> list[fx.Effect]:
        """Give the core an event, and return the effects that it had."""
        self.history.append(event)
        self._note_question(event)
        self.effects = self.core.handle(event, self.now)
        self.kinds.update(map(type, self.effects))
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

    def oversleep(self, seconds: float) -> None:
        """Let the clock run, and wake the core only then, as an outside does that was busy or suspended."""
        self.now += seconds
        self.has_overslept = True
        self.pass_time(0)
        self.has_overslept = False

    def end_template(self, template_id: TemplateId, reason: str, module: str = "") -> None:
        """Let a template be gone, by itself or because it was told to."""
        self.templates[template_id] = Stage.GONE
        self.ending.discard(template_id)
        self.feed(ev.TemplateEnded(template_id, reason, module))

    # The rules of the outside

    def _note_question(self, event: ev.Event) -> None:
        caller = getattr(event, "caller", None)
        if isinstance(event, ev.CallReceived):
            caller = ev.Caller(event.client, event.request_id)
        elif isinstance(event, ev.ClientVanished):
            for known in [known for known in self.open if known.client == event.client]:
                del self.open[known]
            self.promises.lose_client(event.client)
        if caller is None or isinstance(event, (ev.CallCancelled, ev.CreditGranted, ev.FeedReceived)):
            return
        if isinstance(event, ev.LoadRequested):
            self.asked_retries[event.model_id] = max(event.retries or 0, self.asked_retries[event.model_id])
            if event.reload:
                self.reloads[event.model_id] = event
        self.asked.setdefault(caller, event)
        self.open[caller] += 1
        deadline_s = getattr(event, "deadline_s", None)
        if deadline_s is not None:
            self.deadlines[caller] = max(deadline_s, self.now)

    def _note_answer(self, caller: ev.Caller, answer: object) -> None:
        assert self.open[caller] > 0, f"{caller} was answered, but waits for nothing: {answer!r}"
        is_late = self.now > self.deadlines.get(caller, self.now) and not self.has_overslept
        assert not is_late, f"{caller} was answered after its deadline: {answer!r}"
        self.promises.note_answer(caller, answer)
        self.open[caller] -= 1
        if not self.open[caller]:
            del self.open[caller]
            self.deadlines.pop(caller, None)
        self.answers.setdefault(caller, []).append(answer)

    def _assert_nothing_lives(self, model_id: str) -> None:
        living = [p for p in self.processes.values() if p.model_id == model_id and p.is_alive()]
        assert not living, f"nothing should live of {model_id}, but there are {living}"

    def _assert_nobody_reads(self, model_id: str) -> None:
        readers: list[object] = [p for p in self.processes.values() if is_in(p.model_id, model_id) and p.is_reading()]
        finds = [find for find in self.finds if is_in(find.model_id, model_id)]
        readers += [find for find in finds if self.queries.is_finding(find.model_id, find.generation)]
        assert not readers, f"the files of {model_id} are moved under {readers}"

    def _carry_out(self, effect: fx.Effect) -> None:  # noqa: C901 - one case for each kind of effect
        match effect:
            case fx.Answer(caller, value, False):
                self.items.setdefault(caller, []).append(value)
            case fx.Answer(caller, value, _):
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
            case fx.ForwardFeed(worker_id, call_id, asked):
                assert asked.caller == self.processes[worker_id].calls[call_id].payload.caller
            case fx.FindSpec():
                self._note_try(effect)
                self.finds.append(effect)
            case fx.KeepPin(_, model_id):
                assert model_id not in self.registry.reserved, f"{effect} while files are being moved"
                self.pins.append(effect)
            case fx.CompareFiles():
                assert effect not in self.comparisons, "files are compared twice at a time"
                self.comparisons.append(effect)
            case fx.PredictSize():
                self.predictions.append(effect)
            case fx.SpawnWorker(worker_id, model_id):
                assert worker_id not in self.processes, "an id of a worker was used again"
                generation = self.registry.workers[worker_id].model.generation
                template_id = effect.origination.template_id
                assert template_id is None or self.templates.get(template_id) is not Stage.GONE
                assert template_id not in self.ending, f"{effect} is to wait for what is being ended"
                self.processes[worker_id] = Process(worker_id, model_id, generation, origination=effect.origination)
            case fx.StartTemplate(template_id):
                assert template_id not in self.templates, "an id of a template was used again"
                assert template_id not in self.ending
                self.templates[template_id] = Stage.ORDERED
            case fx.EndTemplate(template_id):
                assert template_id not in self.ending, f"template {template_id} was ended twice"
                self.ending.add(template_id)
            case fx.RememberImports():
                self.imports.append(effect)
            case fx.SendLoad(worker_id, model_id):
                assert not self.files.moved_with(model_id), f"{effect} while files are being moved"
                process = self._receiver(worker_id)
                assert process.load is None, f"{process} was told twice what to load"
                assert process.stage is not Stage.ORDERED, f"{process} was told what to load, and is not known"
                process.load = effect
            case fx.MeasureWorker(worker_id):
                process = self._receiver(worker_id)
                assert not process.samples_due, f"{process} is being measured already"
                process.samples_due += 1
            case fx.PauseWorker(worker_id):
                process = self._receiver(worker_id)
                assert process.load is not None, f"{process} was paused and loads nothing"
                assert not process.is_paused, f"{process} was paused twice"
                process.is_paused = True
            case fx.ResumeWorker(worker_id):
                process = self._receiver(worker_id)
                assert process.is_paused, f"{process} goes on and was not paused"
                process.is_paused = False
            case fx.KillWorker(worker_id):
                process = self.processes[worker_id]
                assert not process.is_killed, f"{process} was killed twice"
                assert self._may_skip_close(process), f"{process} is killed before it has closed: {self.history[-1]}"
                process.is_killed = True
            case fx.CloseModel(worker_id):
                process = self._receiver(worker_id)
                assert process.has_close, f"{process} has nothing to close"
                assert not process.is_closing, f"{process} was told twice to close"
                assert not [call for call in process.calls if call not in process.cancelled], f"{process} has calls"
                process.is_closing = True
            case fx.CloseLanes(worker_id):
                process = self._receiver(worker_id)
                assert not process.closes_lanes, f"{process} was told twice to close its lanes"
                process.closes_lanes = True
            case fx.OpenLanes(worker_id):
                process = self._receiver(worker_id)
                assert process.closes_lanes, f"the lanes of {process} were not closed"
                process.closes_lanes = False
            case fx.ScanDirectory(sync_id, loaded):
                models = self.registry.models
                self.seen[sync_id] = {model_id: models[model_id].generation for model_id, _ in loaded}
                self.files.order_scan(effect)
            case fx.LeaveEntry(model_id):
                self.files.noted.append(model_id)
            case fx.RememberSize():
                self.files.remembered.append(effect)
            case fx.Announce(event):
                self._on_announced(event)
            case fx.Stop():
                assert not self.has_stopped, "the host was stopped twice"
                assert all(p.stage is Stage.GONE or p.is_beyond_reach for p in self.processes.values()), self.processes
                assert all(stage is Stage.GONE for stage in self.templates.values()), self.templates
                assert not +self.open, f"the host stopped before it answered {+self.open}"
                assert not self.files.in_work(), f"the host stopped before {self.files.in_work()} were over"
                self.has_stopped = True
            case _:
                self._order_files(effect)

    def _order_files(self, effect: fx.Effect) -> None:
        cause = self.history[-1]
        moving = self.files.order(effect, cause)
        self.promises.note_order(effect, cause, self.files.operations[effect.files_id])
        if isinstance(effect, fx.RemoveFiles):
            self._assert_nothing_lives(effect.model_id)
        if moving is not None:
            self._assert_nobody_reads(moving.model_id)

    def _note_try(self, effect: fx.FindSpec) -> None:
        assert not self.files.moved_with(effect.model_id), f"{effect} while files are being moved"
        generation = effect.generation
        if generation not in self.retries:
            self.retries[generation] = self._retries_of_a_new_load(effect.model_id)
        self.tries[generation] += 1
        assert self.tries[generation] <= self.retries[generation] + 1, f"one try too many: {effect}"
        former = [p for p in self.processes.values() if p.generation == generation and p.is_alive()]
        assert not former, f"{former} of the try before still lives: {effect}"

    def _retries_of_a_new_load(self, model_id: ev.ModelId) -> int:
        """Return how often a load that begins now may be tried again."""
        cause, config = self.history[-1], self.registry.config
        reload = self.reloads.get(model_id)
        if reload is not None and not isinstance(cause, ev.LoadRequested):  # it may be what follows the unload
            return max(config.lazy_load_retries, self.asked_retries[model_id])  # without a path they stay
        if isinstance(cause, ev.LoadRequested):
            asked = cause.retries
            if cause.reload and cause.source.path is None and asked is None:  # of what has crashed
                asked = max(config.load_retries, self.asked_retries[model_id])
        elif isinstance(cause, ev.FilesInstalled):
            requested = self.files.operations[cause.files_id].requested
            asked = None if requested is None else requested.retries
        else:
            return config.lazy_load_retries
        return config.load_retries if asked is None else asked

    def _may_skip_close(self, process: Process) -> bool:
        """Say whether a worker may be killed as it is: only an orderly end waits for what its model has to finish."""
        cause = self.history[-1]
        is_orderly = isinstance(
            cause, (ev.UnloadRequested, ev.UnloadAllRequested, ev.WorkerAnswered, ev.LanesClosed, ev.FilesConfirmed)
        )
        is_at_once = getattr(cause, "at_once", False)
        is_paused = self.states.get(("worker", process.id)) == "PAUSED" or process.is_paused
        if is_at_once or is_paused or process.is_disconnected or not is_orderly:
            return True
        return not process.has_close or process.is_closing or not process.has_loaded

    def _receiver(self, worker_id: ev.WorkerId) -> Process:
        process = self.processes[worker_id]
        assert process.has_greeted, f"{process} got a message before it said hello"
        assert not process.is_killed, f"{process} got a message after its end was ordered"
        return process

    def _on_announced(self, event: StoryEvent) -> None:
        self.announced.append(event)
        key = (event.subject, event.worker_id or event.generation)
        assert event.old == self.states.get(key, "NEW"), f"{event} does not follow {self.states.get(key)}"
        assert (event.old == event.new) == (event.cause in NOTES), event
        self.states[key] = event.new
        if event.cause == "UNLOAD":
            self._on_unload_begun(event)
        if event.new == "DEAD":
            assert event.worker_id is not None
            assert self.processes[ev.WorkerId(event.worker_id)].stage is Stage.GONE
        if event.new == "UNLOADED":
            living = [p for p in self.processes.values() if p.generation == event.generation and p.is_alive()]
            assert not living, f"{event}, but there are {living}"

    def _on_unload_begun(self, event: StoryEvent) -> None:
        model_id = ev.ModelId(event.model_id)
        if event.reason.startswith("replaced by"):
            cause = self.history[-1]
            assert isinstance(cause, ev.FilesConfirmed), f"{event} because of {cause}"
        if event.reason == "its files are gone from the models directory":
            cause = self.history[-1]
            assert isinstance(cause, ev.DirectoryScanned)
            assert model_id in cause.gone
            generation = self.seen[cause.sync_id].get(model_id)
            assert generation == event.generation, f"{event}, but the scan was about generation {generation}"
            self.unloaded_by[cause.sync_id].add(event.generation)
        if event.reason == "it is not declared in the configuration any more":
            assert isinstance(self.history[-1], ev.SyncRequested)
            self.unloaded_by[ev.SyncId(self.core._syncing._count)].add(event.generation)
