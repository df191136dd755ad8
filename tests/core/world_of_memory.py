"""The part of the world that has to do with memory: predictions, samples, pins, growth, and a budget that must hold.

Beside what `Outside` asserts: what all workers hold stays within the budget unless models or loads have grown; while it
is over the budget nothing starts or goes on, and no load that has outgrown its reservation runs; the oldest of these
waits only for what others have to give; a load does what the dry run said just before; nothing is evicted that is pinned, in use, being loaded or kept by its settings; what is
evicted has been there for the minimum residence; no more go than are needed; no wake-up is lost: what could be done for
the first in line has been done; a call waits only for a model that is on its way; no timer of a model that is gone is
kept.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Final

from driver import SPEC
from outside import Stage
from world_of_files import CLIENTS, MODELS, N
from world_of_lanes import WorldOfLanes

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.deadlines import HeadroomTimer, IdleTimer, LoadTimer
from hostd.core.lifecycle import ModelState, WorkerState
from hostd.core.memory.admission import IDLE_LOOK_S, LANE_LOOK_S
from hostd.core.memory.charges import Kept
from hostd.core.memory.planning import Outcome
from hostd.core.models import Cause, LoadStep
from hostd.records import LoadPlan, ModelInfo
from hostd_workers.wire.errors import HostError, ModelError

if TYPE_CHECKING:
    from outside import Process

    from hostd.core.config import CoreConfig
    from hostd.core.models import Load, Model
    from hostd.records import Event as StoryEvent

BUDGET_BYTES = 10_000
NEEDS = (1000, 3000, 3000, 6000, 9000, 20_000)
"""All of them fit but the last; few of them fit together."""

KEPT = SPEC._replace(memory=ev.MemoryPolicy(is_evictable=False))
LIMITED = SPEC._replace(memory=ev.MemoryPolicy(limit_bytes=4000))
RESTLESS = SPEC._replace(memory=ev.MemoryPolicy(idle_ttl_s=5.0))
SPECS = (SPEC, SPEC, SPEC, RESTLESS, LIMITED, KEPT)

MOVES_OF_MEMORY: Final[dict[str, dict[str, tuple[Any, ...]]]] = {
    "predict": {"n": N, "need_bytes": NEEDS, "source": ("remembered", "remembered", "estimated")},
    "pin": {"model_id": MODELS, "is_pinned": (True, False, False), "client": CLIENTS},
    "grow": {"n": N, "to_bytes": (500, 2000, 5000, 8000)},
    "swell": {"by_bytes": (500, 1000, 3000, 6000), "how_many": (1, 3, 3)},
    "speak_late": {"n": N, "what": ("loaded", "loaded", "refused", "died")},
    "fail_to_pause": {"n": N},
}

MOVES_OF_SETTINGS: Final[dict[str, dict[str, tuple[Any, ...]]]] = {
    "reconfigure": {"budget_bytes": (4000, BUDGET_BYTES, BUDGET_BYTES, 30_000), "idle_ttl_s": (0.0, 0.0, 7.0)},
}
"""For games of their own: settings that change all the time leave little of what a budget brings."""

PROBE = ev.ModelId("probe")


class WorldOfMemory(WorldOfLanes):
    """A core with a budget, or without one."""

    def __init__(self, config: CoreConfig, *, may_grow: bool) -> None:
        super().__init__(config)
        self.may_grow = may_grow
        self.taken: dict[ev.WorkerId, int] = {}
        """What each process holds."""
        self.kept_before: dict[str, str] = {}
        self.unloaded = 0

    def predict(self, n: int, need_bytes: int, source: str) -> None:
        """Say what a load will need; what happens then must be what the dry run says."""
        if self._is_look_due():
            self.pass_time(
                LANE_LOOK_S
            )  # what has come free just now is not in the plan, and may go before the load asks
        wanted = self._pick(n, self.predictions)
        if wanted is None:
            return
        self.predictions.remove(wanted)
        prediction = ev.Prediction(need_bytes, source)
        load = self.registry.load_of(wanted.model_id, wanted.generation)
        is_awaited = load is not None and load.step is LoadStep.SIZING
        plan = self.queries.plan_load(PROBE, prediction, self.now)
        beside = self.registry.models.get(wanted.model_id)
        self.feed(ev.SizePredicted(wanted.model_id, wanted.generation, prediction))
        if is_awaited and load.model is beside:
            self._assert_as_planned(plan, wanted)

    def reconfigure(self, budget_bytes: int, idle_ttl_s: float) -> None:
        """Change the settings; the budget only where it may be overrun, since a lower one is at once."""
        config = self.registry.config
        budget_bytes = budget_bytes if self.may_grow and config.budget_bytes is not None else config.budget_bytes
        changed = dataclasses.replace(config, budget_bytes=budget_bytes, idle_ttl_s=idle_ttl_s)
        self.feed(ev.SettingsChanged(changed))

    def grow(self, n: int, to_bytes: int) -> None:
        """Let a model take more than it did, or give some back."""
        holders = [p for p in self.processes.values() if p.id in self.taken and not p.is_killed]
        process = self._pick(n, holders)
        if process is not None and (self.may_grow or to_bytes < self.taken[process.id]):
            self._take(process, to_bytes)

    def swell(self, by_bytes: int, how_many: int) -> None:
        """Let loads that run take more than was reserved for them, the youngest first."""
        loading = [p for p in self.processes.values() if p.is_reading() and not p.is_paused]
        for process in loading[: -how_many - 1 : -1]:
            if self.may_grow and process.is_reading() and not process.is_paused:  # still: the first may change others
                reserved_bytes = self.registry.workers[process.id].reserved_bytes
                self._take(process, max(self.taken.get(process.id, 0), reserved_bytes) + by_bytes)

    def speak_late(self, n: int, what: str) -> None:
        """Let what a process said just before it was paused arrive, or let it be killed."""
        process = self._pick(n, [p for p in self.processes.values() if p.is_reading() and p.is_paused])
        if process is None:
            return
        self.reached["late words"] += 1
        process.has_loaded = what == "loaded"
        if what == "loaded":
            self.say_loaded(process)
        elif what == "refused":
            self.feed(ev.WorkerRefusedLoad(process.id, ModelError("the model raised")))
        else:
            process.stage = Stage.ENDED
            self.feed(ev.WorkerExited(process.id, "killed by SIGKILL", ev.Death.OUT_OF_MEMORY))

    def fail_to_pause(self, n: int) -> None:
        process = self._pick(n, [p for p in self.processes.values() if p.is_paused])
        if process is not None:
            self.feed(ev.WorkerPauseFailed(process.id, "not permitted"))

    def measure(self, process: Process) -> ev.Memory:
        """Return a sample of a process: little while it loads, and then what was predicted for it at most."""
        if not process.has_loaded:
            taken = self.taken.get(process.id, 100)
            return ev.Memory(1, 2 * taken, taken, None, 2 * taken)
        worker = self.registry.workers.get(process.id)
        need_bytes = 0 if worker is None else worker.model.need.bytes if self.may_grow else worker.reserved_bytes
        taken = self.taken.setdefault(process.id, need_bytes * (1 + process.id % 3) // 3 if need_bytes else 500)
        return ev.Memory(1, 2 * taken, taken, None, 3 * taken)

    def feed(self, event: ev.Event) -> list[fx.Effect]:
        self.kept_before = self._kept()
        yielding_before, held_before = list(self.admission._yielding), set(self.router.pending.by_caller)
        effects = super().feed(event)
        self.unloaded += sum(isinstance(e, fx.Announce) and e.event.new == "UNLOADED" for e in effects)
        assert self.queries.memory().unloads == self.unloaded, (
            "an unload was told and not counted, or the other way round"
        )
        registry = self.registry
        budget_bytes = registry.config.budget_bytes
        if budget_bytes is not None:
            self._assert_within(budget_bytes, effects)
            self._assert_awake(budget_bytes)
            self._assert_needed(effects)
            self._count(yielding_before, held_before)
        self._assert_no_relics()
        return effects

    def _assert_within(self, budget_bytes: int, effects: list[fx.Effect]) -> None:
        """See that nothing was done that brings all over the budget, and that no load grows on beyond it."""
        if self.charges.total_bytes() <= budget_bytes:
            return
        assert self.may_grow, self.queries.memory()
        assert not any(isinstance(effect, (fx.SpawnWorker, fx.ResumeWorker)) for effect in effects), effects
        running = [w for w in self.charges.outgrown() if w.state is WorkerState.LOADING]
        assert not running, f"{running} grow beyond the budget"

    def _assert_awake(self, budget_bytes: int) -> None:
        """See that nothing can be done at this moment that admission has not done, or will look at soon."""
        registry, admission = self.registry, self.admission
        if self._is_look_due():
            return
        self.reached["looks at all"] += 1
        outgrown = self.charges.outgrown()
        assert all(worker.state is WorkerState.PAUSED for worker in outgrown), f"{outgrown} grow, and nobody saw it"
        for worker in outgrown[:1]:
            decision = self.planning.decide_growth(worker, outgrown[1:], admission.growing.paused[worker])
            assert decision.outcome is Outcome.WAIT, f"nobody woke {worker}: {decision}"
            return
        for load, since_s in list(admission.queue.items())[:1]:
            decision = self.planning.decide(load.model.id, admission._to_reserve_bytes(load), since_s)
            assert decision.outcome is Outcome.WAIT, f"nobody woke {load}: {decision}"
            # Perhaps others: calls that were let go have made their model worth more.
            assert bool(decision.yielding) <= bool(admission._yielding), f"nobody was asked to yield: {decision}"
            if decision.look_again_s is not None:
                assert registry.timers._due[HeadroomTimer()] <= decision.look_again_s
        headroom = self.charges.headroom(budget_bytes)
        if admission._is_over and headroom.free_bytes + headroom.coming_bytes < 0:
            assert None not in self.charges.by_what_keeps(), "an idle model stays although others have grown"
        for model in admission._yielding:
            if model.is_yielding:
                assert self.charges.kept(model) is Kept.IN_USE, f"{model} yields and is not in use"

    def _is_look_due(self) -> bool:
        looks_s = (self.admission._idle_looked_s + IDLE_LOOK_S, self.lanes_used_s + LANE_LOOK_S)
        due_s = self.registry.timers._due.get(HeadroomTimer(), math.inf)
        return any(self.now < look_s and due_s <= look_s for look_s in looks_s)

    def _assert_needed(self, effects: list[fx.Effect]) -> None:
        """See that each of those that were evicted for the first in line was needed, and that they suffice."""
        told = [effect.event for effect in effects if isinstance(effect, fx.Announce) and effect.event.cause == "EVICT"]
        for load in list(self.admission.queue)[:1]:
            evicted = [event.model_id for event in told if f" of model {load.model.id!r}:" in event.reason]
            if evicted:
                self._assert_fewest(evicted, load)

    def _assert_fewest(self, evicted: list[str], load: Load) -> None:
        registry = self.registry
        headroom = self.charges.headroom(registry.config.budget_bytes or 0)
        need_bytes = self.admission._to_reserve_bytes(load)
        spare_bytes = headroom.free_bytes + headroom.coming_bytes - need_bytes
        spare_bytes += self.charges.unused_templates_bytes()
        assert spare_bytes >= 0, f"{evicted} are not enough for {load}"
        if isinstance(self.history[-1], ev.TimePassed):
            return  # what else was due at that moment may have made room afterwards
        models = [registry.models[ev.ModelId(id)] for id in evicted]
        templates = [{w.template.held_bytes for w in model.workers.values() if w.template} for model in models]
        idle_bytes = [model.charge_bytes + sum(held) for model, held in zip(models, templates, strict=True)]
        assert min(idle_bytes) > spare_bytes, f"not all of {evicted} were needed for {load}"

    def _assert_no_relics(self) -> None:
        registry = self.registry
        known = {*registry.models.values(), *registry.successors.values()}
        for key in registry.timers._due:
            if isinstance(key, IdleTimer):
                assert key.model in known, f"{key} is of a model that is gone"
                assert key.model.state is ModelState.READY, key
            if isinstance(key, LoadTimer):
                assert key.load in [model.load for model in known], f"{key} is of a load that is over"
        for model_id in self.router.pending._by_model:
            model = registry.models[model_id]
            is_on_its_way = model.state in (ModelState.LOADING, ModelState.UNLOADING) or model.is_yielding
            assert is_on_its_way, f"calls wait for {model}"

    def _count(self, yielding_before: list[Model], held_before: set[ev.Caller]) -> None:
        admission, holding = self.admission, self.router.pending
        self.reached["yields"] += sum(model not in yielding_before for model in admission._yielding)
        self.reached["releases"] += sum(
            model not in admission._yielding and model.state is ModelState.READY for model in yielding_before
        )
        self.reached["held calls"] += len(set(holding.by_caller) - held_before)
        self.reached["served held calls"] += len(held_before & set(self.router.by_caller))

    def _take(self, process: Process, taken_bytes: int) -> None:
        self.taken[process.id] = taken_bytes
        if process.has_loaded or process.load is not None:
            process.is_sampled = process.is_sampled or process.has_loaded
            process.samples_due = 0
            self.feed(ev.WorkerMeasured(process.id, self.measure(process), self.now))

    def _kept(self) -> dict[str, str]:
        """Return why each model may not be evicted as things are before the event in hand."""
        registry, now = self.registry, self.now
        reasons = {}
        for model in registry.models.values():
            is_in_use = any(worker.in_flight for worker in model.workers.values())
            policy = model.spec.memory if model.spec else ev.MemoryPolicy()
            is_fresh = model.loaded is None or now < model.loaded.at_s + registry.config.min_residence_s
            why = {
                "pinned": model.is_pinned,
                "kept by its settings": not policy.is_evictable,
                "in use": is_in_use,
                "fresh": is_fresh,
                "failed or on its way out": model.state not in (ModelState.READY, ModelState.LOADING),
                "in work": model.id in registry.reserved or model.id in registry.successors,
            }
            reasons[model.id] = ", ".join(name for name, is_so in why.items() if is_so)
        return reasons

    def _carry_out(self, effect: fx.Effect) -> None:
        if isinstance(effect, fx.FindSpec):
            load = self.registry.load_of(effect.model_id, effect.generation)
            self.reached["reloads"] += load.cause is not Cause.ASKED and load.tries == 1
        self.reached["loads"] += isinstance(effect, fx.SpawnWorker)
        is_kill = isinstance(effect, fx.AnswerError) and effect.error.details.get("reason") == "MEMORY_LIMIT"
        self.reached["limits broken"] += is_kill
        self.reached["ends at the budget"] += isinstance(effect, fx.RememberSize) and effect.is_minimum
        self.reached["resumed"] += isinstance(effect, fx.ResumeWorker)
        super()._carry_out(effect)

    def _on_announced(self, event: StoryEvent) -> None:
        super()._on_announced(event)
        self.reached["waits"] += event.cause == "WAIT"
        self.reached["pauses"] += event.cause == "PAUSED"
        self.reached["put back"] += event.cause == "PUT_BACK"
        if event.cause != "EVICT":
            return
        word = event.reason.split()[1:3]
        reason = "LOAD" if word[0] == "for" else "IDLE" if word[1] == "idle_ttl_s" else "GROWTH"
        self.reached[f"evictions {reason}"] += 1
        cause = self.history[-1]
        why = self.kept_before[event.model_id]
        # The event in hand may have been the last of what kept it.
        ended = isinstance(cause, (ev.WorkerAnswered, ev.CallCancelled, ev.ClientVanished, ev.WorkerUnreachable))
        ended = ended or isinstance(cause, (ev.TimePassed, ev.PinRequested, ev.FilesConfirmed, ev.FilesUndone))
        ended = ended or isinstance(cause, (ev.FilesRemoved, ev.FilesFailed, ev.WorkerExited, ev.WorkerMeasured))
        assert not why or ended, f"{event}, but it was {why} before {cause}"
        model = self.registry.models.get(ev.ModelId(event.model_id))
        assert model is None or not (model.is_pinned or any(w.in_flight for w in model.workers.values())), event

    def _assert_as_planned(self, plan: LoadPlan, wanted: fx.PredictSize) -> None:
        started = any(isinstance(e, fx.SpawnWorker) and e.model_id == wanted.model_id for e in self.effects)
        evicted = [e.event.model_id for e in self.effects if isinstance(e, fx.Announce) and e.event.cause == "EVICT"]
        is_waiting = wanted.model_id in self.queries.memory().waiting
        self.reached["plans"] += 1
        assert evicted == [victim.model_id for victim in plan.victims], f"{plan}, but {evicted} went"
        assert (started, is_waiting) == (plan.outcome == "start", plan.outcome in ("evict", "wait")), plan
        if plan.outcome == "refuse":
            assert self.queries.get_model(wanted.model_id) is None or self.registry.models[wanted.model_id].earlier

    def _note_answer(self, caller: ev.Caller, answer: object) -> None:
        super()._note_answer(caller, answer)
        event = self.asked.get(caller)
        self.reached["answers"] += 1
        if isinstance(answer, HostError) and answer.details.get("reason") == "BUDGET":
            self.reached["refusals"] += 1
        if isinstance(event, ev.PinRequested) and isinstance(answer, ModelInfo):
            # A pin that is written down is answered later, when somebody may have said the opposite.
            said = [other for other in self.asked.values() if isinstance(other, ev.PinRequested)]
            latest = [other for other in said if other.model_id == event.model_id][-1]
            assert latest is not event or answer.pinned is event.is_pinned
