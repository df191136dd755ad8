"""The errors for models that serve nobody at present."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostd.core.lifecycle import ModelState
from hostd_workers.wire.errors import FailedPreconditionError, HostError, NotFoundError

if TYPE_CHECKING:
    from hostd.core.events import ModelId
    from hostd.core.models import Model
    from hostd.core.registry import Registry


def check_directory(registry: Registry) -> None:
    """Raise `FailedPreconditionError` if this host has no models directory."""
    if registry.config.models_dir is None:
        raise FailedPreconditionError(
            "this host has no models directory: set models.dir (hostd serve --models-dir DIR)"
        )


def check_nothing_inside(registry: Registry, model_id: str, advice: str) -> None:
    """Raise `FailedPreconditionError` if models are loaded whose files lie inside of this one's directory."""
    nested = sorted(id for id in registry.models if id.startswith(f"{model_id}/"))
    if nested:
        raise FailedPreconditionError(f"{model_id!r} holds models that are loaded ({', '.join(nested[:10])}): {advice}")


def no_such_model(model_id: ModelId, registry: Registry) -> NotFoundError:
    """Return the error for an id that is not loaded."""
    failure = registry.failures.get(model_id)
    names = sorted(registry.models)[:10]
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
