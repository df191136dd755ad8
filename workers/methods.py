"""What of a model is exposed: its methods, how they answer, and the one behind calling the model itself."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

from hostd_workers.wire.errors import InvalidArgumentError, sayable
from hostd_workers.wire.light_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MAX_DOC_CHARS = 300
MAX_SIGNATURE_CHARS = 500

CLOSE = "close"
"""What a model calls the method with which it finishes; one that needs arguments is a method like others."""

_NO_METHODS = (property, functools.cached_property, type)


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
        except Exception:  # noqa: BLE001 - written in C it may have none; its defaults' repr is the model's own code
            signature = "(...)"
        doc = (inspect.getdoc(self.function) or "").split("\n", 1)[0]
        return {
            "name": self.name,
            "streams": self.streams,
            "is_async": self.is_async,
            "signature": sayable(signature)[:MAX_SIGNATURE_CHARS],
            "doc": sayable(doc)[:MAX_DOC_CHARS],
        }


def methods_of(model: object, names: Iterable[str] | None) -> dict[str, Method]:
    """Return the methods to expose: those named, or every public callable of the model.

    Raises `InvalidArgumentError` when a name is not a callable of the model, or when there is nothing to call.
    """
    wanted = _public_names(model) if names is None else list(names)
    found = {}
    for name in wanted:
        # The model itself, because the __call__ of a function knows neither its signature nor that it yields.
        function = model if name == "__call__" else _read(model, name)
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


def close_of(model: object, names: Iterable[str] | None) -> Callable[[], object] | None:
    """Return the `close` that a model has for its worker, None if it has none or callers may call it."""
    found = inspect.getattr_static(model, CLOSE, None)
    if found is None or isinstance(found, _NO_METHODS) or (names is not None and CLOSE in names):
        return None
    function = _read(model, CLOSE)
    try:
        inspect.signature(function).bind()
    except Exception:  # noqa: BLE001 - it needs arguments, or is none; of C code nothing may be known
        return None
    return function  # type: ignore[no-any-return]


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
        and not isinstance(inspect.getattr_static(model, name, None), _NO_METHODS)
        and callable(_read(model, name))
        and not (name == CLOSE and close_of(model, None))
    ]
    is_called_itself = callable(model) and not isinstance(model, type)
    return ["__call__", *names] if is_called_itself else names


def _read(model: object, name: str) -> Any:
    try:
        return getattr(model, name, None)
    except Exception:  # noqa: BLE001 - a descriptor is the model's own code; what cannot be read is not served
        return None


def _method(name: str, function: Callable[..., Any]) -> Method:
    # The code of a callable object is its class's __call__; of a partial it is that of what is inside.
    codes: list[Any] = [function] if inspect.isroutine(function) else [function, type(function).__call__]
    is_async_generator = any(map(inspect.isasyncgenfunction, codes))
    return Method(
        name=name,
        function=function,
        streams=is_async_generator or any(map(inspect.isgeneratorfunction, codes)),
        is_async=is_async_generator or any(map(inspect.iscoroutinefunction, codes)),
    )
