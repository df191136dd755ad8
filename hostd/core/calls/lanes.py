"""Direct lanes: clients of this machine that call a worker without the host, and what the host has to see to.

Rules
1. A client that may call a model is told the way to a worker that is READY (`Lane.address`), and uses it or not. Its
   request ends when it should send nothing more there.
2. A worker that a client was told of closes its lanes before it is ended, also if it seems idle, and while its model
   yields: it gives back what still comes, which its client sends to the host, and says when all that it had is over.
3. A client whose connection to a worker has ended asks what became of it. It hears what the callers by the host heard,
   once that is known.
4. Calls by lanes count as all others: when the host decides or is asked it reads them (`Lane.figures`), and when the
   worker ends they become the model's.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from hostd.core.bookkeeping.latencies import OTHER
from hostd.core.effects import Answer, CloseLanes, OpenLanes
from hostd.core.lifecycle import LaneState, WorkerState
from hostd.core.refusals import no_such_model, refusal_of
from hostd_workers.wire.errors import FailedPreconditionError, HostError, UnavailableError

if TYPE_CHECKING:
    from hostd.core.closing import Closing
    from hostd.core.events import LanesClosed
    from hostd.core.models import Model, Worker
    from hostd.core.registry import Registry
    from hostd.core.requests import FateRequested, LaneRequested
    from hostd.core.values import ClientId, Waiters, WorkerId

_MAY_OPEN: Final = (LaneState.UNUSED, LaneState.OPEN)

FATES_KEPT: Final = 1024
"""Of workers that have ended: a client asks at once, or after it has been stopped for a while."""


class Lanes:
    """The decisions about lanes."""

    def __init__(self, registry: Registry, closing: Closing) -> None:
        self._registry = registry
        self._closing = closing
        self._fates: OrderedDict[WorkerId, HostError] = OrderedDict()
        self._waiting: dict[WorkerId, Waiters] = {}

    def open(self, event: LaneRequested) -> None:
        """Tell a client the way to a worker. Raises `HostError` if there is none at present."""
        registry = self._registry
        model = registry.models.get(event.model_id)
        if model is None:
            raise no_such_model(event.model_id, registry)
        open_ = [worker for worker in model.ready if worker.lane_state in _MAY_OPEN]
        lanes = [(worker, address) for worker in open_ if worker.lane and (address := worker.lane.address) is not None]
        if model.is_yielding or not model.ready:
            raise refusal_of(model)
        if not lanes:
            raise FailedPreconditionError(f"the worker of model {model.id!r} takes calls from the host alone")
        worker, address = min(lanes, key=lambda pair: pair[0].in_flight)
        earlier = worker.lane_clients.pop(event.caller.client, None)
        if earlier is not None:
            registry.effects.append(Answer(earlier, None))
        worker.lane_clients[event.caller.client] = event.caller
        worker.lane_state = LaneState.OPEN
        registry.effects.append(Answer(event.caller, address, is_last=False))

    def closing(self, worker: Worker) -> bool:
        """Have a worker close its lanes, if there may be clients; say whether that is waited for."""
        self._tell(worker)
        if worker.lane_state is LaneState.OPEN:
            worker.lane_state = LaneState.CLOSING
            self._registry.effects.append(CloseLanes(worker.id))
        return worker.lane_state is LaneState.CLOSING

    def closed(self, event: LanesClosed) -> None:
        """Go on with a worker that has no call of a lane any more."""
        worker = self._registry.workers.get(event.worker_id)
        if worker is not None and worker.lane_state is LaneState.CLOSING:
            worker.lane_state = LaneState.CLOSED
            self.go_on(worker)
            self.release(worker.model)

    def go_on(self, worker: Worker) -> None:
        """See whether a worker that has ended a call, or all those of lanes, has any other."""
        registry = self._registry
        if worker.calls:
            return
        registry.model_idle(worker.model)
        if worker.state is WorkerState.DRAINING and worker.lane_state is not LaneState.CLOSING:
            self._closing.end(worker, "the last call in flight has ended")

    def hold(self, model: Model) -> None:
        """Have the clients of a model that is to yield call by the host, where their calls wait."""
        for worker in model.ready:
            self.closing(worker)

    def release(self, model: Model) -> None:
        """Let the clients of a model that stays call directly again."""
        for worker in model.ready:
            if worker.lane_state is LaneState.CLOSED and not model.is_yielding:
                worker.lane_state = LaneState.OPEN
                self._registry.effects.append(OpenLanes(worker.id))

    def fate(self, event: FateRequested) -> None:
        """Answer what became of a worker, as an error, once it is known. Raises `HostError`."""
        error = self._fates.get(event.worker_id)
        if error is not None:
            raise error
        if event.worker_id not in self._registry.workers:
            raise UnavailableError("the worker is not known any more; whether the call was begun is unknown")
        waiters = self._waiting.setdefault(event.worker_id, {})
        self._registry.waiting.add(waiters, event.caller, event.deadline_s)

    def ended(self, worker: Worker, error: HostError) -> None:
        """Keep what became of a worker, and tell those that have asked."""
        self._tell(worker)
        if self._fates.setdefault(worker.id, error) is error:
            while len(self._fates) > FATES_KEPT:
                self._fates.popitem(last=False)
            waiters = self._waiting.pop(worker.id, None)
            if waiters:
                self._registry.waiting.refuse(waiters, error)

    def lose_client(self, client: ClientId) -> None:
        """Forget a client that nobody can tell anything any more."""
        for worker in self._registry.workers.values():
            worker.lane_clients.pop(client, None)

    def _tell(self, worker: Worker) -> None:
        """Tell the clients of a worker to send nothing more there."""
        self._registry.effects += [Answer(caller, None) for caller in worker.lane_clients.values()]
        worker.lane_clients.clear()

    def settle(self, worker: Worker) -> None:
        """Make the calls of a worker's lanes its model's, once it has ended."""
        if worker.lane is not None:
            model, figures = worker.model, worker.lane.figures()
            model.totals.settle(figures)
            model.last_used_s = max(model.last_used_s or 0.0, figures.last_use_s) or None
            for method, counts, sum_s in worker.lane.by_method():
                model.latencies.merge(method or OTHER, counts, sum_s)
            worker.lane = None

    def problems(self) -> list[str]:
        """Return what is wrong with these books; a question for `check_invariants`."""
        workers = self._registry.workers
        found = [
            f"callers wait for the fate of worker {worker_id}, which is known"
            for worker_id in self._waiting
            if worker_id not in workers or worker_id in self._fates
        ]
        for worker in workers.values():
            is_told, lanes = bool(worker.lane_clients), worker.lane_state
            is_wrong = {
                "drains and waits for nothing": (
                    worker.state is WorkerState.DRAINING and not worker.calls and lanes is not LaneState.CLOSING
                ),
                "has clients, and its lanes are not open": is_told and lanes is not LaneState.OPEN,
                "is to yield or to end, and its lanes are open": (
                    lanes is LaneState.OPEN
                    and (
                        worker.state in (WorkerState.DRAINING, WorkerState.CLOSING)
                        or (worker in worker.model.ready and worker.model.is_yielding)
                    )
                ),
            }
            found += [f"{worker!r} {problem}" for problem, is_so in is_wrong.items() if is_so]
        return found
