"""Pins: models that are not evicted, whatever the budget says.

A pin of a model that was deployed is written down beside its files (`KeepPin`), and the answer comes when that lasts.
While the files of the id are moved it is not written, but when they are in their place again (`files_rest`): at the
end of the deploy that moves them, or of an undeploy that could not remove them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostd.core.effects import Answer, KeepPin
from hostd.core.refusals import no_such_model
from hostd_workers.wire.errors import FailedPreconditionError

if TYPE_CHECKING:
    from hostd.core.events import FilesId, ModelId, PinKept, PinRequested
    from hostd.core.models import Model
    from hostd.core.registry import Registry
    from hostd.core.values import Waiters


class Pinning:
    """The decisions about pins."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._writing: dict[FilesId, tuple[Model, Waiters]] = {}

    def pin(self, event: PinRequested) -> None:
        """Keep a model whatever happens, or no longer. Raises `NotFoundError` if it is not loaded."""
        registry = self._registry
        model = registry.models.get(event.model_id)
        if model is None:
            raise no_such_model(event.model_id, registry)
        was_pinned, model.pin = model.is_pinned, event.is_pinned
        if was_pinned != event.is_pinned:
            if model.unload is not None and event.is_pinned:
                model.unload.is_wanted = True  # one that is being evicted comes back at once
            cause, said = ("PIN", "pinned: it is not evicted") if event.is_pinned else ("UNPIN", "no longer pinned")
            registry.note(model, cause, said)
            registry.headroom_changed()
        if model.standing.is_kept and model.id not in registry.reserved:
            files_id = self._write(model)
            registry.waiting.add(self._writing[files_id][1], event.caller, None)
        else:
            registry.effects.append(Answer(event.caller, registry.describe(model)))

    def files_rest(self, model_id: ModelId) -> None:
        """Have written down what was pinned, or not any more, while the files were moved."""
        model = self._registry.models.get(model_id)
        if model is None or model_id in self._registry.reserved:
            return
        if model.standing.is_kept and bool(model.standing.is_pinned) != model.is_pinned:
            self._write(model)

    def kept(self, event: PinKept) -> None:
        """Answer the callers that waited for it."""
        registry = self._registry
        model, waiters = self._writing.pop(event.files_id)
        if event.error is None:
            registry.waiting.answer(waiters, registry.describe(model))
        else:
            now = "pinned" if model.is_pinned else "not pinned any more"
            registry.waiting.refuse(
                waiters,
                FailedPreconditionError(
                    f"model {model.id!r} is {now}, but only until it is loaded the next time: that could not be "
                    f"written down beside its files: {event.error.message}",
                    details={"model_id": model.id},
                ),
            )
        registry.files_in_work.discard(event.files_id)

    def _write(self, model: Model) -> FilesId:
        """Have it written down whether a model is pinned."""
        files_id = self._registry.new_files_id()
        model.standing = model.standing._replace(is_pinned=model.is_pinned)
        self._writing[files_id] = (model, {})
        self._registry.effects.append(KeepPin(files_id, model.id, model.is_pinned))
        return files_id
