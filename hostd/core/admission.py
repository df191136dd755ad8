"""Admission: loads start only when there is memory for them, and models make way for others.

Rules
1. What all workers hold never rises above the budget by the host's own doing: a load starts when what it is predicted
   to need at most is free, and that is reserved for it.
2. Loads wait in the order in which they came. The first in line decides who makes way; nobody passes it, or a large
   load would never start.
3. Who can go at once goes at once; who comes free by itself, within `IDLE_LOOK_S`. A model in use makes way after the
   minimum residence: its new calls wait in the host, and it is evicted when the last call in flight has ended. Who
   called it is served by its next load. If that call does not end for the time that a load may wait, it serves on for
   as long, or calls would wait for ever.
4. What can never start (all else is kept for good) is refused at once; what has waited too long is refused with who
   holds the rest.
5. Growth counts. When models have grown over the budget, others make way for them in the same order; where that is not
   enough, the one that has grown most is named. Loads that outgrow their reservations go before the line (`Growing`).

Who goes, waits or is refused is decided in `Planning`, which changes nothing; here it is done.
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hostd.core.charges import fewest
from hostd.core.growing import Growing
from hostd.core.lifecycle import SERVING, ModelState
from hostd.core.planning import HOPELESS, Decision, Outcome
from hostd.core.timers import AdmissionTimer, IdleTimer, RoomTimer
from hostd.units import format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hostd.core.charges import Charges
    from hostd.core.models import Model, Worker
    from hostd.core.planning import Planning
    from hostd.core.registry import Registry
    from hostd_workers.wire.errors import HostError

IDLE_LOOK_S = 0.01
"""A look takes a millisecond with 200 models, and while a load waits each call of any of them may leave one idle."""


class Reason(enum.Enum):
    """Why a model is evicted."""

    LOAD = "LOAD"
    GROWTH = "GROWTH"
    IDLE = "IDLE"


@dataclass(frozen=True)
class Doing:
    """What admission has others do: start a load with a reservation, refuse one that has not started, end one that has.

    Also: evict a model, and release calls that waited for it.
    """

    start: Callable[[Model, int], None]
    refuse: Callable[[Model, HostError], None]
    fail: Callable[[Worker, HostError], None]
    evict: Callable[[Model, str], None]
    release: Callable[[Model], None]


class Admission:
    """The loads that wait for memory, and the models that make way."""

    def __init__(self, registry: Registry, charges: Charges, planning: Planning) -> None:
        self._registry = registry
        self._charges = charges
        self._planning = planning
        self.growing = Growing(registry, charges, planning, self._fail)
        self.doing: Doing
        """Set once, when those who do it are there."""
        self.queue: dict[Model, float] = {}
        """The loads that wait, in order, and since when."""
        self.over_budget: str | None = None
        """Who has grown over the budget, in words; None if nobody has."""
        self.evictions: Counter[str] = Counter()
        self.refusals = 0
        self.waits = 0
        self._yielding: list[Model] = []
        self._is_over = False
        self._places = 0
        self._idle_looked_s = -math.inf
        registry.load_ended.append(self._on_load_ended)

    def enter(self, model: Model) -> None:
        """Take a load that knows what it needs; it starts at once, later, or is refused."""
        self._places += 1
        model.place = self._places
        self._queue(model)

    def enter_again(self, model: Model) -> None:
        """Take a load that was put back: before those that came after it."""
        model.is_put_back = False
        self._queue(model)

    def _queue(self, model: Model) -> None:
        registry = self._registry
        self.queue[model] = registry.now
        self.queue = dict(sorted(self.queue.items(), key=lambda item: item[0].place))
        if self._planning.is_hopeless(model.id, self._to_reserve_bytes(model)):
            self._refuse(model, HOPELESS)
        else:
            self.look()
        if model in self.queue:
            self.waits += 1
            registry.timers.set(AdmissionTimer(model), registry.now + registry.config.admission_timeout_s)
            registry.note(model, "WAIT", self._why_waiting(model))

    @property
    def in_line(self) -> int:
        """How many loads a new one would wait for."""
        return len(self.queue) + len(self.growing.paused)

    def leave(self, model: Model) -> None:
        """Forget a load that is overtaken."""
        if model in self.queue:
            self._remove(model)
            self._registry.room_has_changed = True

    def expire(self, key: AdmissionTimer) -> None:
        """Refuse a load that has waited too long, or end it."""
        if key.model not in self.queue:
            self.growing.expire(key.model)
            self.look()
            return
        waited_s = self._registry.now - self.queue[key.model]
        self._refuse(key.model, f"after {format_duration(waited_s)} (memory.admission_timeout_s)")
        self.look()

    def measured(self) -> None:
        """See whether models have grown over the budget."""
        budget_bytes = self._registry.config.budget_bytes
        if budget_bytes is not None and not self._is_over and self._charges.total_bytes() > budget_bytes:
            self._is_over = self._registry.room_has_changed = True

    def _on_load_ended(self, model: Model, error: HostError | None) -> None:
        ttl_s = self._registry.idle_ttl_s(model)
        if error is None and ttl_s:
            self._registry.timers.set(IdleTimer(model), self._registry.now + ttl_s)

    def expire_idle(self, key: IdleTimer) -> None:
        """Evict a model that nobody has used for long enough, or look again when that may be so."""
        model, registry = key.model, self._registry
        ttl_s = registry.idle_ttl_s(model)
        due_s = self._charges.unused_since_s(model) + ttl_s  # what is left would be rounded, and never pass
        if self._charges.kept(model) is not None:
            registry.timers.set(key, registry.now + ttl_s)
        elif registry.now < due_s:
            registry.timers.set(key, due_s)
        else:
            self._evict(model, Reason.IDLE, f"because idle_ttl_s is {format_duration(ttl_s)}")

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
        self.measured()
        registry.room_has_changed = True

    def look(self) -> None:
        """Start what can start, and have others make way for what cannot."""
        registry = self._registry
        registry.room_has_changed = registry.somebody_is_idle = False
        budget_bytes = registry.config.budget_bytes
        if budget_bytes is None:
            return
        self._look(budget_bytes)
        registry.room_has_changed = False  # by what was just done, which took it into account

    def look_soon(self) -> None:
        """Look at who has become idle, but not at every such moment."""
        registry = self._registry
        registry.somebody_is_idle = False
        if not (self.queue or self.growing.paused or self._is_over or self._yielding):
            return
        again_s = self._idle_looked_s + IDLE_LOOK_S
        if registry.now >= again_s:
            self._idle_looked_s = registry.now
            self.look()
        else:
            registry.timers.bring_forward(RoomTimer(), again_s)

    def _look(self, budget_bytes: int) -> None:
        registry = self._registry
        registry.timers.cancel(RoomTimer())
        growth = self._let_grow()
        decisions = [self._relieve(budget_bytes), *self._work_off()] if growth is None else [growth]
        self._make_way([model for decision in decisions for model in decision.yielding])
        look_again_s = [decision.look_again_s for decision in decisions if decision.look_again_s is not None]
        look_again_s += [model.asked_s + registry.config.admission_timeout_s for model in self._yielding]
        if look_again_s:
            registry.timers.set(RoomTimer(), min(look_again_s))

    def problems(self) -> list[str]:
        """Return what is wrong with these books; a question for `check_invariants`."""
        found = [
            f"{model!r} waits for memory and is not a load that has not started"
            for model in self.queue
            if model.state is not ModelState.LOADING or model.workers or model.is_finding
        ]
        found += [f"{model!r} makes way and nobody knows" for model in self._unknown_yielding()]
        return found + self.growing.problems()

    def _unknown_yielding(self) -> list[Model]:
        return [m for m in self._registry.models.values() if m.is_yielding and m not in self._yielding]

    # Steps

    def _let_grow(self) -> Decision | None:
        """Have others make way for the first of the loads that have outgrown their reservations."""
        decision = self.growing.look()
        if decision is not None:
            first = self._charges.outgrown()[0].model
            for victim in decision.victims:
                if victim.state is ModelState.LOADING:
                    self.growing.put_back(victim, first)
                else:
                    self._evict(victim, Reason.LOAD, f"for the load of model {first.id!r}, which needs more")
        return decision

    def _work_off(self) -> Iterator[Decision]:
        """Start the loads that can start, in order; yield what is to be done for the first of those that cannot."""
        while self.queue:
            model, since_s = next(iter(self.queue.items()))
            reserve_bytes = self._to_reserve_bytes(model)
            decision = self._planning.decide(model.id, reserve_bytes, since_s)
            if decision.outcome is Outcome.START:
                self._remove(model)
                self.doing.start(model, reserve_bytes)
            elif decision.outcome is Outcome.REFUSE:
                self._refuse(model, HOPELESS)
            else:
                for victim in decision.victims:
                    self._evict(victim, Reason.LOAD, f"for {format_size(reserve_bytes)} of model {model.id!r}")
                yield decision
                return

    def _fail(self, worker: Worker, error: HostError) -> None:
        self.refusals += 1
        self.doing.fail(worker, error)

    def _to_reserve_bytes(self, model: Model) -> int:
        return self._planning.to_reserve_bytes(model.id, model.need_bytes, model.need_source)

    def _relieve(self, budget_bytes: int) -> Decision:
        """Have others make way for growth; return who else is to, once idle."""
        if not self._is_over:
            return Decision(Outcome.START)
        room, models = self._charges.room(budget_bytes), self._charges.by_what_keeps()
        if room.free_bytes >= 0:
            self._is_over, self.over_budget = False, None
            return Decision(Outcome.START)
        grower = max(self._registry.models.values(), key=lambda model: (model.grown_bytes, model.id))
        short_bytes = -room.free_bytes - room.coming_bytes
        for victim in fewest(models.get(None, []), short_bytes):
            short_bytes -= victim.charge_bytes
            self._evict(victim, Reason.GROWTH, f"because model {grower.id!r} has grown")
        if short_bytes <= 0:
            return Decision(Outcome.EVICT)
        if self.over_budget is None:
            self.over_budget = (
                f"models hold {format_size(-room.free_bytes)} more than the budget of {format_size(budget_bytes)}; "
                f"model {grower.id!r} has grown most, by {format_size(grower.grown_bytes)} since it was loaded"
            )
            self._registry.note(grower, "GROWN", self.over_budget)
        ripe, look_again_s = self._planning.soon(models)
        return Decision(Outcome.WAIT, yielding=tuple(fewest(ripe, short_bytes)), look_again_s=look_again_s)

    def _make_way(self, yielding: list[Model]) -> None:
        registry, previous, self._yielding = self._registry, self._yielding, yielding
        patience_s = registry.config.admission_timeout_s
        for model in yielding:
            if not model.is_yielding or registry.now >= model.asked_s + patience_s:
                model.asked_s = registry.now
            model.is_yielding = True
        for model in previous:
            if model not in yielding and model.is_yielding:
                model.is_yielding = False
                if registry.now < model.asked_s + patience_s:
                    model.asked_s = -math.inf  # it did not have to; else it serves on for a while
                if model.state in SERVING:
                    self.doing.release(model)

    def _evict(self, model: Model, reason: Reason, why: str) -> None:
        self.evictions[reason.value] += 1
        idle, reload = format_duration(self._charges.idle_s(model)), format_duration(model.load_s)
        self.doing.evict(
            model,
            f"evicted {why}: it held {format_size(model.charge_bytes)}, was unused for {idle}, and loads again in "
            f"{reload} when it is used",
        )

    def _remove(self, model: Model) -> None:
        del self.queue[model]
        self._registry.timers.cancel(AdmissionTimer(model))

    def _refuse(self, model: Model, when: str) -> None:
        self._remove(model)
        self.refusals += 1
        self.doing.refuse(model, self._planning.refusal_of(model, when))

    def _why_waiting(self, model: Model) -> str:
        number = len(self.growing.paused) + list(self.queue).index(model) + 1
        reserve_bytes = self._to_reserve_bytes(model)
        all_of = f", all that can be had of {format_size(model.need_bytes)}" if reserve_bytes < model.need_bytes else ""
        return f"it waits for {format_size(reserve_bytes)}{all_of} ({model.need_source}), number {number} in line"
