"""From what somebody wants loaded to what its worker needs: finders, and the arguments that hold for each load.

Covers looking up standing arguments (the configuration's `preload`, and what lies beside deployed files) and asking the
finders with them. What these arguments mean is in `core/standing`, how they are kept in `kept`, how files that
are still being written are waited for in `finding`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostd.core import events as ev
from hostd.core.standing import NOTHING, limited
from hostd.shell.repository import kept
from hostd.shell.repository.scanner import is_inside
from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from hostd.plugins.registry import Plugins


class Specified(NamedTuple):
    """What a worker needs, the source with all arguments that hold, and which of them nobody has to give."""

    spec: ev.LoadingSpec
    source: ev.LoadSource
    standing: ev.Standing


class Specifying:
    """Specifies the models of one host; safe to be used by several threads. Everything blocks on the disk."""

    def __init__(self, plugins: Plugins, models_dir: Path | None) -> None:
        """Take the finders, and the models directory: only what lies in it was deployed."""
        self._plugins = plugins
        self._models_dir = models_dir
        self._declared: Mapping[ev.ModelId, tuple[str | None, ev.Standing]] = {}

    def declare(self, declared: Mapping[ev.ModelId, tuple[str | None, ev.Standing]]) -> None:
        """Take the path and the arguments of all that the configuration declares, in place of what it did before."""
        self._declared = declared

    def specify(self, model_id: ev.ModelId, asked: ev.LoadSource) -> Specified:
        """Return how to load what was asked for. Raises as `Plugins.find` and `kept.read`."""
        standing = self._standing_of(model_id, asked.path)
        source = standing.under(asked)
        plugins = {"finder": source.finder, "loader": source.loader, "initializer": source.initializer}
        found = self._plugins.find(model_id, source.path, **plugins)
        spec = ev.LoadingSpec(
            loader=found.loader,
            options={**found.options, **source.options},
            python=found.python,
            env=found.env,
            methods=found.methods,
            default_method=found.default_method,
            initializer=None if found.initializer is None else (found.initializer, found.initializer_config),
            memory=ev.MemoryPolicy(found.memory_limit_bytes, found.evictable, found.idle_ttl_s),
            cpu_threads=found.cpu_threads,
            is_isolated=found.isolation == "fresh",
            signatures=found.signature,
            origins={**found.origins, **self._origins(model_id, asked, source)},
        )
        return Specified(limited(spec, standing.limits, f"preload.{model_id}"), source, standing)

    def _origins(self, model_id: ev.ModelId, asked: ev.LoadSource, source: ev.LoadSource) -> dict[str, str]:
        """Return in words where each option was given that is not the model's own."""
        place, declared = self._declared.get(model_id, (None, NOTHING))
        of_entry = declared.options if place == source.path else {}
        origins = {}
        for name in source.options:
            by_others = f"preload.{model_id}" if name in of_entry else "its deploy"
            origins[f"options.{name}"] = "the load" if name in asked.options else by_others
        return origins

    def _standing_of(self, model_id: ev.ModelId, path: str | None) -> ev.Standing:
        place, declared = self._declared.get(model_id, (None, NOTHING))
        standing = declared if place == path else NOTHING
        is_deployed = path is not None and path.startswith("/") and self._models_dir is not None
        if path is None or not is_deployed or not is_inside(path, str(self._models_dir)):
            return standing
        beside = kept.read(path)
        return standing if beside is None else standing.over(beside)
