"""Declared models: those that the configuration wants loaded (`preload`).

Rules
1. They are loaded at the start, and by every sync that a client asks for, unless they are loaded; the host's own syncs
   leave them alone. One that is wrong, or fails, is told and stops nothing.
2. A declared id is loaded from its declared path whenever the host chooses the path: an entry of the models directory
   of the same name is left alone, with lazy loading too.
3. What was loaded because it was declared, and is not declared any more, is unloaded by the sync that finds it out.
4. What has been evicted is loaded when it is used, as everything is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostd.core.events import Origin
from hostd_workers.wire.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hostd.core.events import Declared, ModelId
    from hostd.core.loading import Loading
    from hostd.core.models import Model
    from hostd.core.registry import Registry


class Declaring:
    """The decisions about declared models."""

    def __init__(self, registry: Registry, loading: Loading) -> None:
        self._registry = registry
        self._loading = loading

    def declare(self, declared: Mapping[ModelId, Declared]) -> list[Model]:
        """Take what is declared from now on; return the models that were, and are not any more."""
        registry = self._registry
        registry.declared = dict(declared)
        for model_id, evicted in list(registry.evicted.items()):
            if evicted.origin is Origin.DECLARED and model_id not in declared:
                del registry.evicted[model_id]
        models = [model for model in registry.models.values() if model.origin is Origin.DECLARED]
        gone = [model for model in models if model.id not in declared and not self._loading.is_busy(model.id)]
        return [model for model in gone if model.unload is None]

    def load(self, model_id: ModelId) -> bool:
        """Begin the load of a declared model; say whether one was needed. Raises `HostError` for one that is wrong."""
        registry = self._registry
        source = registry.declared_source(model_id)
        model = registry.intact(model_id)
        if model is not None:
            if model.source.path != source.path:
                raise InvalidArgumentError(
                    f"it is loaded from {model.source.path}, and declared at {source.path}: load it from there "
                    f"(hostd load {model_id} {source.path} --reload), or mend its preload entry"
                )
            return False
        if model_id in registry.evicted:
            return False
        self._loading.check_free(model_id)
        self._loading.begin(model_id, source, Origin.DECLARED, registry.config.load_retries)
        return True
