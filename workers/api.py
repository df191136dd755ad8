"""What the author of a model or of a loader implements and uses.

Covers the shape of a loader and what it may return. Does not cover how a loaded model is served (`workers.runtime`)
or how a loader is found by name (`workers.plugins`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from workers.wire.errors import FailedPreconditionError


class Loader(Protocol):
    """A function that turns a path into a model.

    `load` in a `model.py`, every built-in loader and every `module:attr` named in a `model.yaml` have this shape.
    """

    def __call__(self, path: str | None, /, **options: Any) -> object:
        """Return the model object, or a `Served` that also says which of its methods to expose."""
        ...


@dataclass(frozen=True)
class Served:
    """A loaded model together with what to expose of it.

    `methods` names the methods that callers may use; None exposes every public callable. `default` is the method behind
    calling the model itself; None leaves the choice to the runtime (`__call__`, `predict`, or the only method).
    """

    model: object
    methods: tuple[str, ...] | None = None
    default: str | None = None


class MissingDependencyError(FailedPreconditionError):
    """A loader needs a library that the worker's interpreter does not have."""

    def __init__(self, library: str, extra: str) -> None:
        """Name the `library` that is missing and the `extra` of this package that brings it."""
        super().__init__(
            f"this model needs the library {library!r}, which the worker's interpreter does not have; "
            f"install it there, for example with: pip install 'hostd[{extra}]'",
            details={"library": library, "extra": extra},
        )
