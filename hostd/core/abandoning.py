"""Loads that end when nobody waits for them any more, because whoever asked for them wants it so (`cancel_on_timeout`).

Rules
1. Such a load was begun so, and nobody has asked for it in another way since: who joins it without saying so has it go
   on whatever happens. What others have begun goes on, too.
2. It ends when the last caller has left: by its deadline, a cancel, or the end of its client. `retrieve_model` and held
   calls count as callers.
3. It ends as by an unload: its processes are gone before its id is free, and it is no failure. What was evicted before
   is loaded again when it is used, as before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostd_workers.wire.errors import InvalidArgumentError

if TYPE_CHECKING:
    from hostd.core.calls.pending import PendingCalls
    from hostd.core.models import Evicted, Load
    from hostd.core.registry import Registry
    from hostd.core.reloading import Reloading
    from hostd.core.requests import LoadRequested
    from hostd.core.unloading import Unloading
    from hostd.core.values import Caller, ModelId


class Abandoning:
    """The loads that end with their callers."""

    def __init__(self, registry: Registry, reloading: Reloading, unloading: Unloading, pending: PendingCalls) -> None:
        self._registry = registry
        self._reloading = reloading
        self._unloading = unloading
        self._pending = pending
        self._loads: dict[Load, Evicted | None] = {}
        """With what was evicted when each began."""

    def load(self, event: LoadRequested) -> None:
        """Load, and note whether that ends with its callers. Raises `HostError` to refuse."""
        if event.cancel_on_timeout and (event.reload or not event.wait):
            other = (
                "a reload, which has unloaded the model by then" if event.reload else "a load that is not waited for"
            )
            raise InvalidArgumentError(f"cancel_on_timeout does not go with {other}: say one of them")
        before, evicted = self._load_of(event.model_id), self._registry.evicted.get(event.model_id)
        self._reloading.load(event)
        load = self._load_of(event.model_id)
        if load is not None and not event.cancel_on_timeout:
            self._loads.pop(load, None)
        elif load is not None and load is not before:
            self._loads[load] = evicted

    def settle(self) -> None:
        """End the loads that nobody waits for any more."""
        for load, evicted in list(self._loads.items()):
            model = load.model
            if model.load is not load:
                del self._loads[load]
            elif self._is_abandoned(load):
                del self._loads[load]
                self._unloading.begin(model, "nobody waits for its load any more (cancel_on_timeout)")
                if evicted is not None:
                    self._registry.evicted[model.id] = evicted
                    self._registry.totals[model.id] = model.totals

    def fate_after(self, caller: Caller) -> str:
        """Return in words what becomes of what a caller waits for when that leaves."""
        if any(caller in load.waiters for load in self._loads):
            return "the load ends, unless somebody else waits for it"
        return "what was asked for goes on"

    def problems(self) -> list[str]:
        """Return what is wrong with these books; a question for `check_invariants`."""
        return [f"{load} goes on, and nobody waits for it" for load in self._loads if self._is_abandoned(load)]

    def _is_abandoned(self, load: Load) -> bool:
        is_under_way = load.model.load is load
        return is_under_way and not load.waiters and not self._pending.has_for(load.model.id)

    def _load_of(self, model_id: ModelId) -> Load | None:
        model = self._registry.models.get(model_id)
        return None if model is None else model.load
