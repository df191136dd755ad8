"""Types of plugins: from what a configuration says to the thing itself, or to a reference that a worker resolves.

A type is a built-in name, the name of an entry point, or an import path `module:attribute`, looked for in this order.
Finders and sizers are imported here. Loaders and initializers belong to workers, fronts to processes of their own: of
these only the metadata of installed packages is read, and never a module. Entry points are read only for a name that
nothing else explains, because reading them takes milliseconds.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from typing import TYPE_CHECKING, Any

from hostd_workers.wire.errors import InvalidArgumentError
from hostd_workers.wire.light import pattern

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

LOADERS = "loaders"
INITIALIZERS = "initializers"
FINDERS = "finders"
SIZERS = "sizers"
FRONTS = "fronts"

BUILT_IN_LOADERS = ("lightgbm", "mlflow", "onnx", "python", "sklearn", "torch", "transformers", "xgboost")
"""Literal, because the supervisor imports nothing of workers but the wire; a test compares it with what these have."""

BUILT_IN_INITIALIZERS = ("default",)

_IMPORT_PATH = pattern(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def reference(section: str, name: str, built_in: Iterable[str]) -> str | None:
    """Return what a worker can resolve: a built-in name or `module:attribute`; None if nothing has this name.

    Raises InvalidArgumentError for a malformed import path, and for an entry point that packages declare differently.
    """
    if ":" in name:
        return _import_path(name)
    if name in built_in:
        return name
    declared = _entry_points(section).get(name, ())
    if len(declared) > 1:
        raise InvalidArgumentError(
            f"more than one package declares the entry point {name!r} in hostd.{section}: "
            f"{', '.join(sorted(declared))}; write the one that is meant instead"
        )
    return _import_path(next(iter(declared))) if declared else None


def _import_path(text: str) -> str:
    if not _IMPORT_PATH.fullmatch(text):
        raise InvalidArgumentError(f"{text!r} must look like 'package.module:attribute'")
    return text


def unknown(section: str, name: str, known: Iterable[str]) -> InvalidArgumentError:
    """Return the error for a name that nothing has; it lists those that are known, entry points too."""
    names = sorted({*known, *_entry_points(section)})
    kind = section.removesuffix("s")
    return InvalidArgumentError(
        f"there is no {kind} {name!r}; known are {', '.join(names) or 'none'}; another one is named as "
        "'module:attribute'",
        details={"known": names},
    )


def factory(section: str, name: str, built_in: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    """Import and return the class or function of this type.

    Raises InvalidArgumentError for an unknown type, and for one that cannot be imported or called.
    """
    if name in built_in:
        return built_in[name]
    found = reference(section, name, ())
    if found is None:
        raise unknown(section, name, built_in)
    module, _, attribute = found.partition(":")
    try:
        made = functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise InvalidArgumentError(f"{found!r} cannot be imported: {error}") from error
    if not callable(made):
        raise InvalidArgumentError(f"{found!r} must be a class or a function, not a {type(made).__name__}")
    return made


def make(made_by: Callable[..., Any], config: Mapping[str, Any]) -> Any:
    """Return what a class or function makes of a configuration.

    Raises InvalidArgumentError, with the signature, if it does not take these keywords; what it raises goes through.
    """
    try:
        signature = inspect.signature(made_by)
    except (TypeError, ValueError):
        signature = None  # some of those written in C have none to check against
    if signature is not None:
        try:
            signature.bind(**config)
        except TypeError as error:
            raise InvalidArgumentError(
                f"its config does not fit {getattr(made_by, '__name__', made_by)}{signature}: {error}"
            ) from None
    return made_by(**config)


def _entry_points(section: str) -> dict[str, set[str]]:
    from importlib.metadata import entry_points  # noqa: PLC0415 - slow, see above

    found: dict[str, set[str]] = {}
    for point in entry_points(group=f"hostd.{section}"):
        found.setdefault(point.name, set()).add(f"{point.module}:{point.attr}")
    return found
