"""Calls that wait for the lazy load of their model.

Rules
1. A held call has its client's deadline, counts against the limits of calls in flight, and ends exactly once: it is
   released when the load has ended, or dismissed before.
2. Released calls go their way in the order in which they came.
3. One client with calls that wait leaves places for those of others (`shares`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostd.core.bookkeeping.by_client import ByClient
from hostd.core.bookkeeping.shares import ClientShares
from hostd.core.deadlines import HeldTimer
from hostd_workers.wire.shares import check_in_flight

if TYPE_CHECKING:
    from hostd.core.events import Caller, CallReceived, ClientId, ModelId
    from hostd.core.registry import Registry
    from hostd_workers.wire.errors import HostError


class _Held:
    """The calls that wait for one model, in order, with since when; and the clients that have them."""

    def __init__(self) -> None:
        self.calls: dict[Caller, tuple[CallReceived, float]] = {}
        self.shares = ClientShares()


class PendingCalls:
    """The calls that are held, by model."""

    def __init__(self, registry: Registry, bytes_: ClientShares) -> None:
        """Take the registry, and the bytes of all calls that the host has."""
        self._registry = registry
        self._bytes = bytes_
        self._by_model: dict[ModelId, _Held] = {}
        self.by_caller: ByClient[CallReceived] = ByClient()

    def __repr__(self) -> str:
        return f"<PendingCalls {len(self.by_caller)} calls of {len(self._by_model)} models>"

    def hold(self, event: CallReceived, caller: Caller) -> None:
        """Keep a call until its model is loaded. Raises `ResourceExhaustedError` if too many wait for it."""
        held = self._by_model.get(event.model_id) or _Held()
        limit = self._registry.config.max_in_flight
        check_in_flight(held.shares, event.client, event.model_id, limit, "that wait for it to be loaded")
        self._by_model[event.model_id] = held
        held.calls[caller] = event, self._registry.now
        held.shares.take(event.client)
        self.by_caller[caller] = event
        self._bytes.take(event.client, event.size_bytes)
        if event.deadline_s is not None:
            self._registry.timers.set(HeldTimer(caller), event.deadline_s)

    def has_for(self, model_id: ModelId) -> bool:
        """Say whether any call waits for a model."""
        return model_id in self._by_model

    def of(self, model_id: ModelId) -> list[tuple[Caller, str, float]]:
        """Return the calls that wait for a model, in order: the caller, the method, and since when."""
        held = self._by_model.get(model_id) or _Held()
        return [(caller, event.method, since_s) for caller, (event, since_s) in held.calls.items()]

    def release(self, model_id: ModelId) -> list[CallReceived]:
        """Return the calls that wait for a model, and keep them no longer."""
        held = self._by_model.get(model_id) or _Held()
        return [self._let_go(caller) for caller in list(held.calls)]

    def dismiss(self, caller: Caller, error: HostError) -> None:
        """End a held call with an error."""
        self._let_go(caller)
        self._registry.refuse(caller, error)

    def refuse(self, model_id: ModelId, error: HostError) -> None:
        """End all calls that wait for a model with an error."""
        for caller, _, _ in self.of(model_id):
            self.dismiss(caller, error)

    def lose_client(self, client: ClientId, at_most: int) -> int:
        """Forget calls of a client that nobody can answer any more, and return how many they were."""
        callers = self.by_caller.of(client, at_most)
        for caller in callers:
            self._let_go(caller)
        return len(callers)

    def _let_go(self, caller: Caller) -> CallReceived:
        event = self.by_caller.pop(caller)
        held = self._by_model[event.model_id]
        del held.calls[caller]
        held.shares.give_back(event.client)
        if not held.calls:
            del self._by_model[event.model_id]
        self._bytes.give_back(event.client, event.size_bytes)
        self._registry.timers.cancel(HeldTimer(caller))
        return event

    def problems(self) -> list[str]:
        """Return what is wrong with these books; a question for `check_invariants`."""
        found = [
            f"calls are held for {model_id!r}, which is not loading"
            for model_id in self._by_model
            if model_id not in self._registry.models
        ]
        if any(held.shares.total != len(held.calls) for held in self._by_model.values()):
            found.append("the calls that are held and those of their clients differ")
        return found
