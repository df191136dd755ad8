"""Calls: from a client to a READY worker and back, each with exactly one end.

Rules
1. A call is in `calls` from the moment it is forwarded until its one end: a final answer, an error, a deadline, a
   cancellation, the death of its worker, or the loss of its client. Whatever comes for a call that is not there is late
   and is dropped.
2. A client may not use a request id again while it is in use.
3. Every refusal says in which state the model is and why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hostd.core.effects import AnswerError, ForwardCall, ForwardCancel, ForwardCredit, RelayAnswer
from hostd.core.events import (
    CallCancelled,
    Caller,
    CallId,
    CallReceived,
    ClientId,
    CreditGranted,
    WorkerAnswered,
    WorkerUnreachable,
)
from hostd.core.lifecycle import ModelState, WorkerInput, WorkerState
from workers.wire.errors import (
    CancelledError,
    DeadlineExceededError,
    FailedPreconditionError,
    HostError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
    UnimplementedError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hostd.core.registry import Model, Registry, Worker


class Call(NamedTuple):
    """A call that a worker has and a client waits for."""

    id: CallId
    caller: Caller
    worker: Worker
    size_bytes: int


class Router:
    """The table of calls in flight."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.calls: dict[CallId, Call] = {}
        self.by_caller: dict[Caller, CallId] = {}
        self.in_flight_bytes = 0
        self._count = 0

    def call(self, event: CallReceived) -> None:
        """Forward a call to the READY worker with the least to do, or refuse it."""
        registry = self._registry
        caller = Caller(event.client, event.request_id)
        worker = self._choose(event, caller)
        if isinstance(worker, HostError):
            registry.effects.append(AnswerError(caller, worker))
            return
        now = registry.now
        self._count += 1
        call_id = CallId(self._count)
        self.calls[call_id] = Call(call_id, caller, worker, event.size_bytes)
        self.by_caller[caller] = call_id
        self.in_flight_bytes += event.size_bytes
        worker.calls.add(call_id)
        worker.model.calls += 1
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
            return
        if event.final:
            self._forget(call)
            if event.failed:
                call.worker.model.errors += 1
        self._registry.effects.append(RelayAnswer(call.caller.client, call.caller.request_id, event.payload))

    def cancelled(self, event: CallCancelled) -> None:
        """End a call that its client does not want any more."""
        call = self._of(event.caller)
        if call is not None:
            self._registry.effects.append(ForwardCancel(call.worker.id, call.id))
            self.fail(call.id, CancelledError("the call was cancelled by its caller"))

    def credited(self, event: CreditGranted) -> None:
        """Pass a stream's credit on to its worker."""
        call = self._of(event.caller)
        if call is not None:
            self._registry.effects.append(ForwardCredit(call.worker.id, call.id, event.items))

    def unreachable(self, event: WorkerUnreachable) -> None:
        """End a call that could not be sent to its worker."""
        if event.is_full:
            self.fail(
                event.call_id,
                ResourceExhaustedError("the queue of the model's worker is full: call more slowly, or load replicas"),
            )
        else:
            self.fail(event.call_id, UnavailableError("the model's worker lost its connection; the call was not sent"))

    def expire(self, call_id: CallId) -> None:
        """End a call whose deadline has come."""
        call = self.calls.get(call_id)
        if call is not None:
            self._registry.effects.append(ForwardCancel(call.worker.id, call_id))
            self.fail(call_id, DeadlineExceededError("the deadline passed before the model answered"))

    def fail(self, call_id: CallId, error: HostError) -> None:
        """End a call with an error of ours."""
        call = self.calls.get(call_id)
        if call is not None:
            self._forget(call)
            call.worker.model.errors += 1
            self._registry.effects.append(AnswerError(call.caller, error))

    def fail_all(self, worker: Worker, error: HostError) -> None:
        """End every call that a worker has."""
        for call_id in sorted(worker.calls):
            self.fail(call_id, error)

    def lose_client(self, client: ClientId) -> None:
        """End every call of a client that nobody can answer any more."""
        for caller in [caller for caller in self.by_caller if caller.client == client]:
            call = self.calls[self.by_caller[caller]]
            self._forget(call)
            self._registry.effects.append(ForwardCancel(call.worker.id, call.id))

    def _of(self, caller: Caller) -> Call | None:
        call_id = self.by_caller.get(caller)
        return None if call_id is None else self.calls[call_id]

    def _forget(self, call: Call) -> None:
        del self.calls[call.id]
        del self.by_caller[call.caller]
        self.in_flight_bytes -= call.size_bytes
        self._registry.timers.cancel(call.id)
        worker = call.worker
        worker.calls.discard(call.id)
        if worker.state is WorkerState.DRAINING and not worker.calls:
            self._registry.move_worker(worker, WorkerInput.DRAINED, "the last call in flight has ended")

    def _choose(self, event: CallReceived, caller: Caller) -> Worker | HostError:  # noqa: PLR0911 - one line a refusal
        """Return the worker for a call, or the error that refuses it."""
        registry = self._registry
        model = registry.models.get(event.model_id)
        if model is None:
            return no_such_model(event.model_id, registry.models)
        if not model.ready:
            return refusal_of(model)
        if event.method not in model.methods:
            known = ", ".join(sorted(model.methods)) or "none"
            return UnimplementedError(
                f"model {model.id!r} has no method {event.method!r}; it has: {known}",
                details={"methods": sorted(model.methods)},
            )
        if caller in self.by_caller:
            return InvalidArgumentError(f"request id {event.request_id} is in use by another call of this client")
        if event.deadline_s is not None and event.deadline_s <= registry.now:
            return DeadlineExceededError("the deadline had passed when the call arrived")
        ready = model.ready
        worker = ready[0] if len(ready) == 1 else min(ready, key=lambda worker: len(worker.calls))
        limits = registry.config
        if len(worker.calls) >= limits.max_in_flight:
            return ResourceExhaustedError(
                f"model {model.id!r} has {len(worker.calls)} calls in flight, the limit is {limits.max_in_flight} "
                f"(workers.max_in_flight): call more slowly"
            )
        if self.in_flight_bytes + event.size_bytes > limits.max_in_flight_bytes:
            return ResourceExhaustedError(
                f"calls in flight hold {self.in_flight_bytes} bytes, {event.size_bytes} more are over the limit of "
                f"{limits.max_in_flight_bytes} (limits.max_in_flight_bytes): send less at a time"
            )
        return worker


def no_such_model(model_id: str, known: Iterable[str]) -> NotFoundError:
    """Return the error for an id that is not loaded."""
    names = sorted(known)[:10]
    loaded = f"loaded are: {', '.join(names)}" if names else "no model is loaded"
    return NotFoundError(f"there is no model {model_id!r}; {loaded}", details={"model_id": model_id})


def refusal_of(model: Model) -> HostError:
    """Return the error for a model that serves nobody at present."""
    advice = {
        ModelState.LOADING: "wait for it with retrieve_model",
        ModelState.UNLOADING: "load it again when that is done",
        ModelState.FAILED: "load it again",
    }.get(model.state, "see explain_model")
    reason = f" ({model.reason})" if model.reason else ""
    return FailedPreconditionError(
        f"model {model.id!r} is {model.state.value}{reason}: {advice}",
        details={"model_id": model.id, "state": model.state.value, "reason": model.reason},
    )
