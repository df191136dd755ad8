"""What the author of a model or of a loader implements and uses.

Covers the shapes of a loader and of an initializer, and what they may return. Does not cover how a loaded model is
served (`hostd_workers.calls.runtime`) or how they are found by name (`hostd_workers.plugins`).
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from hostd_workers.wire.installing import MissingDependencyError
from hostd_workers.wire.light_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["Initializer", "Loader", "MissingDependencyError", "Served", "Signature", "Specification", "Tensor"]


class Loader(Protocol):
    """A function that turns a path into a model.

    `load` in a `model.py`, every built-in loader and every `module:attr` named in a `model.yaml` have this shape. What
    it returns may have a `close()` to finish with, see `Served`.
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
class Tensor:
    """An input or output of a method.

    `datatype` is one of the Open Inference Protocol (BOOL, UINT8 to UINT64, INT8 to INT64, FP16, FP32, FP64, BF16,
    BYTES for text and bytes), or "" if it may be any. `shape` has -1 for a size that may be any, `()` is a single
    value, None says nothing. An `optional` input may be left out.
    """

    name: str
    datatype: str = ""
    shape: Sequence[int] | None = None
    optional: bool = False


@dataclass(frozen=True)
class Signature:
    """What a method takes and returns, for callers that have only names, datatypes and shapes.

    `passing` says how the inputs are passed: "array", the only one as the first argument; "map", all in one map of
    names to values, the first argument; "keywords", each as a keyword argument. "" chooses "array" for one input, else
    "keywords". Inputs may be joined along `batch_axis` (None: they may not). `example` has a value for each input, as
    lists and plain values. `known_from` is "declared" if somebody wrote it down, "reported" if the library of the model
    knows it.
    """

    inputs: Sequence[Tensor] = ()
    outputs: Sequence[Tensor] = ()
    passing: Literal["array", "map", "keywords", ""] = ""
    batch_axis: int | None = None
    example: Mapping[str, Any] | None = None
    known_from: Literal["declared", "reported"] = "declared"


@dataclass(frozen=True)
class Served:
    """A loaded model together with what to expose of it, and how to finish with it.

    `methods` names the methods that callers may use; None exposes every public callable. `default` is the method behind
    calling the model itself; None leaves the choice to the runtime (`__call__`, `predict`, or the only method).
    `signatures` say by method what it takes and returns; of a method without one its type hints do.

    `close` is called once, without arguments, before the model is ended in order: when it is unloaded, evicted,
    reloaded or replaced, when the host shuts down, or when its load is given up. It may be a coroutine function. None
    takes the model's own `close()`, if that needs no argument; it is no method for callers then, unless `methods` names
    it. Calls in flight have ended before. With them it has `workers.drain_timeout_s` seconds, then its process is
    killed. It is not called before a kill (`now`, a memory limit) and cannot be after a crash. What it raises is in
    the model's log and in its story (CLOSE_FAILED), and keeps nothing from being unloaded.
    """

    model: object
    methods: tuple[str, ...] | None = None
    default: str | None = None
    signatures: Mapping[str, Signature] = field(default_factory=dict)
    close: Callable[[], object] | None = None
