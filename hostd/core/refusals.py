"""The errors for models that serve nobody at present, that broke their limit, or that the budget has no room for."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from hostd.core.lifecycle import ModelState
from hostd.core.values import Death
from hostd.units import format_size
from hostd_workers.wire.errors import (
    FailedPreconditionError,
    HostError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    from hostd.core.events import ModelId
    from hostd.core.models import Model
    from hostd.core.registry import Registry
    from hostd.records import Holder

_HOLDERS_NAMED = 10
"""In a message; its details have all of them."""

_HOW = {
    "declared": "The figure is the size in its model.yaml: correct it there if it is wrong",
    "remembered": "The figure was measured when the same content was loaded last; a size in its model.yaml replaces it",
    "at least": "A load of the same content held that much when it was ended; change the model, and it is tried again",
    "estimated": "The figure is an estimate from its files (sizers.default): say size in its model.yaml if you know it",
    "assumed": "Nothing is known of it, and memory.assumed_size is assumed: say size in its model.yaml if you know it",
}
"""How a need is known, and what helps if it is wrong."""


def check_directory(registry: Registry) -> None:
    """Raise `FailedPreconditionError` if this host has no models directory."""
    if registry.config.models_dir is None:
        raise FailedPreconditionError(
            "this host has no models directory: set models.dir to one that exists (hostd serve --models-dir DIR)"
        )


def check_nothing_inside(registry: Registry, model_id: str, advice: str) -> None:
    """Raise `FailedPreconditionError` if models are loaded with files inside of this one's directory."""
    nested = sorted(id for id in registry.models if id.startswith(f"{model_id}/"))
    if nested:
        raise FailedPreconditionError(f"{model_id!r} holds models that are loaded ({', '.join(nested[:10])}): {advice}")


def no_such_model(model_id: ModelId, registry: Registry) -> HostError:
    """Return the error for an id that is not loaded, or not yet: callers try again what is UNAVAILABLE."""
    if registry.is_reading:
        return UnavailableError(
            f"model {model_id!r} is not loaded yet: the host has just started, and reads its models directory; "
            "try again",
            details={"model_id": model_id},
        )
    failure = registry.failures.get(model_id)
    names = heapq.nsmallest(10, registry.models)
    loaded = f"loaded are: {', '.join(names)}" if names else "no model is loaded"
    said = loaded if failure is None else f"its last load failed: {failure.error.message}"
    if model_id in registry.evicted:
        said = "it was evicted, and is loaded again when it is used (load_model, retrieve_model, or a call)"
    return NotFoundError(f"there is no model {model_id!r}; {said}", details={"model_id": model_id})


def refusal_of(model: Model) -> HostError:
    """Return the error for a model that serves nobody at present."""
    advice = {
        ModelState.LOADING: "wait for it with retrieve_model",
        ModelState.UNLOADING: "load it again when that is done",
        ModelState.FAILED: "load it again",
    }.get(model.state, "see explain_model")
    reason = f" ({model.reason})" if model.reason else ""
    return FailedPreconditionError(
        f"model {model.id!r} is {model.state.value}{reason}: {advice}",
        details={
            "model_id": model.id,
            "state": model.state.value,
            "reason": model.reason,
            **(model.death.details if model.death else {}),  # with a reason that programs can tell, if there is one
        },
    )


class OverBudget(NamedTuple):
    """A load for which there is no room: what it needs or holds, what is free, what holds the rest, and since when."""

    model: Model
    needed_bytes: int
    free_bytes: int
    budget_bytes: int
    holders: tuple[Holder, ...]
    when: str


def over_budget(over: OverBudget, *, is_measured: bool = False) -> HostError:
    """Return the error of a load that is refused, or ended if it `is_measured` that it needs so much and more."""
    model, budget, needed = over.model, format_size(over.budget_bytes), format_size(over.needed_bytes)
    need = f"{format_size(model.need.bytes)} ({model.need.source})"
    is_above = over.needed_bytes > over.budget_bytes
    free = f"and {format_size(max(over.free_bytes, 0))} of the budget of {budget} are free {over.when}"
    how = _HOW.get(model.need.source, "")
    if is_measured:
        free = f"and the whole budget is {budget}" if is_above else free
        said = f"was killed while it was loaded: it held {needed} and needs more, {need} were expected, {free}"
        how = "That it needs more than this is remembered for its next load"
    elif is_above:
        said = f"needs {need}, more than the whole budget of {budget}"
    else:
        said = f"needs {need}, {free}"
    return ResourceExhaustedError(
        f"model {model.id!r} {said}; {_named(over.holders)}. Unload or unpin some, or raise memory.budget. {how}",
        details={
            "reason": "BUDGET",
            "model_id": model.id,
            "needed_bytes": over.needed_bytes,
            "need_source": "measured" if is_measured else model.need.source,
            "free_bytes": over.free_bytes,
            "budget_bytes": over.budget_bytes,
            "holders": [holder.to_dict() for holder in over.holders],
        },
    )


def _named(holders: tuple[Holder, ...]) -> str:
    if not holders:
        return "no other model holds any"
    named = (f"{h.model_id!r} {format_size(h.bytes)}{f', {h.why}' if h.why else ''}" for h in holders[:_HOLDERS_NAMED])
    more = len(holders) - _HOLDERS_NAMED
    return f"the rest is held by {'; '.join(named)}{f'; and {more} more' if more > 0 else ''}"


def limit_error(model: Model, limit_bytes: int | None, measured_bytes: int | None) -> HostError:
    """Return what the callers of a model hear that was over its limit; None is what is not known."""
    held = "" if measured_bytes is None else f" of {_exactly(measured_bytes)}"
    origin = model.spec.origins.get("memory_limit") if model.spec else None
    where = f", which {origin} sets. Raise memory_limit there" if origin else ". Raise its memory_limit"
    return ResourceExhaustedError(
        f"model {model.id!r} was killed: its memory{held} is over its memory_limit of "
        f"{_exactly(limit_bytes)}{where}, or have it use less",
        details={
            "reason": Death.MEMORY_LIMIT.value,
            "model_id": model.id,
            "measured_bytes": measured_bytes,
            "limit_bytes": limit_bytes,
            "limit_origin": origin,
        },
    )


def _exactly(size_bytes: int | None) -> str:
    """Return a size so that one that is a little more than another reads as more."""
    return f"{format_size(size_bytes)} ({size_bytes:,} bytes)" if size_bytes is not None else "unknown size"
