"""One list of all models: those that are loaded, and those that are not, each with its state and the reason for it.

Rules
1. An id is listed once. What is registered counts before what its last load came to, that before an eviction, and all
   of them before an entry of the models directory.
2. The shell looks at the models directory and says what each entry of it is; here that is only joined to the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostd.core.bookkeeping.totals import Totals
from hostd.core.events import STANDALONE, Origin
from hostd.records import ModelInfo
from hostd_workers.wire.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hostd.core.describing import Facts
    from hostd.core.events import DirectoryEntry, ModelId
    from hostd.core.models import Evicted, Failure
    from hostd.core.registry import Registry


def each_of_all(registry: Registry, entries: Iterable[DirectoryEntry]) -> Iterator[Facts | ModelInfo]:
    """Yield all models by id, each as it is when it is asked for: of those that are not loaded the record.

    That has an id, a state, a path, a type and a reason; of an evicted model also what it served, and its counts.
    """
    found = {entry.model_id: entry for entry in entries}
    for model_id in sorted({*found, *registry.evicted, *registry.failures, *registry.models}):
        model = registry.models.get(model_id)
        known = absent(registry, model_id, found.get(model_id)) if model is None else registry.facts(model)
        if known is not None:
            yield known


def absent(registry: Registry, model_id: ModelId, entry: DirectoryEntry | None) -> ModelInfo | None:
    """Return the record of a model that is not loaded; None if it neither failed nor was evicted nor is an entry."""
    failure, evicted = registry.failures.get(model_id), registry.evicted.get(model_id)
    if failure is not None and not _is_nothing(failure):
        return _of_failure(model_id, failure)
    if evicted is not None:
        return _of_evicted(model_id, evicted, registry.totals.get(model_id, Totals()))
    return None if entry is None else _of_entry(entry, registry)


def _of_entry(entry: DirectoryEntry, registry: Registry) -> ModelInfo:
    reason = entry.reason
    if not reason and entry.state == "AVAILABLE":
        on_use = "when it is used, or " if registry.config.lazy_load else ""
        reason = f"loaded {on_use}with load_model or sync_local_models"
    return ModelInfo(entry.model_id, entry.state, entry.path or None, STANDALONE, reason=reason)


def _of_evicted(model_id: str, evicted: Evicted, totals: Totals) -> ModelInfo:
    source, interface = evicted.source, evicted.interface
    return ModelInfo(
        model_id,
        "EVICTED",
        source.path,
        source.type,
        interface.loader,
        methods=dict(interface.methods),
        default_method=interface.default_method,
        reason=evicted.reason,
        pinned=evicted.is_pinned,
        labels=dict(evicted.labels or {}),
        **totals.now(())._asdict(),
    )


def _of_failure(model_id: str, failure: Failure) -> ModelInfo:
    source, labels = failure.source, dict(failure.labels or {})
    return ModelInfo(model_id, "FAILED", source.path, source.type, reason=failure.error.message, labels=labels)


def _is_nothing(failure: Failure) -> bool:
    """Say whether somebody merely asked for an id of which there is nothing, with lazy loading."""
    return failure.origin is Origin.LAZY and isinstance(failure.error, NotFoundError)
