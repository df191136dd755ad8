"""Which loads import the same, and which modules may be learned from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from hostd.core.bookkeeping.templates import Base, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hostd.core.events import LoadingSpec
    from hostd.core.models import Model

MOST_MODULES: Final = 8000
_MOST_CHARS: Final = 200

_OF_OWN_CODE: Final = ("python", "mlflow")
"""Loaders of which each model imports what it likes."""


def kind_of(model: Model) -> Kind:
    """Return the kind of loads that a model's are, of which a finder has said how it is loaded."""
    spec = cast("LoadingSpec", model.spec)  # nothing is started that was not found
    base = Base(spec.python, tuple(sorted(spec.env.items())))
    initializer = "" if spec.initializer is None else spec.initializer[0]
    return Kind(base, spec.loader, initializer, (model.source.path or "") if spec.loader in _OF_OWN_CODE else "")


def content_of(model: Model) -> tuple[Kind, str]:
    """Return what tells a model from others of its kind, load after load."""
    return kind_of(model), model.source.path or model.id


def learnable(names: Iterable[str]) -> list[str]:
    """Return those of the names that are modules which may be imported without being run as a program."""
    return [name for name in names if _is_module(name)]


def _is_module(name: str) -> bool:
    parts = name.split(".")
    return len(name) <= _MOST_CHARS and parts[-1] != "__main__" and all(part.isidentifier() for part in parts)
