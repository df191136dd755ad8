"""What the author of a model or of a loader implements and uses.

Covers the shapes of a loader and of an initializer, and what they may return. Does not cover how a loaded model is
served (`hostd_workers.calls.runtime`) or how they are found by name (`hostd_workers.plugins`).
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any, Protocol

from hostd_workers.wire.installing import MissingDependencyError
from hostd_workers.wire.light_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Initializer", "Loader", "MissingDependencyError", "Served", "Specification"]


class Loader(Protocol):
    """A function that turns a path into a model.

    `load` in a `model.py`, every built-in loader and every `module:attr` named in a `model.yaml` have this shape.
    """

    def __call__(self, path: str | None, /, **options: Any) -> object:
        """Return the model object, or a `Served` that also says which of its methods to expose."""
        ...


@dataclass(frozen=True)
class Specification:
    """What a worker has to load: the model's id and path, the name of its loader, and the loader's options.

    A worker makes it, with what finds and calls the loader.
    """

    model_id: str
    path: str | None
    loader: str
    options: Mapping[str, Any]
    load_with: Callable[[str, str | None, Mapping[str, Any]], object] = field(repr=False, compare=False)

    def load(self) -> object:
        """Return what the loader makes of the path: the model, or a `Served`.

        Raises InvalidArgumentError if there is no such loader or it does not take the options; what the loader raises
        goes through.
        """
        return self.load_with(self.loader, self.path, self.options)


class Initializer(Protocol):
    """A function that turns a specification into the object to serve, called instead of the loader.

    It has the `config` that the host's configuration gives it, and calls `spec.load()` for the loader's part:

        def warmed(spec, *, rounds=1):
            model = spec.load()
            ...
            return model
    """

    def __call__(self, spec: Specification, /, **config: Any) -> object:
        """Return the model object, or a `Served`."""
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
