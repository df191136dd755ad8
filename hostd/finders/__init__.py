"""Finders: from a model's id and path to what its worker has to load, and how.

Covers the built-in finders (`model.yaml`, MLflow's `MLmodel`, the files themselves, and several in order) and asking
one by name. A finder looks at names and at small files; the built-in ones never import or run anything of a model. The
keys of `model.yaml` are in `hostd.config.model_yaml`, finders of others and those of the configuration in
`hostd.plugins.registry`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hostd.config.spec import NAME as SETTINGS
from hostd.config.spec import ModelSpec
from hostd.finders.files import FilesFinder, MlflowFinder
from hostd.finders.multi import MultiFinder
from hostd.finders.protocol import Finder, ask
from hostd.finders.settings import ModelYamlFinder, SettingsFinder
from hostd.hints import what_is_in
from hostd_workers.wire.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "DEFAULT_FINDER",
    "FINDERS",
    "FilesFinder",
    "Finder",
    "MlflowFinder",
    "ModelSpec",
    "ModelYamlFinder",
    "MultiFinder",
    "find_spec",
]

DEFAULT_FINDER = "default"

FINDERS: Mapping[str, Finder] = {
    DEFAULT_FINDER: MultiFinder((ModelYamlFinder(), MlflowFinder(), FilesFinder())),
    "model_yaml": ModelYamlFinder(),
    "mlflow": MlflowFinder(),
    "files": FilesFinder(),
}
"""The finders that a host has without any configuration, by name."""

_SETTINGS_FINDER = SettingsFinder()


def find_spec(
    model_id: str,
    path: str | None,
    finder_name: str | None = None,
    *,
    finders: Mapping[str, Finder] = FINDERS,
    default_loader: str = "",
    loader: str | None = None,
) -> ModelSpec:
    """Return what to load for a model, asked of the finder of that name (None: the default one).

    `default_loader` is for a model of which the finder cannot tell the loader. `loader` counts for more than what is
    found: if no finder is named only the `model.yaml` is read then, and options in it are those of its own loader.
    Blocks on the disk: call it in a thread. Raises InvalidArgumentError for an unknown finder, for a model that it does
    not recognise and for one without a loader, and what the finder raises.
    """
    name = finder_name or DEFAULT_FINDER
    finder = finders.get(name)
    if finder is None:
        raise InvalidArgumentError(f"there is no finder {name!r}; known are {', '.join(sorted(finders))}")
    spec = ask(_SETTINGS_FINDER if loader and not finder_name else finder, model_id, path)
    if loader:
        spec = spec or ModelSpec(loader)
        options = spec.options if spec.loader in ("", loader) else {}
        return replace(spec, loader=loader, options=options, origins={**spec.origins, "loader": "the load"})
    details = {"path": path, "finder": name}
    if spec is None:
        found = what_is_in(path) if path else ""
        seen = f": {found}" if found else ""
        advice = f"; else say it with 'loader' in a {SETTINGS}" if path else ""
        raise InvalidArgumentError(
            f"the finder {name!r} recognises no model {model_id!r} at {path or 'no path'}{seen}. "
            f"It looks for {finder.looks_for}{advice}",
            details=details,
        )
    if not (spec.loader or default_loader):
        raise InvalidArgumentError(
            f"the {SETTINGS} of {path} names no loader, and no file beside it tells which; say it with 'loader'",
            details=details,
        )
    return spec if spec.loader else replace(spec, loader=default_loader)
