"""Admission: loads start only when there is memory for them, and models yield for others.

Rules
1. What all workers hold never rises above the budget by the host's own doing: a load starts when what it is predicted
   to need at most is free, and that is reserved for it.
2. Loads wait in the order in which they came. The first in line decides what yields; nothing passes it, or a large
   load would never start.
3. What can go at once goes at once; what comes free by itself, within `IDLE_LOOK_S`. A model in use yields after the
   minimum residence: its new calls wait in the host, and it is evicted when the last call in flight has ended. What
   called it is served by its next load. If that call does not end for the time that a load may wait, it serves on for
   as long, or calls would wait for ever.
4. What can never start (all else is kept for good) is refused at once; what has waited too long is refused with what
   holds the rest.
5. Growth counts. When models have grown over the budget, others yield for them in the same order; where that is not
   enough, the one that has grown most is named. Loads that outgrow their reservations go before the line (`Growing`).

`Planning` decides what goes, waits or is refused, and changes nothing. What is to be done to a model is yielded, and
is done before the next step is decided.
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from typing import TYPE_CHECKING, TypeAlias

from hostd.core.deadlines import HeadroomTimer, IdleTimer, LoadTimer
from hostd.core.happenings import HEADROOM_CHANGED, MODEL_IDLE
from hostd.core.lifecycle import WorkerState
from hostd.core.memory.charges import fewest
from hostd.core.memory.growing import Fail, Growing
from hostd.core.memory.planning import HOPELESS, Decision, Outcome
from hostd.core.models import LoadStep
from hostd.units import format_duration, format_size
from hostd_workers.wire.light_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from hostd.core.happenings import LoadEnded
    from hostd.core.memory.charges import Charges
    from hostd.core.memory.planning import Planning
    from hostd.core.models import Load, Model, Worker
    from hostd.core.registry import Registry
    from hostd_workers.wire.errors import HostError

IDLE_LOOK_S = 0.01
"""A look takes a millisecond with 200 models, and while a load waits each call of any of them may leave one idle."""

LANE_LOOK_S = 0.1
"""Nobody tells that the last call of a lane has ended, so a load that waits for it looks: one percent of a core."""


_GROWING = (WorkerState.LOADING, WorkerState.PAUSED)


class Reason(enum.Enum):
    """Why a model is evicted."""

    LOAD = "LOAD"
    GROWTH = "GROWTH"
    IDLE = "IDLE"


@dataclass(frozen=True)
class Start:
    """A load starts, with so much reserved for it."""

    load: Load
    reserve_bytes: int


@dataclass(frozen=True)
class Refuse:
    """A load that has not started never does."""

    load: Load
    error: HostError


@dataclass(frozen=True)
class Evict:
    """A model that serves is unloaded."""

    model: Model
    reason: str


@dataclass(frozen=True)
class Hold:
    """Calls of a model wait from now on, because it is to yield."""

    model: Model


@dataclass(frozen=True)
class Release:
    """Calls that waited because a model was to yield go their way: it stays."""

    model: Model


@dataclass(frozen=True)
class GiveWay:
    """Templates that nobody needs end, until so much is free."""

    short_bytes: int


Verdict: TypeAlias = "Start | Refuse | Fail | Evict | Hold | Release | GiveWay"
"""What admission has decided; `Core` sees to it."""


class Admission:
    """The loads that wait for memory, and the models that yield."""

    def __init__(self, registry: Registry, charges: Charges, planning: Planning) -> None:
        self._registry = registry
        self._charges = charges
        self._planning = planning
        self.growing = Growing(registry, charges, planning)
        self.queue: dict[Load, float] = {}
        """The loads that wait, in order, and since when."""
        self.over_budget: str | None = None
        """Which models have grown over the budget, in words; None if none has."""
        self.evictions: Counter[str] = Counter()
        self.refusals = 0
        self.waits = 0
        self._yielding: list[Model] = []
        self._is_over = False
        self._places = 0
        self._idle_looked_s = -math.inf

    def enter(self, load: Load) -> None:
        """Take a load that knows what it needs; the next look starts it, refuses it, or lets it wait."""
        self._places += 1
        load.place = self._places
        self.enter_again(load)

    def enter_again(self, load: Load) -> None:
        """Take a load that was put back: before those that came after it."""
        load.step = LoadStep.QUEUED
        self.queue[load] = self._registry.now
        self.queue = dict(sorted(self.queue.items(), key=lambda item: item[0].place))
        self._registry.headroom_changed()

    @property
    def in_line(self) -> int:
        """How many loads a new one would wait for."""
        return len(self.queue) + len(self.growing.paused)

    def leave(self, load: Load) -> None:
        """Forget a load that is overtaken."""
        if load.step is LoadStep.QUEUED:
            self._remove(load)
            self._registry.headroom_changed()

    def expire(self, load: Load) -> Iterator[Verdict]:
        """Refuse a load that has waited too long."""
        waited_s = self._registry.now - self.queue[load]
        yield self._refuse(load, f"after {format_duration(waited_s)} (memory.admission_timeout_s)")
        self._registry.headroom_changed()

    def measured(self, worker: Worker) -> None:
        """See what follows for others from a worker that holds more or less than it did."""
        if worker.state in _GROWING or self._is_awaited:
            self._registry.headroom_changed()
        self._see_whether_over()

    @property
    def _is_awaited(self) -> bool:
        """Whether anything depends on what is free."""
        return bool(self.queue or self.growing.paused or self._is_over or self._yielding)

    def _see_whether_over(self) -> None:
        budget_bytes = self._registry.config.budget_bytes
        if budget_bytes is not None and not self._is_over and self._charges.total_bytes() > budget_bytes:
            self._is_over = True
            self._registry.headroom_changed()

    def load_ended(self, what: LoadEnded) -> None:
        """Have an eye on how long a model that serves now is idle."""
        ttl_s = self._registry.idle_ttl_s(what.model)
        if what.error is None and ttl_s:
            self._registry.timers.set(IdleTimer(what.model), self._registry.now + ttl_s)

    def expire_idle(self, key: IdleTimer) -> Iterator[Verdict]:
        """Evict a model that nobody has used for long enough, or look again when that may be so."""
        model, registry = key.model, self._registry
        ttl_s = registry.idle_ttl_s(model)
        due_s = self._charges.unused_since_s(model) + ttl_s  # what is left would be rounded, and never pass
        if self._charges.kept(model) is not None:
            registry.timers.set(key, registry.now + ttl_s)
        elif registry.now < due_s:
            registry.timers.set(key, due_s)
        else:
            yield self._evict(model, Reason.IDLE, f"because idle_ttl_s is {format_duration(ttl_s)}")

    def reconfigured(self) -> None:
        """Apply settings that have changed to what idles, to what waits, and to what is held now.

        A budget may be another one, and is not switched on or off: models that were loaded without one are not measured
        against it.
        """
        registry, charges = self._registry, self._charges
        for model in registry.models.values():
            registry.timers.cancel(IdleTimer(model))
            ttl_s = registry.idle_ttl_s(model)
            if ttl_s and model.ready:
                registry.timers.set(IdleTimer(model), max(registry.now, charges.unused_since_s(model) + ttl_s))
        self._is_over, self.over_budget = False, None
        self._see_whether_over()
        registry.headroom_changed()

    def look(self) -> Iterator[Verdict]:
        """Start what can start, and have others yield for what cannot."""
        registry = self._registry
        budget_bytes = registry.config.budget_bytes
        if budget_bytes is not None:
            yield from self._look(budget_bytes)
        for seen in (HEADROOM_CHANGED, MODEL_IDLE):  # by what was just done, which took it into account
            if seen in registry.happened:
                registry.happened.remove(seen)

    def look_soon(self) -> None:
        """Look at what has become idle, but not at every such moment."""
        registry = self._registry
        if not self._is_awaited:
            return
        again_s = self._idle_looked_s + IDLE_LOOK_S
        if registry.now >= again_s:
            self._idle_looked_s = registry.now
            registry.headroom_changed()
        else:
            registry.timers.bring_forward(HeadroomTimer(), again_s)

    def _look(self, budget_bytes: int) -> Iterator[Verdict]:
        registry = self._registry
        registry.timers.cancel(HeadroomTimer())
        yield from self._refuse_hopeless()
        growth = yield from self._let_grow(budget_bytes)
        decisions = [growth]
        if growth is None:
            decisions = [(yield from self._relieve(budget_bytes)), (yield from self._work_off(budget_bytes))]
        known = [decision for decision in decisions if decision is not None]
        yield from self._ask_to_yield([model for decision in known for model in decision.yielding])
        look_again_s = [decision.look_again_s for decision in known if decision.look_again_s is not None]
        look_again_s += [model.asked_s + registry.config.admission_timeout_s for model in self._yielding]
        if (self.queue or self._is_over or growth is not None) and self._charges.has_lanes_in_use():
            look_again_s.append(registry.now + LANE_LOOK_S)
        if look_again_s:
            registry.timers.set(HeadroomTimer(), min(look_again_s))
        for load in self._newcomers():
            self.waits += 1
            registry.timers.set(LoadTimer(load), registry.now + registry.config.admission_timeout_s)
            registry.note(load.model, "WAIT", self._why_waiting(load))

    def problems(self) -> list[str]:
        """Return what is wrong with these books; a question for `check_invariants`."""
        found = [
            f"{load!r} waits for memory and is not a load that has not started"
            for load in self.queue
            if load.model.load is not load or load.model.workers or load.step is not LoadStep.QUEUED
        ]
        found += [f"{model!r} yields and nobody knows" for model in self._unknown_yielding()]
        return found + self.growing.problems()

    def _unknown_yielding(self) -> list[Model]:
        return [m for m in self._registry.models.values() if m.is_yielding and m not in self._yielding]

    # Steps

    def _newcomers(self) -> list[Load]:
        return [load for load in self.queue if LoadTimer(load) not in self._registry.timers]

    def _refuse_hopeless(self) -> Iterator[Verdict]:
        for load in self._newcomers():
            if self._planning.is_hopeless(load.model.id, self._to_reserve_bytes(load)):
                yield self._refuse(load, HOPELESS)

    def _let_grow(self, budget_bytes: int) -> Generator[Verdict, None, Decision | None]:
        """Have others yield for the first of the loads that have outgrown their reservations."""
        outgrown = self._charges.outgrown()
        if outgrown:
            yield from self._templates_first(budget_bytes, outgrown[0].measured_bytes)
        decision = yield from self.growing.look()
        if decision is not None:
            first = self._charges.outgrown()[0].model
            for victim in decision.victims:
                if victim.load is not None:
                    self.growing.put_back(victim.load, first)
                else:
                    yield self._evict(victim, Reason.LOAD, f"for the load of model {first.id!r}, which needs more")
        return decision

    def _templates_first(self, budget_bytes: int, more_bytes: int) -> Iterator[Verdict]:
        """Have templates go that nobody needs, if so much more is needed than there is."""
        headroom = self._charges.headroom(budget_bytes)
        short_bytes = more_bytes - headroom.free_bytes - headroom.coming_bytes
        if short_bytes > 0 and self._charges.unused_templates_bytes():
            yield GiveWay(short_bytes)

    def _work_off(self, budget_bytes: int) -> Generator[Verdict, None, Decision | None]:
        """Start the loads that can start, in order; return what is to be done for the first of those that cannot."""
        while self.queue:
            load, since_s = next(iter(self.queue.items()))
            model_id, reserve_bytes = load.model.id, self._to_reserve_bytes(load)
            yield from self._templates_first(budget_bytes, reserve_bytes)
            decision = self._planning.decide(model_id, reserve_bytes, since_s)
            if decision.outcome is Outcome.START:
                self._remove(load)
                yield Start(load, reserve_bytes)
            elif decision.outcome is Outcome.REFUSE:
                yield self._refuse(load, HOPELESS)
            else:
                for victim in decision.victims:
                    yield self._evict(victim, Reason.LOAD, f"for {format_size(reserve_bytes)} of model {model_id!r}")
                return decision
        return None

    def _to_reserve_bytes(self, load: Load) -> int:
        return self._planning.to_reserve_bytes(load.model.id, load.model.need)

    def _relieve(self, budget_bytes: int) -> Generator[Verdict, None, Decision]:
        """Have others yield for growth; return what else is to, once idle."""
        if not self._is_over:
            return Decision(Outcome.START)
        yield from self._templates_first(budget_bytes, 0)
        headroom, models = self._charges.headroom(budget_bytes), self._charges.by_what_keeps()
        if headroom.free_bytes >= 0:
            self._is_over, self.over_budget = False, None
            return Decision(Outcome.START)
        grower = max(self._registry.models.values(), key=lambda model: (model.grown_bytes, model.id))
        short_bytes = -headroom.free_bytes - headroom.coming_bytes
        for victim in fewest(models.get(None, []), short_bytes):
            short_bytes -= victim.charge_bytes
            yield self._evict(victim, Reason.GROWTH, f"because model {grower.id!r} has grown")
        if short_bytes <= 0:
            return Decision(Outcome.EVICT)
        if self.over_budget is None:
            self.over_budget = (
                f"models hold {format_size(-headroom.free_bytes)} more than the budget of {format_size(budget_bytes)}; "
                f"model {grower.id!r} has grown most, by {format_size(grower.grown_bytes)} since it was loaded"
            )
            self._registry.note(grower, "GROWN", self.over_budget)
        ripe, look_again_s = self._planning.soon(models)
        return Decision(Outcome.WAIT, yielding=tuple(fewest(ripe, short_bytes)), look_again_s=look_again_s)

    def _ask_to_yield(self, yielding: list[Model]) -> Iterator[Verdict]:
        registry, previous, self._yielding = self._registry, self._yielding, yielding
        patience_s = registry.config.admission_timeout_s
        for model in yielding:
            if not model.is_yielding or registry.now >= model.asked_s + patience_s:
                model.asked_s = registry.now
            if not model.is_yielding:
                model.is_yielding = True
                yield Hold(model)
        for model in previous:
            if model not in yielding and model.is_yielding:
                model.is_yielding = False
                if registry.now < model.asked_s + patience_s:
                    model.asked_s = -math.inf  # it did not have to; else it serves on for a while
                if model.is_serving:
                    yield Release(model)

    def _evict(self, model: Model, reason: Reason, why: str) -> Evict:
        self.evictions[reason.value] += 1
        reload = format_duration(model.loaded.took_s if model.loaded else 0.0)
        idle = format_duration(self._charges.idle_s(model))
        return Evict(
            model,
            f"evicted {why}: it held {format_size(model.charge_bytes)}, was unused for {idle}, and loads again in "
            f"{reload} when it is used",
        )

    def _remove(self, load: Load) -> None:
        del self.queue[load]
        self._registry.timers.cancel(LoadTimer(load))

    def _refuse(self, load: Load, when: str) -> Refuse:
        self._remove(load)
        self.refusals += 1
        return Refuse(load, self._planning.refusal_of(load.model, when))

    def _why_waiting(self, load: Load) -> str:
        number, need = len(self.growing.paused) + list(self.queue).index(load) + 1, load.model.need
        reserve_bytes = self._to_reserve_bytes(load)
        all_of = f", all that can be had of {format_size(need.bytes)}" if reserve_bytes < need.bytes else ""
        return f"it waits for {format_size(reserve_bytes)}{all_of} ({need.source}), number {number} in line"
