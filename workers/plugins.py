"""Loaders by name, resolved in the worker: the built-in ones, and any function written as `module:attr`."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from typing import TYPE_CHECKING, Any, cast

import workers.loaders
from workers.wire.errors import InvalidArgumentError

if TYPE_CHECKING:
    from workers.api import Loader


def builtin_loaders() -> list[str]:
    """Return the names of the built-in loaders."""
    return sorted(module.name for module in pkgutil.iter_modules(workers.loaders.__path__) if module.name[0] != "_")


def resolve_loader(name: str) -> Loader:
    """Return the loader of a name.

    Raises `InvalidArgumentError` when there is no such loader; what the import of a foreign module raises goes through.
    """
    if ":" in name:
        return cast("Loader", resolve_attribute(name))
    if name not in builtin_loaders():
        raise InvalidArgumentError(
            f"there is no loader {name!r}; built in are: {', '.join(builtin_loaders())}; "
            f"your own is named as 'module:function'",
            details={"known": builtin_loaders()},
        )
    return cast("Loader", importlib.import_module(f"workers.loaders.{name}").load)


def resolve_attribute(path: str) -> Any:
    """Return what a `module:attr` names. Raises `InvalidArgumentError` if there is no such module or attribute."""
    module_name, _, attribute = path.partition(":")
    if importlib.util.find_spec(module_name.partition(".")[0]) is None:
        raise InvalidArgumentError(f"{path!r} names a module that this interpreter does not find: {module_name}")
    target: Any = importlib.import_module(module_name)
    for part in attribute.split("."):
        if not hasattr(target, part):
            raise InvalidArgumentError(f"{path!r} names an attribute that {module_name} does not have: {part}")
        target = getattr(target, part)
    if not callable(target):
        raise InvalidArgumentError(f"{path!r} is not callable: it must be a function load(path, **options)")
    return target
