"""Files of loaded models: whether they are still what was loaded.

Rules
1. What was loaded is known by the digest of its content when the load began. Nothing waits for that digest, and without
   it nothing is claimed.
2. Files are looked at again when somebody loads what is loaded, by every sync, and when somebody asks. Files that were
   touched, or copied anew, and have the same content have not changed.
3. Nothing follows from a change: the model serves what was loaded until somebody loads it again.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from hostd.core.effects import Answer, CompareFiles
from hostd.core.models import Freshness
from hostd_workers.wire.errors import AbortedError, UnavailableError

if TYPE_CHECKING:
    from hostd.core.events import Caller, FilesCompared, FilesNoted, ModelId
    from hostd.core.models import Model
    from hostd.core.registry import Registry
    from hostd.core.values import Waiters

_CHANGED = "its files have changed since it was loaded; it serves what was loaded"
_AS_LOADED = "its files are again what was loaded"
_CHANGES = (Freshness.CHANGED, Freshness.GONE)


class Comparing:
    """What is known of the files of loaded models."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._waiters: dict[tuple[ModelId, int], Waiters] = {}
        """Of loads of what is loaded, by the id and the generation."""

    def loaded_already(self, model: Model, caller: Caller, deadline_s: float | None) -> None:
        """Answer a load of what is loaded, after a look at its files if that can say anything."""
        registry, path = self._registry, model.source.path
        if path is None or model.digest is None:
            registry.effects.append(Answer(caller, dataclasses.replace(registry.describe(model), already_loaded=True)))
            return
        key = (model.id, model.generation)
        if key not in self._waiters:
            self._waiters[key] = {}
            registry.effects.append(CompareFiles(*key, path))
        registry.waiting.add(self._waiters[key], caller, deadline_s)

    def noted(self, event: FilesNoted) -> None:
        """Remember what was loaded."""
        model = self._registry.generation_of(event.model_id, event.generation)
        if model is not None:
            model.digest = event.digest

    def compared(self, event: FilesCompared) -> None:
        """Remember what the files are now, and answer the callers that wait for it."""
        registry = self._registry
        model = registry.generation_of(event.model_id, event.generation)
        if model is not None:
            self.note(model, event.digest)
        waiters = self._waiters.pop((event.model_id, event.generation), {})
        now = registry.models.get(event.model_id)
        if now is not None and now is model and now.is_serving:
            registry.waiting.answer(waiters, dataclasses.replace(registry.describe(now), already_loaded=True))
        else:
            what = (
                "is gone" if now is None else f"is {now.state.value} ({now.reason})" if now is model else "is another"
            )
            overtaken = AbortedError(f"model {event.model_id!r} was loaded, and {what} now: load it again")
            registry.waiting.refuse(waiters, overtaken)

    def stop(self) -> None:
        """Answer the callers that wait: the host stops, and need not wait for a disk."""
        for waiters in self._waiters.values():
            self._registry.waiting.refuse(waiters, UnavailableError("the host is shutting down"))

    def note(self, model: Model, digest: str | None) -> bool:
        """Take the digest of a model's files ("": they are gone, None: not known); say whether they have changed."""
        if digest is None or model.digest is None or not model.is_serving:
            return False
        before, model.files = model.files, _freshness(model.digest, digest)
        has_changed = model.files is not Freshness.AS_LOADED
        if has_changed != (before in _CHANGES):
            self._registry.note(model, "FILES_CHANGED", _CHANGED if has_changed else _AS_LOADED)
        return has_changed


def _freshness(loaded: str, now: str) -> Freshness:
    if not now:
        return Freshness.GONE
    return Freshness.AS_LOADED if now == loaded else Freshness.CHANGED
