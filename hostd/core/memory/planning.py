"""Plans: what a load would do, and what would go for it. Nothing here changes anything.

Rules
1. A plan is what the load then does: `Admission` asks the same questions of the same books.
2. What can go at once is enough, or none of it goes: nothing is evicted for a load that has to wait all the same.
3. A load that replaces a model needs room beside it, because that serves until the new one is ready.
4. What is known to be too large is refused. What is only estimated to be is tried: with all that can be had for it.
5. A load that has outgrown what was reserved for it gets half as much again, so that this happens seldom and wastes
   little; or what is free, if that is a tenth. Younger loads that have outgrown theirs are put back for it if idle
   models are not enough even for a tenth.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from hostd.core.memory.charges import Kept, bytes_of, fewest
from hostd.core.models import ESTIMATES
from hostd.core.refusals import OverBudget, over_budget
from hostd.records import Holder, LoadPlan
from hostd.units import format_size
from hostd_workers.wire.light_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from hostd.core.events import ModelId
    from hostd.core.memory.charges import Charges
    from hostd.core.models import Model, Worker
    from hostd.core.registry import Registry
    from hostd.core.values import Need
    from hostd_workers.wire.errors import HostError

HOPELESS = "and all else is kept for good"
"""When a load is refused that no waiting would help."""

_GROWTH = 1.5
_LEAST_GROWTH = 1.1
"""What a load that outgrows its reservation gets, as a multiple of what it holds, and with what it is content."""


class Outcome(enum.Enum):
    """What becomes of a load that wants to start."""

    START = "start"
    EVICT = "evict"
    WAIT = "wait"
    REFUSE = "refuse"


@dataclass(frozen=True)
class Decision:
    """What the first in line does: what it evicts, what is to yield once idle, and when to look again."""

    outcome: Outcome
    victims: tuple[Model, ...] = ()
    yielding: tuple[Model, ...] = ()
    look_again_s: float | None = None


_REASONS = {
    Outcome.START: "there is room for it",
    Outcome.EVICT: "others yield for it",
    Outcome.WAIT: "it waits until others can yield",
    Outcome.REFUSE: HOPELESS.removeprefix("and "),
}


class Planning:
    """The questions about what is to be done for a load."""

    def __init__(self, registry: Registry, charges: Charges) -> None:
        self._registry = registry
        self._charges = charges

    def plan(self, model_id: ModelId, need: Need, in_line: int) -> LoadPlan:
        """Return what a load would do now, behind so many that wait in line."""
        registry, budget_bytes = self._registry, self._registry.config.budget_bytes
        loaded = registry.intact(model_id)
        free_bytes = None if budget_bytes is None else self._charges.headroom(budget_bytes).free_bytes
        decision = Decision(Outcome.START)
        need_bytes = self.to_reserve_bytes(model_id, need)
        if loaded is not None and loaded.unload is not None:
            decision, reason = Decision(Outcome.WAIT), "it is being unloaded; load it when that is done"
        elif loaded is not None:
            need_bytes, reason = 0, f"it is {loaded.state.value} already"
        elif budget_bytes is None:
            reason = "there is no budget (memory.budget)"
        elif in_line and not self.is_hopeless(model_id, need_bytes):
            decision, reason = Decision(Outcome.WAIT), f"loads that wait before it: {in_line}"
        else:
            decision = self.decide(model_id, need_bytes, registry.now)
            reason = _REASONS[decision.outcome]
        if 0 < need_bytes < need.bytes:
            reason += f"; it is {need.source} to need {format_size(need.bytes)}, and is tried with what there is"
        return LoadPlan(
            model_id,
            decision.outcome.value,
            need_bytes,
            need.source,
            budget_bytes,
            free_bytes,
            victims=tuple(map(self.holder, decision.victims)),
            holders=self.holders(without=decision.victims),
            reason=reason,
        )

    def holder(self, model: Model) -> Holder:
        """Return how much a model holds, and what keeps it."""
        kept = self._charges.kept(model)
        took_s = model.loaded and model.loaded.took_s
        return Holder(
            model.id, model.charge_bytes, self._charges.idle_s(model), took_s, "" if kept is None else kept.value
        )

    def holders(self, without: tuple[Model, ...] = ()) -> tuple[Holder, ...]:
        """Return what holds memory, the largest first."""
        registered = (*self._registry.models.values(), *self._registry.successors.values())
        models = [model for model in registered if model.charge_bytes and model not in without]
        return tuple(map(self.holder, sorted(models, key=lambda m: (-m.charge_bytes, m.id))))

    def refusal_of(self, model: Model, when: str) -> HostError:
        """Return the error of a load that is refused: what it needs, what is free, and what holds the rest."""
        return over_budget(self._over_budget(model, model.need.bytes, when))

    def end_of(self, worker: Worker, when: str) -> HostError:
        """Return the error of a load that is ended because there is no room for what it has grown to."""
        return over_budget(self._over_budget(worker.model, worker.measured_bytes, when), is_measured=True)

    def _over_budget(self, model: Model, needed_bytes: int, when: str) -> OverBudget:
        budget_bytes = self._registry.config.budget_bytes or 0
        free_bytes = self._charges.headroom(budget_bytes).free_bytes
        return OverBudget(model, needed_bytes, free_bytes, budget_bytes, self.holders(without=(model,)), when)

    def is_hopeless(self, model_id: ModelId, need_bytes: int, younger: Sequence[Worker] = ()) -> bool:
        """Say whether so much can never be had for a load, even if the `younger` ones are put back."""
        return need_bytes > self._at_most_bytes(model_id, [worker.model.id for worker in younger])

    def to_reserve_bytes(self, model_id: ModelId, need: Need) -> int:
        """Return what is reserved for a load: what it needs, or all that can be had if that is only an estimate."""
        at_most_bytes = self._at_most_bytes(model_id)
        return min(need.bytes, at_most_bytes) if need.source in ESTIMATES and at_most_bytes > 0 else need.bytes

    def _at_most_bytes(self, model_id: ModelId, put_back: Collection[ModelId] = ()) -> int:
        """Return what can be had for a load at most: what it replaces serves until it is ready, and some is kept."""
        registry, charges = self._registry, self._charges
        replaced = registry.models.get(model_id) if model_id in registry.successors else None
        kept_bytes = charges.kept_for_good_bytes(without={model_id, *put_back})
        kept_bytes += 0 if replaced is None else charges.staying_bytes(replaced)
        return (registry.config.budget_bytes or 0) - kept_bytes

    def grown_bytes(self, worker: Worker, younger: Sequence[Worker]) -> int:
        """Return what is to be reserved for a load that has outgrown its reservation and may go on."""
        free_bytes = self._charges.headroom(self._registry.config.budget_bytes or 0).free_bytes
        return min(self._grown_bytes(worker, younger, _GROWTH), worker.charge_bytes + free_bytes)

    def _grown_bytes(self, worker: Worker, younger: Sequence[Worker], growth: float) -> int:
        if worker.loaded_s is not None:  # it said so while it was being paused, and needs no more
            return worker.measured_bytes
        at_most_bytes = self._at_most_bytes(worker.model.id, [other.model.id for other in younger])
        return min(int(worker.measured_bytes * growth) + 1, at_most_bytes)

    def decide_growth(self, worker: Worker, younger: Sequence[Worker], since_s: float) -> Decision:
        """Return what becomes of the oldest load that has outgrown its reservation, and which younger ones it ends."""
        if self.is_hopeless(worker.model.id, worker.measured_bytes, younger):
            return Decision(Outcome.REFUSE)
        put_back = tuple(other.model for other in reversed(younger))
        headroom = self._charges.headroom(self._registry.config.budget_bytes or 0)
        least_bytes, most_bytes = (
            self._grown_bytes(worker, younger, growth) - worker.charge_bytes for growth in (_LEAST_GROWTH, _GROWTH)
        )
        if least_bytes > headroom.free_bytes + headroom.coming_bytes:
            decision = self._make_room(most_bytes, since_s, put_back)
            if decision.outcome is Outcome.EVICT:
                return decision
        return self._make_room(least_bytes, since_s, put_back)

    def decide(self, model_id: ModelId, need_bytes: int, since_s: float) -> Decision:
        """Return what a load does that needs so much and has waited since then, if it is the first in line."""
        decision = self._make_room(need_bytes, since_s)
        is_hopeless = decision.outcome is not Outcome.START and self.is_hopeless(model_id, need_bytes)
        return Decision(Outcome.REFUSE) if is_hopeless else decision

    def _make_room(self, more_bytes: int, since_s: float, put_back: tuple[Model, ...] = ()) -> Decision:
        registry, charges = self._registry, self._charges
        headroom = charges.headroom(registry.config.budget_bytes or 0)
        short_bytes = more_bytes - headroom.free_bytes
        if short_bytes <= 0:
            return Decision(Outcome.START)
        # Templates that nobody needs go before any model (`Admission`).
        short_bytes -= headroom.coming_bytes + charges.unused_templates_bytes()
        if short_bytes <= 0:
            return Decision(Outcome.WAIT)
        models = charges.by_what_keeps()
        idle = [*models.get(None, []), *put_back]
        if bytes_of(idle) >= short_bytes:
            return Decision(Outcome.EVICT, victims=tuple(fewest(idle, short_bytes)))
        with_templates = self._with_templates(idle, short_bytes)
        if with_templates:
            return Decision(Outcome.EVICT, victims=with_templates)
        ripe, look_again_s = self.soon(models)
        patient_until_s = since_s + registry.config.min_residence_s
        if registry.now < patient_until_s:
            return Decision(Outcome.WAIT, look_again_s=min(patient_until_s, look_again_s or patient_until_s))
        missing_bytes = short_bytes - bytes_of(idle)
        yielding = fewest(ripe, missing_bytes) if bytes_of(ripe) >= missing_bytes else ()
        return Decision(Outcome.WAIT, yielding=tuple(yielding), look_again_s=look_again_s)

    def _with_templates(self, idle: list[Model], short_bytes: int) -> tuple[Model, ...]:
        """Return the fewest models that free so much with their templates; none if all do not."""
        short_bytes += self._charges.unused_templates_bytes()  # which go anyway, and were taken into account

        def is_enough(models: list[Model]) -> bool:
            return bytes_of(models) + self._charges.unused_templates_bytes(without=models) >= short_bytes

        chosen = idle[:] if is_enough(idle) else []
        for model in reversed(chosen[:]):
            rest = [other for other in chosen if other is not model]
            if is_enough(rest):
                chosen = rest
        return tuple(chosen)

    def soon(self, models: dict[Kept | None, list[Model]]) -> tuple[list[Model], float | None]:
        """Return the models in use that yield if they are asked to, and when there may be others that would."""
        now, patience_s = self._registry.now, self._registry.config.admission_timeout_s
        ripe, changes_s = [], []
        for model in (*models.get(Kept.IN_USE, ()), *models.get(Kept.FRESH, ())):
            ripe_s, given_up_s = self._charges.resident_until_s(model), model.asked_s + patience_s
            if given_up_s <= now:
                ripe_s = max(ripe_s, given_up_s + patience_s)
            changes_s.append(ripe_s)
            if ripe_s <= now:
                ripe.append(model)
        return ripe, min((at_s for at_s in changes_s if at_s > now), default=None)
