"""Loaders and initializers by name, resolved in the worker.

A name is looked for in this order: the built-in ones, any function written as `module:attr`, and the entry points that
the packages of the worker's own environment declare (groups `hostd.loaders` and `hostd.initializers`). Entry points are
the last resort, because to read them takes half as long as all imports of a worker.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from hostd_workers import loaders
from hostd_workers.loaders._common.opening import call_load, call_plugin, resolve
from hostd_workers.wire.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from importlib.metadata import EntryPoint

LOADERS = "hostd.loaders"
INITIALIZERS = "hostd.initializers"
DEFAULT_INITIALIZER = "default"


class Loadable(Protocol):
    """What is to be loaded: `api.Specification`."""

    def load(self) -> object:
        """Return what the loader makes of it."""


@lru_cache(maxsize=1)
def builtin_loaders() -> list[str]:
    """Return the names of the built-in loaders."""
    return sorted(module.name for module in pkgutil.iter_modules(loaders.__path__) if module.name[0] != "_")


def load_with(name: str, path: str | None, options: Mapping[str, Any]) -> object:
    """Return what the loader of this name makes of a path.

    Raises `InvalidArgumentError` when there is no such loader or it does not take these options; what the loader itself
    raises goes through.
    """
    known = builtin_loaders()
    if name in known:
        load = importlib.import_module(f"hostd_workers.loaders.{name}").load
    else:
        load = _plugin(name, LOADERS, known, kind="loader")
    return call_load(load, path, options, name=f"the loader {name!r}")


def import_builtin(name: str) -> None:
    """Import a built-in loader's own module, if there is one of this name, but none of what its models need."""
    if name in builtin_loaders():
        importlib.import_module(f"hostd_workers.loaders.{name}")


def initialize(spec: Loadable, name: str, config: Mapping[str, Any]) -> object:
    """Return what the initializer of this name makes of a specification; "default" is `spec.load()`.

    Raises `InvalidArgumentError` when there is no such initializer or it does not take this configuration; what the
    initializer itself raises goes through.
    """
    known = [DEFAULT_INITIALIZER]
    initializer = _default if name in known else _plugin(name, INITIALIZERS, known, kind="initializer")
    return call_plugin(initializer, spec, config, name=f"the initializer {name!r}", shape="initialize(spec, **config)")


def _default(spec: Loadable, /) -> object:
    return spec.load()


def _plugin(name: str, group: str, builtin: Sequence[str], *, kind: str) -> object:
    if ":" in name:
        return resolve(name)
    found = _entry_points(group)
    if name not in found:
        known = sorted({*builtin, *found})
        raise InvalidArgumentError(
            f"there is no {kind} {name!r}; known are: {', '.join(known)}; your own is named as 'module:function', or "
            f"by an entry point {group!r} of a package in the worker's environment",
            details={"known": known},
        )
    references = sorted({f"{point.module}:{point.attr or ''}" for point in found[name]})
    if len(references) > 1:
        raise InvalidArgumentError(
            f"more than one package in the worker's environment brings a {kind} {name!r}: {', '.join(references)}; "
            "name one of these instead"
        )
    return resolve(references[0])


def _entry_points(group: str) -> dict[str, list[EntryPoint]]:
    from importlib.metadata import entry_points  # noqa: PLC0415 - slow, see above

    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=group):
        found.setdefault(point.name, []).append(point)
    return found
