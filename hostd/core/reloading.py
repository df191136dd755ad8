"""Reloads: what is loaded goes, and its id is loaded anew, from what lies at the path then.

Rules
1. A reload is an unload that is followed by the load: calls that come meanwhile wait for it; pin and labels stay.
   Requests that wait for a load of the same that it overtakes get the model of the reload; of something else, ABORTED.
2. Whatever wants the id gone for good (an unload, an undeploy, a shutdown) overtakes the reload.
3. A reload without a path is of what is loaded, of what crashed, was evicted or is declared: what it gives holds, each
   option for itself, and the rest is as it was.
4. What is not loaded is loaded, if it is known from where. Nobody reloads what somebody else is unloading.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostd.core.effects import Answer
from hostd.core.events import LoadSource, Origin
from hostd.core.happenings import ReloadBegun
from hostd.core.joining import differences
from hostd.core.models import Reload
from hostd.core.names import model_id_of
from hostd.core.refusals import refusal_of
from hostd.core.standing import retries_of, standing_of
from hostd_workers.wire.errors import AbortedError, NotFoundError

if TYPE_CHECKING:
    from hostd.core.events import LoadRequested, ModelId
    from hostd.core.loading import Loading
    from hostd.core.registry import Registry
    from hostd.core.unloading import Unloading
    from hostd.core.values import Waiters


_NOTHING = LoadSource(None)
"""The source of a load that says nothing."""


class Reloading:
    """The decisions about reloads."""

    def __init__(self, registry: Registry, loading: Loading, unloading: Unloading) -> None:
        self._registry = registry
        self._loading = loading
        self._unloading = unloading

    def load(self, event: LoadRequested) -> None:
        """Load, or with `reload` load anew. Raises `HostError` to refuse."""
        registry = self._registry
        if not event.reload:
            self._loading.load(event)
            return
        self._loading.refuse_if_stopping()
        model_id = model_id_of(event.model_id)
        reload = self._reload_of(event)
        model = registry.intact(model_id)
        if model is None:
            self._loading.load(event._replace(source=reload.source, retries=reload.retries))
            return
        retries_of(event.retries, 0)  # refused now, not when the model is gone
        self._loading.check_free(model_id)
        if model.unload is not None and not model.unload.is_coming_back:
            raise refusal_of(model)
        waiters: Waiters = {}
        if model.load is not None:
            registry.waiting.move(model.load.waiters, waiters)
        if differences(model, reload.source):
            overtaken = AbortedError(
                f"the load of model {model_id!r} was overtaken: it is reloaded from something else"
            )
            registry.waiting.refuse(waiters, overtaken)
            if model.unload is not None:
                registry.waiting.refuse(model.unload.next_waiters, overtaken)
        if event.labels is not None:
            model.labels = event.labels
        unload = model.unload or self._unloading.begin_reload(model)
        unload.reload = reload
        registry.waiting.move(waiters, unload.next_waiters)
        if event.wait:
            registry.waiting.add(unload.next_waiters, event.caller, event.deadline_s)
        else:
            registry.happened.append(ReloadBegun(event.caller, model_id))
        self._unloading.end_if_gone(unload)

    def tell(self, what: ReloadBegun) -> None:
        """Answer with what is loaded or unloaded now: a model without processes is UNLOADED by now, and loaded anew."""
        registry = self._registry
        registry.effects.append(Answer(what.caller, registry.describe(registry.models[what.model_id])))

    def _reload_of(self, event: LoadRequested) -> Reload:
        """Return what a reload loads. Raises `NotFoundError` if nobody has said from where."""
        given, own = event.source, Reload(event.source, event.retries, Origin.REQUESTED)
        if given.path is not None:
            return own
        known = self._known(event.model_id)
        if known is None and given.finder is not None:  # it may need no path
            return own
        if known is None:
            raise NotFoundError(
                f"model {event.model_id!r} is not loaded, so a reload does not know from where: name its path "
                f"(hostd load {event.model_id} PATH)",
                details={"model_id": event.model_id},
            )
        if (given, event.retries) == (_NOTHING, None):
            return known
        source = standing_of(known.source, None).under(given)._replace(path=known.source.path)
        retries = known.retries if event.retries is None else event.retries
        return Reload(source, retries, Origin.REQUESTED)

    def _known(self, model_id: ModelId) -> Reload | None:
        """Return how to load again what is, or was, loaded under an id, or is declared."""
        registry = self._registry
        model, evicted = registry.models.get(model_id), registry.evicted.get(model_id)
        if model is not None:
            return model.next_load
        if evicted is not None:
            return Reload(evicted.source, None, evicted.origin)
        if model_id in registry.declared:
            return Reload(registry.declared_source(model_id), None, Origin.DECLARED)
        return None
