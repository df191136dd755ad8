"""Plans: what a load would do, and who would go for it. Nothing here changes anything.

Rules
1. A plan is what the load then does: `Admission` asks the same questions of the same books.
2. Whoever can go at once is enough, or nobody goes: nothing is evicted for a load that has to wait all the same.
3. A load that replaces a model needs room beside it, because that serves until the new one is ready.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hostd.core.charges import Kept, bytes_of, fewest
from hostd.core.lifecycle import ModelState
from hostd.records import Holder, LoadPlan
from hostd.units import format_size
from hostd_workers.wire.errors import HostError, ResourceExhaustedError

if TYPE_CHECKING:
    from hostd.core.charges import Charges
    from hostd.core.events import ModelId
    from hostd.core.models import Model
    from hostd.core.registry import Registry

HOPELESS = "and all else is kept for good"
"""When a load is refused that no waiting would help."""

_HOLDERS_NAMED = 10
"""In a message; its details have all of them."""


class Outcome(enum.Enum):
    """What becomes of a load that wants to start."""

    START = "start"
    EVICT = "evict"
    WAIT = "wait"
    REFUSE = "refuse"


@dataclass(frozen=True)
class Decision:
    """What the first in line does: whom it evicts, who is to make way once idle, and when to look again."""

    outcome: Outcome
    victims: tuple[Model, ...] = ()
    yielding: tuple[Model, ...] = ()
    look_again_s: float | None = None


_REASONS = {
    Outcome.START: "there is room for it",
    Outcome.EVICT: "others make way for it",
    Outcome.WAIT: "it waits until others can make way",
    Outcome.REFUSE: HOPELESS.removeprefix("and "),
}


class Planning:
    """The questions about what is to be done for a load."""

    def __init__(self, registry: Registry, charges: Charges) -> None:
        self._registry = registry
        self._charges = charges

    def plan(self, model_id: ModelId, need_bytes: int, need_source: str, in_line: int) -> LoadPlan:
        """Return what a load would do now, behind so many that wait in line."""
        registry, budget_bytes = self._registry, self._registry.config.budget_bytes
        loaded = registry.models.get(model_id)
        free_bytes = None if budget_bytes is None else self._charges.room(budget_bytes).free_bytes
        decision = Decision(Outcome.START)
        if loaded is not None and loaded.state is ModelState.UNLOADING:
            decision, reason = Decision(Outcome.WAIT), "it is being unloaded; load it when that is done"
        elif loaded is not None and loaded.state is not ModelState.FAILED:
            need_bytes, reason = 0, f"it is {loaded.state.value} already"
        elif budget_bytes is None:
            reason = "there is no budget (memory.budget)"
        elif in_line and not self.is_hopeless(model_id, need_bytes):
            decision, reason = Decision(Outcome.WAIT), f"loads that wait before it: {in_line}"
        else:
            decision = self.decide(model_id, need_bytes, registry.now)
            reason = _REASONS[decision.outcome]
        return LoadPlan(
            model_id,
            decision.outcome.value,
            need_bytes,
            need_source,
            budget_bytes,
            free_bytes,
            victims=tuple(map(self.holder, decision.victims)),
            holders=self.holders(without=decision.victims),
            reason=reason,
        )

    def holder(self, model: Model) -> Holder:
        """Return how much a model holds, and what keeps it."""
        kept = self._charges.kept(model)
        load_s = model.load_s if model.ready_s is not None else None
        return Holder(
            model.id, model.charge_bytes, self._charges.idle_s(model), load_s, "" if kept is None else kept.value
        )

    def holders(self, without: tuple[Model, ...] = ()) -> tuple[Holder, ...]:
        """Return who holds memory, the largest first."""
        registered = (*self._registry.models.values(), *self._registry.successors.values())
        models = [model for model in registered if model.charge_bytes and model not in without]
        return tuple(map(self.holder, sorted(models, key=lambda m: (-m.charge_bytes, m.id))))

    def refusal_of(self, model: Model, when: str) -> HostError:
        """Return the error of a load that is refused: what it needs, what is free, and who holds the rest."""
        budget_bytes = self._registry.config.budget_bytes or 0
        free_bytes = self._charges.room(budget_bytes).free_bytes
        holders = self.holders()
        return ResourceExhaustedError(
            f"model {model.id!r} needs {format_size(model.need_bytes)} ({model.need_source}), and "
            f"{format_size(max(free_bytes, 0))} of the budget of {format_size(budget_bytes)} are free {when}; "
            f"{_named(holders)}. Unload or unpin some, or raise memory.budget",
            details={
                "reason": "BUDGET",
                "model_id": model.id,
                "needed_bytes": model.need_bytes,
                "free_bytes": free_bytes,
                "budget_bytes": budget_bytes,
                "holders": [holder.to_dict() for holder in holders],
            },
        )

    def is_hopeless(self, model_id: ModelId, need_bytes: int) -> bool:
        """Say whether a load can never start. What it replaces serves until it is ready; the rest is kept for good."""
        registry, charges = self._registry, self._charges
        replaced = registry.models.get(model_id) if model_id in registry.successors else None
        kept_bytes = charges.kept_for_good_bytes(without=model_id)
        kept_bytes += 0 if replaced is None else charges.staying_bytes(replaced)
        return need_bytes > (registry.config.budget_bytes or 0) - kept_bytes

    def decide(self, model_id: ModelId, need_bytes: int, since_s: float) -> Decision:
        """Return what a load does that needs so much and has waited since then, if it is the first in line."""
        registry, charges = self._registry, self._charges
        room = charges.room(registry.config.budget_bytes or 0)
        short_bytes = need_bytes - room.free_bytes
        if short_bytes <= 0:
            return Decision(Outcome.START)
        if self.is_hopeless(model_id, need_bytes):
            return Decision(Outcome.REFUSE)
        short_bytes -= room.coming_bytes
        if short_bytes <= 0:
            return Decision(Outcome.WAIT)
        models = charges.by_what_keeps()
        idle = models.get(None, [])
        if bytes_of(idle) >= short_bytes:
            return Decision(Outcome.EVICT, victims=tuple(fewest(idle, short_bytes)))
        ripe, look_again_s = self.soon(models)
        patient_until_s = since_s + registry.config.min_residence_s
        if registry.now < patient_until_s:
            return Decision(Outcome.WAIT, look_again_s=min(patient_until_s, look_again_s or patient_until_s))
        missing_bytes = short_bytes - bytes_of(idle)
        yielding = fewest(ripe, missing_bytes) if bytes_of(ripe) >= missing_bytes else ()
        return Decision(Outcome.WAIT, yielding=tuple(yielding), look_again_s=look_again_s)

    def soon(self, models: dict[Kept | None, list[Model]]) -> tuple[list[Model], float | None]:
        """Return the models in use that make way if they are asked to, and when there may be others who would."""
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


def _named(holders: tuple[Holder, ...]) -> str:
    if not holders:
        return "nobody holds any"
    named = (f"{h.model_id!r} {format_size(h.bytes)}{f', {h.why}' if h.why else ''}" for h in holders[:_HOLDERS_NAMED])
    more = len(holders) - _HOLDERS_NAMED
    return f"the rest is held by {'; '.join(named)}{f'; and {more} more' if more > 0 else ''}"
