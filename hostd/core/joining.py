"""Joining a load: whether what somebody wants loaded is what is loaded, or being loaded, under its id."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostd.core.refusals import refusal_of
from hostd_workers.wire.errors import AlreadyExistsError

if TYPE_CHECKING:
    from hostd.core.events import LoadSource
    from hostd.core.models import Model


def check_joinable(model: Model, source: LoadSource) -> None:
    """Raise `HostError` unless a model is what loading this source would make of its id."""
    if model.unload is not None and not model.unload.is_coming_back:
        raise refusal_of(model)
    differing = differences(model, source)
    if differing:
        raise AlreadyExistsError(
            f"model {model.id!r} is loaded from something else: its {'; '.join(differing)}. "
            f"Load it with --reload (reload=True) to have it replaced, unload it first, or use another id",
            details={"model_id": model.id},
        )


def differences(model: Model, source: LoadSource) -> list[str]:
    """Return in words how what is loaded, or about to be, differs from what loading this source would make."""
    wanted, ours = source, model.source
    if model.unload is not None and model.unload.reload is not None:
        ours = model.unload.reload.source
    elif wanted.path == ours.path:  # what holds for each load of this model
        wanted = model.standing.under(wanted)
    return [
        f"{name} {'are' if name == 'options' else 'is'} {own!r:.200}, not {theirs!r:.200}"
        for name, own, theirs in zip(wanted._fields, ours, wanted, strict=True)
        if not _is_same(own, theirs)
    ]


def _is_same(one: object, other: object) -> bool:
    """Say whether two options are the same for a loader, to which 1, 1.0 and True differ, and nan is nan."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return one == other or (one != one and other != other)  # noqa: PLR0124 - that is what nan is
