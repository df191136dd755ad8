"""Loads that outgrow what was reserved for them: they go on at once, are paused until there is room, or are put back.

Rules
1. A load that holds more than is reserved for it asks for half as much again. If that is free it goes on at once, else
   its processes are stopped: nothing grows over the budget for longer than it takes to see it.
2. Loads that have outgrown their reservations go before those that wait in line, in the order in which they came. The
   first decides which models are evicted, as the first in line does; the others stay paused, and nothing starts
   meanwhile.
3. If idle models are not enough for it, younger ones that have outgrown theirs are put back, the youngest first: they
   are killed, and in line again at their old place with what they held as their need. The oldest is never put back, so
   two loads cannot wait for each other.
4. A load that holds more than can ever be had for it is killed at once, also when it is done; one that is paused for as
   long as a load may wait, then. Neither is tried again, and that it needs more is remembered.
5. While a load is paused the clock of its load stands still; it can be unloaded, killed or die as at any other time.
   What it said just before it was stopped still counts.

Covers loads alone: models that serve and grow make others go (`Admission`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from hostd.core.deadlines import LoadTimer, WorkerTimer
from hostd.core.effects import RememberSize
from hostd.core.lifecycle import WorkerInput, WorkerState
from hostd.core.memory.planning import HOPELESS, Decision, Outcome
from hostd.core.models import LoadStep
from hostd.core.values import Need
from hostd.units import format_duration, format_size
from hostd_workers.wire.light_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from hostd.core.events import WorkerPauseFailed
    from hostd.core.memory.charges import Charges
    from hostd.core.memory.planning import Planning
    from hostd.core.models import Load, Model, Worker
    from hostd.core.registry import Registry
    from hostd_workers.wire.errors import HostError


@dataclass(frozen=True)
class Fail:
    """A load that has started ends with an error."""

    worker: Worker
    error: HostError


class Growing:
    """The loads that have outgrown their reservations."""

    def __init__(self, registry: Registry, charges: Charges, planning: Planning) -> None:
        self._registry = registry
        self._charges = charges
        self._planning = planning
        self.paused: dict[Worker, float] = {}
        """The loads that are paused, and since when."""
        self.pauses = 0
        self.refusals = 0

    def look(self) -> Generator[Fail, None, Decision | None]:
        """Let go on what can, pause the rest, and return what the first of them needs; None if there is none left."""
        self.paused = {worker: s for worker, s in self.paused.items() if worker.state is WorkerState.PAUSED}
        outgrown = self._charges.outgrown()
        while outgrown:
            worker, *younger = outgrown
            since_s = self.paused.get(worker, self._registry.now)
            decision = self._planning.decide_growth(worker, younger, since_s)
            if decision.outcome is Outcome.START:
                self._go_on(worker, self._planning.grown_bytes(worker, younger))
            elif decision.outcome is Outcome.REFUSE:
                yield self._end(worker, HOPELESS)
            else:
                for number, other in enumerate(outgrown, 1):
                    if other.state is WorkerState.LOADING and other.model not in decision.victims:
                        self._pause(other, number)
                return decision
            outgrown = younger
        return None

    def done(self, worker: Worker) -> Fail | None:
        """Return the end of a load that is done, if it holds more than can ever be had for it."""
        if self._registry.config.budget_bytes is None:
            return None
        younger = [other for other in self._charges.outgrown() if other.place > worker.place]
        is_hopeless = self._planning.is_hopeless(worker.model.id, worker.measured_bytes, younger)
        return self._end(worker, HOPELESS) if is_hopeless else None

    def put_back(self, load: Load, first: Model) -> None:
        """Kill a load that has outgrown its reservation for an older one; it waits in line again when it is gone."""
        registry, model = self._registry, load.model
        for worker in list(model.workers.values()):
            model.need = Need(worker.measured_bytes, "at least")
            load.step = LoadStep.PUT_BACK
            why = f"put back for the older load of model {first.id!r}: it held {_size(worker)} and needs more"
            registry.note(model, "PUT_BACK", why)
            registry.kill(worker, why, worker.memory)

    def expire(self, load: Load) -> Iterator[Fail]:
        """End a load that has been paused for too long."""
        for worker in list(load.model.workers.values()):
            waited_s = self._registry.now - self.paused[worker]
            yield self._end(worker, f"after a pause of {format_duration(waited_s)} (memory.admission_timeout_s)")

    def pause_failed(self, event: WorkerPauseFailed) -> Iterator[Fail]:
        """End a load that cannot be stopped: it would grow over the budget."""
        worker = self._registry.workers.get(event.worker_id)
        if worker is not None and worker.state is WorkerState.PAUSED:
            yield self._end(worker, f"and it cannot be paused: {event.reason}")

    def problems(self) -> list[str]:
        """Return what is wrong with these books; a question for `check_invariants`."""
        paused = [worker for worker in self._registry.workers.values() if worker.state is WorkerState.PAUSED]
        timers = self._registry.timers
        return [
            f"{worker!r} is paused and nothing ends that"
            for worker in paused
            if worker not in self.paused or LoadTimer(cast("Load", worker.model.load)) not in timers
        ]

    # Steps

    def _pause(self, worker: Worker, number: int) -> None:
        registry, model = self._registry, worker.model
        self.pauses += 1
        self.paused[worker] = registry.now
        worker.left_s = registry.timers.due_s(WorkerTimer(worker.id)) - registry.now
        registry.timers.cancel(WorkerTimer(worker.id))
        registry.timers.set(LoadTimer(cast("Load", model.load)), registry.now + registry.config.admission_timeout_s)
        registry.move_worker(worker, WorkerInput.PAUSE, "its load has outgrown what was reserved for it")
        why = (
            f"its load is paused until there is room for more, number {number} in line: it holds {_size(worker)}, "
            f"{format_size(model.need.bytes)} ({model.need.source}) were expected"
        )
        registry.note(model, "PAUSED", why)

    def _go_on(self, worker: Worker, reserve_bytes: int) -> None:
        registry = self._registry
        worker.reserved_bytes = reserve_bytes
        if worker.state is WorkerState.PAUSED:
            registry.timers.set(WorkerTimer(worker.id), registry.now + worker.left_s)
            waited = format_duration(registry.now - self.paused.pop(worker))
            why = f"its load goes on after a pause of {waited}: {format_size(reserve_bytes)} are reserved for it now"
            registry.move_worker(worker, WorkerInput.RESUME, "there is room for more")
            registry.note(worker.model, "RESUMED", why)
            if worker.loaded_s is not None:
                worker.loaded_s = registry.now
                registry.move_worker(worker, WorkerInput.LOADED, "loaded before it was paused, measuring")

    def _end(self, worker: Worker, when: str) -> Fail:
        model, registry = worker.model, self._registry
        error = self._planning.end_of(worker, when)
        if worker.memory is not None and model.source.path is not None and model.spec is not None:
            load_s = registry.now - worker.started_s
            registry.effects.append(RememberSize(model.source.path, model.spec, worker.memory, load_s, is_minimum=True))
        self.refusals += 1
        return Fail(worker, error)


def _size(worker: Worker) -> str:
    return format_size(worker.measured_bytes)
