"""Reloads: what is loaded goes, and its id is loaded anew, from what lies at the path then.

Rules
1. A reload is an unload that is followed by the load: calls that come meanwhile wait for it, and a pin stays. Whoever
   waits for a load of the same that it overtakes gets the model of the reload; of something else, ABORTED.
2. Whatever wants the id gone for good (an unload, an undeploy, a shutdown) overtakes the reload.
3. What is not loaded is loaded. Nobody reloads what somebody else is unloading.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostd.core.effects import Answer
from hostd.core.events import Origin
from hostd.core.joining import differences
from hostd.core.lifecycle import ModelState
from hostd.core.loading import retries_of
from hostd.core.models import Reload
from hostd.core.names import model_id_of
from hostd.core.refusals import refusal_of
from hostd_workers.wire.errors import AbortedError

if TYPE_CHECKING:
    from hostd.core.events import LoadRequested
    from hostd.core.loading import Loading
    from hostd.core.registry import Registry
    from hostd.core.unloading import Unloading


class Reloading:
    """The decisions about reloads."""

    def __init__(self, registry: Registry, loading: Loading, unloading: Unloading) -> None:
        self._registry = registry
        self._loading = loading
        self._unloading = unloading

    def load(self, event: LoadRequested) -> None:
        """Load, or with `reload` load anew. Raises `HostError` to refuse."""
        registry = self._registry
        model = registry.models.get(event.model_id)
        if not event.reload or model is None or model.state is ModelState.FAILED:
            self._loading.load(event)
            return
        self._loading.refuse_if_stopping()
        model_id = model_id_of(event.model_id)
        retries_of(event.retries, 0)  # refused now, not when the model is gone
        self._loading.check_free(model_id)
        if model.state is ModelState.UNLOADING and not model.is_coming_back:
            raise refusal_of(model)
        is_same = event.source.path is None  # from where it was, whoever wanted it
        source, origin = (model.again, model.origin) if is_same else (event.source, Origin.REQUESTED)
        if differences(model, source):
            overtaken = AbortedError(
                f"the load of model {model_id!r} was overtaken: it is reloaded from something else"
            )
            for waiters in (model.waiters, model.next_waiters):
                registry.waiting.refuse(waiters, overtaken)
        registry.waiting.move(model.waiters, model.next_waiters)
        model.reload = Reload(source, event.retries, origin)
        model.is_wanted = True
        if event.wait:
            registry.waiting.add(model.next_waiters, event.caller, event.deadline_s)
        if model.state is not ModelState.UNLOADING:
            self._unloading.begin_reload(model)
        if not event.wait:
            registry.effects.append(Answer(event.caller, registry.describe(registry.models[model_id])))
