"""The part of the world that has to do with direct lanes: clients that call workers, and ask what became of them.

A page (`LaneOnPaper`) changes at any time without a word to the core, as a worker's does. Beside what `Outside` asserts: a
worker that a client was told of is killed only after its lanes are closed, unless something ended it sooner (see
`_may_interrupt`), and its clients are told before; no drain begins before the worker was told to close them; nothing is evicted as idle that a lane has
used since; calls by lanes are counted once; callers that ask about a worker hear nothing while it serves, and then all
the same.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from driver import METHODS
from outside import Stage
from promises import LEFT_EARLY, USED_TWICE
from world_of_files import CLIENTS, MODELS, TIMEOUTS_S, N, WorldOfFiles

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.bookkeeping.totals import Counts
from hostd.core.describing import facts_of
from hostd.core.lifecycle import WorkerState
from hostd_workers.wire.errors import HostError
from hostd_workers.wire.lane.figures import BUCKETS_S, WINDOW, Figures, MethodFigures

if TYPE_CHECKING:
    from collections.abc import Callable

    from outside import Process

    from hostd.core.config import CoreConfig
    from hostd.records import Event as StoryEvent

MOVES_OF_LANES: Final[dict[str, dict[str, tuple[Any, ...]]]] = {
    "open_lane": {"model_id": MODELS, "client": CLIENTS},
    "come_in": {"n": N},
    "call_directly": {"n": N},
    "end_directly": {"n": N, "is_good": (True, True, False)},
    "leave_lane": {"n": N},
    "close_lanes": {"n": N},
    "close_model": {"n": N, "is_good": (True, True, False)},
    "ask_fate": {"n": N, "client": CLIENTS, "timeout_s": TIMEOUTS_S},
}

MOST_DIRECT = 5
"""Calls of a lane at a time."""


class LaneOnPaper:
    """A worker's page, and what its clients have under way."""

    def __init__(self, worker_id: ev.WorkerId) -> None:
        self.address: dict[str, object] = {"worker": worker_id}
        self.is_told = self.is_closed = False
        self.clients: dict[ev.ClientId, None] = {}
        self.calls: list[ev.ClientId] = []
        self.begun = self.ended = self.failed = self.succeeded = 0
        self.last_use_s = 0.0

    def __repr__(self) -> str:
        return f"<LaneOnPaper {self.address}>"

    def begin(self, client: ev.ClientId) -> None:
        self.begun += 1
        self.calls.append(client)

    def end(self, client: ev.ClientId, now: float, *, is_good: bool) -> None:
        self.calls.remove(client)
        self.ended += 1
        self.failed += not is_good
        self.succeeded += is_good
        self.last_use_s = now

    def leave(self, client: ev.ClientId, now: float) -> None:
        """Let a client go: what the worker does for it ends."""
        self.clients.pop(client, None)
        while client in self.calls:
            self.end(client, now, is_good=False)

    def figures(self) -> Figures:
        figures = Figures(self.begun, self.ended, self.failed, len(self.calls), self.last_use_s, len(self.clients))
        return figures._replace(succeeded=self.succeeded)

    def durations_s(self) -> list[float]:
        return [0.5] * min(self.ended, WINDOW)

    def by_method(self) -> list[MethodFigures]:
        return [MethodFigures("predict", [self.ended, *[0] * len(BUCKETS_S)], 0.5 * self.ended)]


class Told(NamedTuple):
    """A client that was told the way to a worker, and has not gone it."""

    client: ev.ClientId
    worker_id: ev.WorkerId


class WorldOfLanes(WorldOfFiles):
    """A core, and clients that call its workers directly."""

    def __init__(self, config: CoreConfig) -> None:
        super().__init__(config)
        self.reached: Counter[str] = Counter()
        """What the games have reached."""
        self.told: list[Told] = []
        self.closes_since_s: dict[ev.WorkerId, float] = {}
        self.counted: Counter[str] = Counter()
        """The calls of each id, by the host and by lanes."""
        self.counts: dict[str, Counts] = {}
        """What was said of each last, which may only grow."""
        self.used_directly_s: dict[int, float] = {}
        self.lanes_used_s = -math.inf
        """When the last call of a lane has ended."""
        self.fates: dict[ev.WorkerId, str] = {}

    # Workers

    def say_loaded(self, process: Process) -> None:
        """Let a worker say that it has loaded; most have lanes."""
        if process.lane is None and process.id % 4:
            process.lane = LaneOnPaper(process.id)
        process.has_close = process.id % 3 == 0
        loaded = ev.WorkerLoaded(process.id, "python", METHODS, "predict", lane=process.lane)
        self.feed(loaded._replace(has_close=process.has_close))

    def end_directly(self, n: int, is_good: bool) -> None:
        """Let a worker end a call that came by a lane."""
        lane = self._pick(n, [lane for lane in self._lanes(lambda p: p.stage is Stage.RUNNING) if lane.calls])
        if lane is not None:
            self._end_call(lane, is_good=is_good)

    def close_lanes(self, n: int) -> None:
        """Let a worker that was told so say that no call of a lane is left."""
        ready = [p for p in self.processes.values() if p.closes_lanes and p.stage is Stage.RUNNING and not _is_busy(p)]
        process = self._pick(n, [p for p in ready if p.lane is not None and not p.lane.is_closed])
        if process is not None and process.lane is not None:
            process.lane.is_closed = True
            process.lane.clients.clear()  # the worker ends the connections
            self.reached["closed lanes"] += 1
            self.feed(ev.LanesClosed(process.id))

    def close_model(self, n: int, is_good: bool) -> None:
        """Let a model that was told so have finished."""
        ready = [p for p in self.processes.values() if p.is_closing and p.stage is Stage.RUNNING and not p.is_killed]
        process = self._pick(n, ready)
        if process is not None:
            self.reached["closed models"] += 1
            self.feed(ev.ModelClosed(process.id, "" if is_good else "ValueError: no"))
            assert process.is_killed

    def settle_lanes(self) -> None:
        """Let all calls of lanes end, and close what is to be closed."""
        for lane in self._lanes(lambda p: p.stage is Stage.RUNNING):
            while lane.calls:
                self._end_call(lane, is_good=True)
        for _ in range(len(self.processes)):
            self.close_lanes(0)
            self.close_model(0, is_good=True)

    # Clients

    def open_lane(self, model_id: ev.ModelId, client: ev.ClientId) -> None:
        """Let a client ask for the way to a model's worker."""
        caller = self.caller(client)
        self.feed(ev.LaneRequested(caller, model_id))
        for address in self.items.get(caller, []):
            process = self.processes[address["worker"]]
            assert process.lane is not None
            assert process.is_sampled, f"{process} was told of before it was ready"
            assert not process.is_killed, f"{process} was told of, and is being killed"
            assert not process.closes_lanes, f"{process} was told of, and closes its lanes"
            process.lane.is_told = True
            self.told.append(Told(client, process.id))

    def come_in(self, n: int) -> None:
        """Let a client connect that was told the way; the worker may be gone by now."""
        told = self._pick(n, reversed(self.told))
        if told is not None:
            self.told.remove(told)
            process = self.processes.get(told.worker_id)
            if process is not None and process.stage is Stage.RUNNING and process.lane and not process.closes_lanes:
                process.lane.clients[told.client] = None

    def call_directly(self, n: int) -> None:
        """Let a client call by its lane; what the worker gives back goes to the host."""
        processes = [p for p in self.processes.values() if p.stage is Stage.RUNNING and p.lane and p.lane.clients]
        process = self._pick(n, reversed(processes))
        if process is None or process.lane is None:
            return
        client = list(process.lane.clients)[n % len(process.lane.clients)]
        if process.closes_lanes:
            self.reached["given back"] += 1
            self.call(process.model_id, "predict", timeout_s=None, size_bytes=1, client=client)
        elif len(process.lane.calls) < MOST_DIRECT:
            process.lane.begin(client)
            self.counted[process.model_id] += 1
            self.reached["direct calls"] += 1

    def leave_lane(self, n: int) -> None:
        lane = self._pick(n, [lane for lane in self._lanes(lambda p: p.stage is Stage.RUNNING) if lane.clients])
        if lane is not None:
            self._leave(lane, list(lane.clients)[n % len(lane.clients)])

    def ask_fate(self, n: int, client: ev.ClientId, timeout_s: float | None) -> None:
        """Let a client ask what became of a worker: of one that has ended, of any, or of one that never was."""
        processes = list(reversed(self.processes.values()))
        lost = [p for p in processes if p.lane and p.lane.calls and p.stage is not Stage.RUNNING]
        process = self._pick(n, lost if n < 3 and lost else processes)
        worker_id = ev.WorkerId(9999) if process is None or n == 5 else process.id
        if process is not None and process.stage is Stage.RUNNING and not process.is_killed and timeout_s is None:
            timeout_s = 2.0  # it may live for ever
        if process is not None and process.stage is Stage.ORDERED and timeout_s is None:
            timeout_s = 2.0
        self.feed(ev.FateRequested(self.caller(client), worker_id, self._deadline(timeout_s)))

    # What must hold

    def feed(self, event: ev.Event) -> list[fx.Effect]:
        if isinstance(event, ev.ClientVanished):
            for lane in self._lanes(lambda p: p.stage is Stage.RUNNING):
                self._leave(lane, event.client)
        effects = super().feed(event)
        self._forget_what_was_unloaded(effects)
        for model in self.registry.models.values():
            counts, counted = facts_of(model, 0.0, 0.0).counts, self.counted[model.id]
            assert counts.calls == counted, f"{model} has {counts} calls, and got {counted}"
            in_flight = sum(worker.in_flight for worker in [*model.workers.values(), *model.earlier])
            ended = counts.succeeded + counts.errors + counts.cancelled
            assert counts.calls == ended + in_flight, f"{model} has {counts}, and {in_flight} in flight"
            before = self.counts.get(model.id, Counts())
            assert all(now >= then for now, then in zip(counts, before, strict=True)), f"{before} became {counts}"
            self.counts[model.id] = counts
            assert (model.used_s or 0.0) >= self.used_directly_s.get(model.generation, 0.0), model
        return effects

    def _forget_what_was_unloaded(self, effects: list[fx.Effect]) -> None:
        """Counts end with an unload, and go on over everything else."""
        registry, told = self.registry, [effect.event for effect in effects if isinstance(effect, fx.Announce)]
        unloaded = {event.model_id for event in told if (event.subject, event.new) == ("model", "UNLOADED")}
        for model_id in list(self.counted):
            model = registry.models.get(ev.ModelId(model_id))
            is_new = model is not None and model_id in unloaded and facts_of(model, 0.0, 0.0).counts == Counts()
            if is_new or (model is None and model_id not in registry.totals):
                assert model_id not in registry.evicted, f"the counts of {model_id} are gone, and it is only evicted"
                del self.counted[model_id]
                self.counts.pop(model_id, None)

    def _carry_out(self, effect: fx.Effect) -> None:
        if isinstance(effect, fx.ForwardCall):
            self.counted[self.processes[effect.worker_id].model_id] += 1
        elif isinstance(effect, fx.CloseLanes):
            lane = self.processes[effect.worker_id].lane
            assert lane is not None
            assert lane.is_told, f"{effect}, but nobody was told of its lane"
            self.closes_since_s[effect.worker_id] = self.now
        elif isinstance(effect, fx.OpenLanes):
            lane = self.processes[effect.worker_id].lane
            assert lane is not None
            assert lane.is_closed, f"{effect}, but its calls have not ended"
            lane.is_closed = False
            self.reached["opened lanes"] += 1
        elif isinstance(effect, fx.KillWorker):
            process = self.processes[effect.worker_id]
            if process.lane is not None and process.lane.is_told and not process.lane.is_closed:
                assert self._may_interrupt(process, effect), f"{process} is killed because of {self.history[-1]}"
                self.reached["interrupted"] += bool(process.lane.calls)
        super()._carry_out(effect)

    def _may_interrupt(self, process: Process, effect: fx.KillWorker) -> bool:
        """Say whether a worker may be killed although its lanes are not closed."""
        cause, is_over_limit = self.history[-1], effect.measured is not None
        if isinstance(cause, ev.TimePassed):
            closes_since_s = self.closes_since_s.get(process.id, self.now)
            is_late = self.now >= closes_since_s + self.registry.config.drain_timeout_s
            return process.is_disconnected or is_late
        if isinstance(cause, ev.ShutdownRequested):
            signals = [event for event in self.history if isinstance(event, ev.ShutdownRequested)]
            return cause.at_once or (cause.caller is None and len(signals) > 1)
        is_at_once = isinstance(cause, (ev.UnloadRequested, ev.UnloadAllRequested)) and cause.at_once
        return is_at_once or is_over_limit or (isinstance(cause, ev.WorkerExited) and cause.worker_id == process.id)

    def _on_announced(self, event: StoryEvent) -> None:
        super()._on_announced(event)
        if event.new == "DRAINING":
            process = self.processes[ev.WorkerId(event.worker_id or 0)]
            is_told = process.lane is not None and process.lane.is_told
            assert process.closes_lanes or not is_told, f"{event}, but {process} has clients that do not hear of it"
            self.reached["drained lanes"] += is_told and _is_busy(process)
        if event.cause == "EVICT" and event.reason.startswith("evicted because idle_ttl_s"):
            model = self.registry.models[ev.ModelId(event.model_id)]
            unused_s = self.now - self.used_directly_s.get(model.generation, 0.0)
            assert unused_s >= self.registry.idle_ttl_s(model), f"{event}, but a lane used it {unused_s} s ago"

    def _note_answer(self, caller: ev.Caller, answer: object) -> None:
        super()._note_answer(caller, answer)
        asked = self.asked[caller]
        if isinstance(asked, ev.FateRequested) and isinstance(answer, HostError):
            is_refusal = answer.message.endswith((LEFT_EARLY, USED_TWICE, "before asking for more"))
            if not is_refusal and asked.worker_id in self.processes:
                worker = self.registry.workers.get(asked.worker_id)
                is_over = worker is None or worker.state is WorkerState.KILLING
                assert is_over, f"{answer!r} is said of {worker}"
                assert self.fates.setdefault(asked.worker_id, answer.message) == answer.message
                self.reached["fates"] += 1

    def _end_call(self, lane: LaneOnPaper, *, is_good: bool) -> None:
        lane.end(lane.calls[0], self.now, is_good=is_good)
        self._note_use(lane)

    def _leave(self, lane: LaneOnPaper, client: ev.ClientId) -> None:
        was_busy = client in lane.calls
        lane.leave(client, self.now)
        if was_busy:
            self._note_use(lane)

    def _note_use(self, lane: LaneOnPaper) -> None:
        process = next(p for p in self.processes.values() if p.lane is lane)
        self.used_directly_s[process.generation] = self.lanes_used_s = self.now

    def _lanes(self, is_candidate: Callable[[Process], bool]) -> list[LaneOnPaper]:
        return [p.lane for p in self.processes.values() if p.lane is not None and is_candidate(p)]


def _is_busy(process: Process) -> bool:
    return process.lane is not None and bool(process.lane.calls)
