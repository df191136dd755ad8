"""Loaders by name, resolved in the worker: the built-in ones, and any function written as `module:attr`."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

import workers.loaders
from workers.loaders._opening import call_load, resolve
from workers.wire.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping


def builtin_loaders() -> list[str]:
    """Return the names of the built-in loaders."""
    return sorted(module.name for module in pkgutil.iter_modules(workers.loaders.__path__) if module.name[0] != "_")


def load_with(name: str, path: str | None, options: Mapping[str, Any]) -> object:
    """Return what the loader of this name makes of a path.

    Raises `InvalidArgumentError` when there is no such loader or it does not take these options; what the loader itself
    raises goes through.
    """
    if ":" in name:
        load = resolve(name)
    elif name in builtin_loaders():
        load = importlib.import_module(f"workers.loaders.{name}").load
    else:
        raise InvalidArgumentError(
            f"there is no loader {name!r}; built in are: {', '.join(builtin_loaders())}; "
            f"your own is named as 'module:function'",
            details={"known": builtin_loaders()},
        )
    return call_load(load, path, options, name=f"the loader {name!r}")
