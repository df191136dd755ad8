"""What of a model is exposed: its methods, how they answer, and the one behind calling the model itself."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workers.wire.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MAX_DOC_CHARS = 300
MAX_SIGNATURE_CHARS = 500


@dataclass(frozen=True)
class Method:
    """A callable of a model; `streams` for generator functions, `is_async` for coroutine and async generator ones."""

    name: str
    function: Callable[..., Any]
    streams: bool
    is_async: bool

    def describe(self) -> dict[str, Any]:
        """Return what callers may know of the method, as plain values."""
        try:
            signature = str(inspect.signature(self.function))
        except (ValueError, TypeError):  # a callable written in C may have none
            signature = "(...)"
        doc = (inspect.getdoc(self.function) or "").split("\n", 1)[0]
        return {
            "name": self.name,
            "streams": self.streams,
            "is_async": self.is_async,
            "signature": signature[:MAX_SIGNATURE_CHARS],
            "doc": doc[:MAX_DOC_CHARS],
        }


def methods_of(model: object, names: Iterable[str] | None) -> dict[str, Method]:
    """Return the methods to expose: those named, or every public callable of the model.

    Raises `InvalidArgumentError` when a name is not a callable of the model, or when there is nothing to call.
    """
    wanted = _public_names(model) if names is None else list(names)
    found = {}
    for name in wanted:
        function = getattr(model, name, None)
        if not callable(function):
            raise InvalidArgumentError(
                f"the model, a {type(model).__qualname__}, has no method {name!r} to expose; "
                f"it has: {', '.join(_public_names(model)) or 'none'}"
            )
        found[name] = _method(name, function)
    if not found:
        raise InvalidArgumentError(
            f"the model, a {type(model).__module__}.{type(model).__qualname__}, has no public method to call: "
            f"load() must return an object with methods, or a function"
        )
    return found


def default_of(methods: dict[str, Method], wanted: str | None) -> str | None:
    """Return the method behind calling the model: the wanted one, `__call__`, `predict`, or the only one."""
    if wanted is not None:
        if wanted not in methods:
            raise InvalidArgumentError(f"the default method {wanted!r} is not one of: {', '.join(sorted(methods))}")
        return wanted
    for name in ("__call__", "predict"):
        if name in methods:
            return name
    return next(iter(methods)) if len(methods) == 1 else None


def _public_names(model: object) -> list[str]:
    # Static look-ups, because reading a property runs the model's code.
    names = [
        name
        for name in dir(model)
        if not name.startswith("_")
        and not isinstance(inspect.getattr_static(model, name, None), (property, type))
        and callable(getattr(model, name, None))
    ]
    is_called_itself = callable(model) and not isinstance(model, type)
    return ["__call__", *names] if is_called_itself else names


def _method(name: str, function: Callable[..., Any]) -> Method:
    inner: Any = function
    if not inspect.isroutine(function) and name == "__call__":
        inner = type(function).__call__
    return Method(
        name=name,
        function=function,
        streams=inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner),
        is_async=inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner),
    )
