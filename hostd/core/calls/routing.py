"""Calls: from a client to a READY worker and back, each with exactly one end.

Rules
1. A call is in `calls` from the moment it is forwarded until its one end: a final answer, an error, a deadline, a
   cancellation, the death of its worker, or the loss of its client. Whatever comes for a call that is not there is late
   and is dropped.
2. A client may not use a request id again while it is in use.
3. Every refusal says in which state the model is and why.
4. With lazy loading, and if the host has evicted it, a call of a model that is not loaded begins its load, and calls
   wait for it (`PendingCalls`). They wait as well for a model that yields for another one.
5. A worker ends each call that it was sent, also one that nobody waits for any more; until then it is in `Worker.left`.
6. Calls and bytes count until the worker has ended them, not until nobody waits: a model that hangs cannot fill the
   host. One client that calls much leaves places for the calls of others (`shares`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hostd.core.bookkeeping.by_client import ByClient
from hostd.core.bookkeeping.shares import ClientShares
from hostd.core.calls.pending import PendingCalls
from hostd.core.deadlines import GoneTimer
from hostd.core.effects import ForwardCall, ForwardCancel, ForwardCredit, ForwardFeed, RelayAnswer
from hostd.core.events import (
    CallCancelled,
    Caller,
    CallId,
    CallReceived,
    ClientId,
    CreditGranted,
    FeedReceived,
    WorkerAnswered,
    WorkerUnreachable,
)
from hostd.core.lifecycle import ModelState
from hostd.core.models import Call
from hostd.core.refusals import refusal_of
from hostd_workers.wire.errors import (
    CancelledError,
    DeadlineExceededError,
    HostError,
    InvalidArgumentError,
    ResourceExhaustedError,
    UnavailableError,
    UnimplementedError,
)
from hostd_workers.wire.shares import check_bytes, check_in_flight

if TYPE_CHECKING:
    from hostd.core.calls.lanes import Lanes
    from hostd.core.deadlines import HeldTimer
    from hostd.core.happenings import LoadEnded, UnloadEnded
    from hostd.core.loading import Loading
    from hostd.core.models import Model, Worker
    from hostd.core.registry import Registry


_WORTH_WAITING = (ModelState.LOADING, ModelState.UNLOADING)
"""With lazy loading a model in these states serves soon: what is being unloaded is loaded again on use."""

GONE_AT_ONCE: Final = 256
"""Calls of a client that has gone which end at once. Each tells its worker: ten thousand take 50 ms of everybody's."""

GONE_PAUSE_S: Final = 0.001


class Router:
    """The table of calls in flight."""

    def __init__(self, registry: Registry, loading: Loading, lanes: Lanes) -> None:
        """Take the registry, and the decisions about loads."""
        self._registry = registry
        self._loading = loading
        self._lanes = lanes
        self.bytes = ClientShares()
        """The bytes of all calls that the host has: held, sent to a worker, or left by their callers."""
        self.pending = PendingCalls(registry, self.bytes)
        self.calls: dict[CallId, Call] = {}
        self.by_caller: ByClient[CallId] = ByClient()
        self._count = 0

    def call(self, event: CallReceived, *, was_held: bool = False) -> None:
        """Forward a call to the READY worker with the least to do, or refuse it.

        The bytes of one that `was_held` were let in when it came.
        """
        registry = self._registry
        caller = Caller(event.client, event.request_id)
        model = registry.models.get(event.model_id)
        try:
            worker = None
            if model is not None and model.ready and not model.is_yielding:
                worker = self._choose(model, event, caller)
            else:
                self._check_may_wait(event, caller)
            if not was_held:
                check_bytes(self.bytes, event.client, event.size_bytes, registry.config.max_in_flight_bytes)
            if worker is None:
                self.pending.hold(event, caller)
                return
        except HostError as error:
            registry.refuse(caller, error)
            return
        now = registry.now
        self._count += 1
        call_id = CallId(self._count)
        self.calls[call_id] = Call(call_id, caller, worker, event.size_bytes, now, event.method)
        self.by_caller[caller] = call_id
        self.bytes.take(event.client, event.size_bytes)
        worker.calls.add(call_id)
        worker.shares.take(event.client)
        worker.model.totals.calls += 1
        worker.model.last_used_s = now
        remaining_s = None
        if event.deadline_s is not None:
            remaining_s = event.deadline_s - now
            registry.timers.set(call_id, event.deadline_s)
        registry.effects.append(ForwardCall(worker.id, call_id, remaining_s, event.payload))

    def answered(self, event: WorkerAnswered) -> None:
        """Relay what a worker sent, and end the call with what is final."""
        call = self.calls.get(event.call_id)
        if call is None or call.worker.id != event.worker_id:
            worker = self._registry.workers.get(event.worker_id)
            if worker is not None and event.final:
                self._end_left(worker, event.call_id)
            return
        if event.final:
            self._forget(call)
            duration_s = self._registry.now - call.began_s
            call.worker.model.latencies.add(call.method, duration_s)
            call.worker.model.totals.ended(duration_s, failed=event.failed)
        self._registry.effects.append(RelayAnswer(call.caller.client, call.caller.request_id, event.payload))

    def cancelled(self, event: CallCancelled) -> None:
        """End a call that its client does not want any more."""
        error = CancelledError("the call was cancelled by its caller")
        call = self._of(event.caller)
        if call is not None:
            self._leave(call, "its caller has cancelled it")
            call.worker.model.totals.cancelled += 1
            self._registry.refuse(call.caller, error)
        elif event.caller in self.pending.by_caller:
            self.pending.dismiss(event.caller, error)

    def credited(self, event: CreditGranted) -> None:
        """Pass a stream's credit on to its worker."""
        call = self._of(event.caller)
        if call is not None:
            self._registry.effects.append(ForwardCredit(call.worker.id, call.id, event.items))

    def fed(self, event: FeedReceived) -> None:
        """Pass on what a client feeds a call with; one that was not begun has not asked for it."""
        call = self._of(event.caller)
        if call is not None:
            self._registry.effects.append(ForwardFeed(call.worker.id, call.id, event.payload))

    def unreachable(self, event: WorkerUnreachable) -> None:
        """End a call that could not be sent to its worker, or of which a part could not."""
        error: HostError = UnavailableError("the model's worker lost its connection; the call was not sent")
        if event.is_full:
            error = ResourceExhaustedError(
                "the queue of the model's worker is full: call more slowly, or load replicas"
            )
        call = self.calls.get(event.call_id)
        if event.has_begun:
            if call is not None:
                self._leave(call, "what its caller has sent could not be passed on")
                self._fail(call, error)
            return
        worker = self._registry.workers.get(event.worker_id)
        if worker is not None:
            self._end_left(worker, event.call_id)
        self.fail(event.call_id, error)

    def expire(self, call_id: CallId) -> None:
        """End a call at its deadline."""
        call = self.calls[call_id]
        self._leave(call, "its deadline has passed")
        self._fail(call, DeadlineExceededError("the deadline passed before the model answered"))

    def expire_held(self, key: HeldTimer) -> None:
        """End a call at its deadline, before its model was loaded."""
        self.pending.dismiss(key.caller, DeadlineExceededError("the deadline passed before the model was loaded"))

    def fail(self, call_id: CallId, error: HostError) -> None:
        """End a call with an error of ours."""
        call = self.calls.get(call_id)
        if call is not None:
            self._forget(call)
            self._fail(call, error)

    def _fail(self, call: Call, error: HostError) -> None:
        call.worker.model.totals.ended(self._registry.now - call.began_s, failed=True)
        self._registry.refuse(call.caller, error)

    def fail_all(self, worker: Worker, error: HostError) -> None:
        """End every call that a worker has."""
        for call_id in sorted(worker.calls):
            self.fail(call_id, error)
        self._lanes.ended(worker, error)

    def lose_client(self, client: ClientId) -> None:
        """End the calls of a client that nobody can answer any more: many of them a slice at a time."""
        left = GONE_AT_ONCE - self.pending.lose_client(client, GONE_AT_ONCE)
        callers = self.by_caller.of(client, left)
        for caller in callers:
            call = self.calls[self.by_caller[caller]]
            self._leave(call, "its caller has gone")
            call.worker.model.totals.cancelled += 1
        if len(callers) == left:
            self._registry.timers.set(GoneTimer(client), self._registry.now + GONE_PAUSE_S)

    def worker_gone(self, worker: Worker) -> None:
        """Forget what a worker that has ended was told to leave."""
        for call_id in list(worker.left):
            self._end_left(worker, call_id)

    def _leave(self, call: Call, why: str) -> None:
        """Tell a worker that nobody waits for a call, and remember it until the worker has ended it.

        A plain method runs to its end, however long that takes.
        """
        worker = call.worker
        worker.left[call.id] = call._replace(left=why)
        worker.shares.take(call.caller.client)
        self.bytes.take(call.caller.client, call.size_bytes)
        self._registry.effects.append(ForwardCancel(worker.id, call.id))
        self._forget(call)  # perhaps its last: then it is to close its model, and must have heard of this before

    def _end_left(self, worker: Worker, call_id: CallId) -> None:
        left = worker.left.pop(call_id, None)
        if left is not None:
            worker.shares.give_back(left.caller.client)
            self.bytes.give_back(left.caller.client, left.size_bytes)

    def _of(self, caller: Caller) -> Call | None:
        call_id = self.by_caller.get(caller)
        return None if call_id is None else self.calls[call_id]

    def _forget(self, call: Call) -> None:
        del self.calls[call.id]
        self.by_caller.pop(call.caller)
        self.bytes.give_back(call.caller.client, call.size_bytes)
        self._registry.timers.cancel(call.id)
        worker = call.worker
        worker.calls.discard(call.id)
        worker.shares.give_back(call.caller.client)
        worker.model.last_used_s = self._registry.now
        self._lanes.go_on(worker)

    def _check_may_wait(self, event: CallReceived, caller: Caller) -> None:
        """See to it that a model that serves nobody now will do so. Raises `HostError` if it will not."""
        self._check_call(event, caller)
        model = self._loading.wanted(event.model_id)
        if not model.is_yielding and (model.state not in _WORTH_WAITING or not self._registry.is_loaded_on_use(model)):
            raise refusal_of(model)

    def release(self, model: Model) -> None:
        """Let the calls that are held for a model go their way: it serves, or never will."""
        for event in self.pending.release(model.id):
            self.call(event, was_held=True)

    def load_ended(self, what: LoadEnded) -> None:
        """Let the calls that waited for a load go their way, or end them with its error."""
        for event in self.pending.release(what.model.id):
            if what.error is None:
                self.call(event, was_held=True)
            else:
                self._registry.refuse(Caller(event.client, event.request_id), what.error)

    def unload_ended(self, what: UnloadEnded) -> None:
        """Have a model loaded again for which calls wait, or end them with what refuses that."""
        model_id = what.unload.model.id
        if not self.pending.has_for(model_id):
            return
        try:
            self._loading.wanted(model_id)
        except HostError as error:
            for event in self.pending.release(model_id):
                self._registry.refuse(Caller(event.client, event.request_id), error)

    def _choose(self, model: Model, event: CallReceived, caller: Caller) -> Worker:
        """Return the READY worker with the least to do. Raises `HostError` to refuse the call."""
        if event.method not in model.interface.methods:
            known = ", ".join(sorted(model.interface.methods)) or "none"
            raise UnimplementedError(
                f"model {model.id!r} has no method {event.method!r}; it has: {known}",
                details={"methods": sorted(model.interface.methods)},
            )
        self._check_call(event, caller)
        ready = model.ready
        worker = ready[0] if len(ready) == 1 else min(ready, key=lambda worker: worker.shares.total)
        check_in_flight(worker.shares, event.client, event.model_id, self._registry.config.max_in_flight, "in flight")
        return worker

    def _check_call(self, event: CallReceived, caller: Caller) -> None:
        if caller in self.by_caller or caller in self.pending.by_caller:
            raise InvalidArgumentError(f"request id {event.request_id} is in use by another call of this client")
        if event.deadline_s is not None and event.deadline_s <= self._registry.now:
            raise DeadlineExceededError("the deadline had passed when the call arrived")
