"""What holds how much of the memory budget, and what could give it back.

Rules
1. A worker counts from the decision to spawn it until the proof that it is gone: with what is reserved for it or with
   what it was measured to hold, whichever is more. The reservation ends with the measurement that makes it READY.
2. A model may be evicted only if it serves and nobody keeps it: no pin, no setting, no call in flight, no load, no move
   of its files, and it has been there for the minimum residence.
3. The model with the lowest score is evicted first: reload seconds / (bytes x idle seconds). That is GreedyDual-Size
   (Cao and Irani 1997), cost by size, with the idle time in place of its ageing. Equal ones are ordered by name, so
   that a plan is what then happens.
"""

from __future__ import annotations

import enum
from collections import Counter
from typing import TYPE_CHECKING

from hostd.core.bookkeeping.templates import TemplateState
from hostd.core.lifecycle import ModelState, WorkerState
from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from hostd.core.bookkeeping.templates import Template
    from hostd.core.events import ModelId
    from hostd.core.models import Model, Worker
    from hostd.core.registry import Registry

_LEAVING = (WorkerState.DRAINING, WorkerState.CLOSING, WorkerState.KILLING)

_INSTANT = 1e-6
"""For a model that was used just now, or loaded in no time that a clock could tell."""


class Kept(enum.Enum):
    """What keeps a model from being evicted."""

    PINNED = "it is pinned"
    NOT_EVICTABLE = "its model.yaml says that it is not evictable"
    LOADING = "it is being loaded"
    UNLOADING = "it is being unloaded"
    FAILED = "it has failed"
    IN_WORK = "its files are being moved"
    IN_USE = "it is in use"
    FRESH = "it has just been loaded"


FOR_GOOD = (Kept.PINNED, Kept.NOT_EVICTABLE)
"""What no waiting changes."""


_ENDING = {ModelState.UNLOADING: Kept.UNLOADING, ModelState.FAILED: Kept.FAILED}


class Headroom(NamedTuple):
    """What is free of the budget (less than 0: models have grown over it), and what is on its way out."""

    free_bytes: int
    coming_bytes: int


class Charges:
    """The questions about the budget; they change nothing. Only for a host with one."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def total_bytes(self) -> int:
        """Return what all workers and templates hold together."""
        return self.templates_bytes() + sum(worker.charge_bytes for worker in self._registry.workers.values())

    def headroom(self, budget_bytes: int) -> Headroom:
        """Return what there is at this moment."""
        coming_bytes = total_bytes = 0
        for worker in self._registry.workers.values():
            charge_bytes = worker.charge_bytes
            total_bytes += charge_bytes
            coming_bytes += charge_bytes if worker.state in _LEAVING else 0
        total_bytes += self.templates_bytes()
        for template in self._registry.templates.values():
            coming_bytes += template.held_bytes if template.state is TemplateState.ENDING else 0
        return Headroom(budget_bytes - total_bytes, coming_bytes)

    def templates_bytes(self) -> int:
        """Return what all templates hold. The pages of one that is gone are its last worker's, which is measured."""
        workers = Counter(worker.template for worker in self._registry.workers.values())
        return sum(
            template.held_bytes
            for template in self._registry.templates.values()
            if template.state is not TemplateState.GONE or workers[template] > 1
        )

    def unused_templates(self, *, without: Collection[Model] = ()) -> list[Template]:
        """Return the templates that have no worker, but such as are on their way out, or of the models `without`."""
        staying = (worker for worker in self._registry.workers.values() if worker.state not in _LEAVING)
        used = {worker.template for worker in staying if worker.model not in without}
        return [t for t in self._registry.templates.values() if t not in used and t.state is TemplateState.READY]

    def unused_templates_bytes(self, *, without: Collection[Model] = ()) -> int:
        """Return what these hold together."""
        return sum(template.held_bytes for template in self.unused_templates(without=without))

    def kept(self, model: Model) -> Kept | None:
        """Return what keeps a model from being evicted now, the most lasting reason first; None if nothing does."""
        if model.state in _ENDING:
            return _ENDING[model.state]
        if model.is_pinned:
            return Kept.PINNED
        if model.spec is not None and not model.spec.memory.is_evictable:
            return Kept.NOT_EVICTABLE
        return Kept.LOADING if model.load is not None else self._kept_for_now(model)

    def _kept_for_now(self, model: Model) -> Kept | None:
        registry = self._registry
        if model.id in registry.reserved or model.id in registry.successors:
            return Kept.IN_WORK
        if any(worker.in_flight for worker in model.workers.values()):
            return Kept.IN_USE
        return Kept.FRESH if registry.now < self.resident_until_s(model) else None

    def has_lanes_in_use(self) -> bool:
        """Say whether a model is in use of which no event tells the end."""
        return any(worker.lane and worker.lane.figures().in_flight for worker in self._registry.workers.values())

    def resident_until_s(self, model: Model) -> float:
        """Return until when a model that has been loaded may not be evicted."""
        return (model.loaded.at_s if model.loaded else 0.0) + self._registry.config.min_residence_s

    def idle_s(self, model: Model) -> float:
        """Return for how long nobody has used a model."""
        return max(0.0, self._registry.now - self.unused_since_s(model))

    def unused_since_s(self, model: Model) -> float:
        """Return when a model was used last, or was loaded."""
        return model.used_s or (model.loaded.at_s if model.loaded else model.created_s)

    def eviction_score(self, model: Model) -> tuple[float, ModelId]:
        """Return what a model is worth keeping; the least goes first."""
        gain = max(model.charge_bytes, 1) * max(self.idle_s(model), _INSTANT)
        return max(model.loaded.took_s if model.loaded else 0.0, _INSTANT) / gain, model.id

    def rank(self, model: Model) -> int | None:
        """Return the place of a model, from 1, in the order in which models would be evicted; None if it is kept."""
        if self.kept(model) is not None:
            return None
        score = self.eviction_score(model)
        models = [other for other in self._registry.models.values() if other.charge_bytes and self.kept(other) is None]
        return 1 + sum(self.eviction_score(other) < score for other in models)

    def by_what_keeps(self) -> dict[Kept | None, list[Model]]:
        """Return the models that hold memory by what keeps them (None: nothing does).

        Those that may go soon or now are in the order in which they would.
        """
        found: dict[Kept | None, list[Model]] = {}
        for model in self._registry.models.values():
            if model.charge_bytes:
                found.setdefault(self.kept(model), []).append(model)
        for kept in (None, Kept.IN_USE, Kept.FRESH):
            found.get(kept, []).sort(key=self.eviction_score)
        return found

    def kept_for_good_bytes(self, *, without: Collection[ModelId] = ()) -> int:
        """Return what no waiting gives back; what is on its way out is no part of that."""
        models = self._registry.models.values()
        return sum(self.staying_bytes(m) for m in models if m.id not in without and self.kept(m) in FOR_GOOD)

    def outgrown(self) -> list[Worker]:
        """Return the loads that hold more than is reserved for them, and those that are paused for it, oldest first."""
        return sorted(filter(_is_outgrown, self._registry.workers.values()), key=lambda worker: worker.place)

    def staying_bytes(self, model: Model) -> int:
        """Return what a model holds without what is on its way out."""
        return sum(worker.charge_bytes for worker in model.workers.values() if worker.state not in _LEAVING)


def _is_outgrown(worker: Worker) -> bool:
    if worker.state is WorkerState.PAUSED:
        return True
    is_growing = worker.state is WorkerState.LOADING and worker.loaded_s is None
    return is_growing and worker.measured_bytes > worker.reserved_bytes


def bytes_of(models: Iterable[Model]) -> int:
    """Return what models hold together."""
    return sum(model.charge_bytes for model in models)


def fewest(candidates: list[Model], short_bytes: int) -> list[Model]:
    """Return the first of `candidates` that together hold `short_bytes`, without those that are not needed for it.

    `candidates` are in the order in which they should go. One that holds much may make earlier ones unnecessary: then
    the most worthy of these stay.
    """
    chosen: list[Model] = []
    for model in candidates:
        if bytes_of(chosen) >= short_bytes:
            break
        chosen.append(model)
    for model in reversed(chosen[:]):
        if bytes_of(chosen) - model.charge_bytes >= short_bytes:
            chosen.remove(model)
    return chosen
