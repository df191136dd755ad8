"""What the tests of the memory budget do, each in one short call: predictions, samples, pins, models in use."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from driver import BOB, CONFIG, LAZY, SPEC, Driver
from outside import Stage

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd_workers.wire.errors import HostError, ResourceExhaustedError

if TYPE_CHECKING:
    from hostd.core.config import CoreConfig

BUDGETED = dataclasses.replace(CONFIG, budget_bytes=10_000, lazy_load_retries=1)
LAZY_BUDGETED = dataclasses.replace(LAZY, budget_bytes=10_000)
KEPT = SPEC._replace(memory=ev.MemoryPolicy(is_evictable=False))
LIMITED = SPEC._replace(memory=ev.MemoryPolicy(limit_bytes=4000))
RESTLESS = SPEC._replace(memory=ev.MemoryPolicy(idle_ttl_s=5.0))


def is_refused(error: HostError) -> bool:
    """Say whether a load did not get its memory."""
    return isinstance(error, ResourceExhaustedError) and error.details["reason"] == "BUDGET"


class MemoryDriver(Driver):
    """A core with a memory budget of 10,000 bytes, and everything around it."""

    def __init__(self, config: CoreConfig = BUDGETED) -> None:
        super().__init__(config)

    def predicted(self, need_bytes: int, *, source: str = "remembered") -> None:
        """Say what the load that was found last needs at most."""
        wanted = self.predictions.pop()
        prediction = ev.Prediction(need_bytes, source)
        self.feed(ev.SizePredicted(wanted.model_id, wanted.generation, prediction))

    def predicted_load(
        self, model_id: str, need_bytes: int, spec: ev.LoadingSpec = SPEC, *, source: str = "remembered"
    ) -> ev.Caller:
        """Load a model until it is known what it needs, and return the caller that waits."""
        caller = self.load(model_id)
        self.found(spec)
        self.predicted(need_bytes, source=source)
        return caller

    def comes_up(self, model_id: str, taken_bytes: int, lane: ev.Lane | None = None) -> None:
        """Let the worker of a model load it, and hold so much then."""
        worker = self.worker_of(model_id)
        self.spawned(worker)
        self.greeted(worker)
        self.loaded(worker, lane=lane)
        self.sampled(taken_bytes, worker)

    def ready(self, model_id: str, taken_bytes: int, spec: ev.LoadingSpec = SPEC) -> ev.Caller:
        """Load a model that takes what was predicted."""
        caller = self.predicted_load(model_id, taken_bytes, spec)
        self.comes_up(model_id, taken_bytes)
        return caller

    def sampled(self, taken_bytes: int, worker: ev.WorkerId | None = None, *, asked_s: float | None = None) -> None:
        self.measured(worker, ev.Memory(1, taken_bytes, taken_bytes, None, taken_bytes), asked_s=asked_s)

    def died(self, death: ev.Death, worker: ev.WorkerId | None = None) -> None:
        """Have a worker killed by the system."""
        process = self._process(worker)
        process.stage = Stage.ENDED
        self.feed(ev.WorkerExited(process.id, "killed by SIGKILL", death))

    def in_use(self, model_id: str, taken_bytes: int) -> ev.Caller:
        """Load a model that takes what was predicted, and return the caller."""
        self.ready(model_id, taken_bytes)
        return self.busy(model_id)

    def busy(self, model_id: str) -> ev.Caller:
        """Have a model in use, and return the caller."""
        caller = self.call(model_id)
        assert self.sent(caller)
        return caller

    def end_call(self, caller: ev.Caller) -> None:
        self.answered(self.sent(caller))

    def worker_of(self, model_id: str) -> ev.WorkerId:
        """Return the worker that was ordered last for a model."""
        return max(process.id for process in self.processes.values() if process.model_id == model_id)

    def evicted(self) -> list[str]:
        """Return the models that the last event had evicted, in order."""
        events = [effect.event for effect in self.effects if isinstance(effect, fx.Announce)]
        return [event.model_id for event in events if event.cause == "EVICT"]

    def evict(self, model_id: str = "m") -> None:
        """Have a model evicted for the sake of one that is then unloaded."""
        self.ready(model_id, 8000)
        self.pass_time(2)
        self.predicted_load("other", 9000)
        assert self.evicted() == [model_id]
        self.unload("other", client=BOB)

    def evict_to_the_end(self, model_id: str = "m") -> None:
        """The same with the proof."""
        self.evict(model_id)
        self.gone(self.worker_of(model_id))
        assert self.state(model_id) is None

    def come_back(self, model_id: str = "m") -> None:
        """Let the load of an evicted model succeed."""
        self.found()
        self.predicted(8000)
        self.comes_up(model_id, 8000)
        assert self.state(model_id) == "READY"

    def loading(self, model_id: str, need_bytes: int, spec: ev.LoadingSpec = SPEC) -> ev.Caller:
        """Begin the load of a model up to the moment at which it takes memory, and return the caller that waits for it."""
        caller = self.predicted_load(model_id, need_bytes, spec, source="estimated")
        self.spawned()
        self.greeted()
        return caller

    def grows(self, model_id: str, taken_bytes: int) -> None:
        """Let the worker of a model hold so much."""
        self.sampled(taken_bytes, self.worker_of(model_id))

    def state_of(self, model_id: str) -> str | None:
        """Return the state of the worker of a model."""
        return self.worker_state(self.worker_of(model_id))

    def paused(self) -> ev.Caller:
        """Have a load of m that holds 5000 bytes wait for a model in use that holds 6000; return the caller that waits for it."""
        self.ready("busy", 6000)
        self.busy("busy")
        caller = self.loading("m", 1000)
        self.grows("m", 5000)
        assert self.state_of("m") == "PAUSED"
        assert self.effects_of(fx.PauseWorker) == [fx.PauseWorker(self.worker_of("m"))]
        return caller
