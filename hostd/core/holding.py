"""Calls that wait for the lazy load of their model.

Rules
1. A held call has its client's deadline, counts against the limits of calls in flight, and ends exactly once: it is
   released when the load has ended, or dismissed before.
2. Released calls go their way in the order in which they came.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostd.core.effects import AnswerError
from hostd.core.timers import HeldTimer
from hostd.units import counted
from hostd_workers.wire.errors import HostError, ResourceExhaustedError

if TYPE_CHECKING:
    from hostd.core.events import Caller, CallReceived, ClientId, ModelId
    from hostd.core.registry import Registry


class Holding:
    """The calls that are held, by model."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._by_model: dict[ModelId, dict[Caller, CallReceived]] = {}
        self.by_caller: dict[Caller, CallReceived] = {}
        self._since_s: dict[Caller, float] = {}
        self.bytes = 0
        """The size of all held calls together."""

    def __repr__(self) -> str:
        return f"<Holding {len(self.by_caller)} calls of {len(self._by_model)} models>"

    def hold(self, event: CallReceived, caller: Caller) -> None:
        """Keep a call until its model is loaded. Raises `ResourceExhaustedError` if too many wait for it."""
        held = self._by_model.setdefault(event.model_id, {})
        limit = self._registry.config.max_in_flight
        if len(held) >= limit:
            verb = "waits" if len(held) == 1 else "wait"
            raise ResourceExhaustedError(
                f"{counted(len(held), 'call')} {verb} for model {event.model_id!r} to be loaded, the limit is {limit} "
                f"(workers.max_in_flight): call more slowly"
            )
        held[caller] = self.by_caller[caller] = event
        self._since_s[caller] = self._registry.now
        self.bytes += event.size_bytes
        if event.deadline_s is not None:
            self._registry.timers.set(HeldTimer(caller), event.deadline_s)

    def has_for(self, model_id: ModelId) -> bool:
        """Say whether any call waits for a model."""
        return model_id in self._by_model

    def of(self, model_id: ModelId) -> list[tuple[Caller, str, float]]:
        """Return the calls that wait for a model, in order: the caller, the method, and since when."""
        held = self._by_model.get(model_id, {})
        return [(caller, event.method, self._since_s[caller]) for caller, event in held.items()]

    def release(self, model_id: ModelId) -> list[CallReceived]:
        """Return the calls that wait for a model, and keep them no longer."""
        held = self._by_model.get(model_id, {})
        return [self._let_go(caller) for caller in list(held)]

    def dismiss(self, caller: Caller, error: HostError) -> None:
        """End a held call with an error."""
        self._let_go(caller)
        self._registry.effects.append(AnswerError(caller, error))

    def lose_client(self, client: ClientId) -> None:
        """Forget the calls of a client that nobody can answer any more."""
        for caller in [caller for caller in self.by_caller if caller.client == client]:
            self._let_go(caller)

    def _let_go(self, caller: Caller) -> CallReceived:
        event = self.by_caller.pop(caller)
        held = self._by_model[event.model_id]
        del held[caller], self._since_s[caller]
        if not held:
            del self._by_model[event.model_id]
        self.bytes -= event.size_bytes
        self._registry.timers.cancel(HeldTimer(caller))
        return event

    def problems(self) -> list[str]:
        """Return what is wrong with these books; a question for `check_invariants`."""
        found = [
            f"calls are held for {model_id!r}, which is not loading"
            for model_id in self._by_model
            if model_id not in self._registry.models
        ]
        if self.bytes != sum(event.size_bytes for event in self.by_caller.values()):
            found.append(f"{self.bytes} held bytes do not add up")
        return found
