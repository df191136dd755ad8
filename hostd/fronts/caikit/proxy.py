"""The object that caikit's serving process has for a model: one of its own class, whose methods run in a worker.

Its class is a subclass made for it, so what caikit asks the class is answered as ever: tasks, signatures, module id.
Forwarded are the public methods and properties that the model's classes define, and `run_batch` and `save`; class and
static methods, `train` among them, stay where they are. An attribute that only the loaded model has is read from it.
What is set on the object stays in this process.

The model is unloaded when the object is collected, because that is how caikit unloads a model.
"""

from __future__ import annotations

import functools
import types
from typing import TYPE_CHECKING, Any

from caikit.core import MODEL_MANAGER, ModuleBase
from caikit.core.registries import module_backend_registry

from hostd.fronts.caikit import codec, tracing
from hostd.fronts.caikit.streams import Call, value_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostd.fronts.caikit.remote import Remote

_OF_BASE = ("run_batch", "save")
"""Methods of caikit's base class that need the model itself; all others of it build on these, or on the class."""

_LEFT_ALONE = ("metadata", "load_backend", "set_load_backend")
"""Of the object in this process; it is given the metadata of the model's, and the backend of the same type."""


def proxy_of(remote: Remote) -> ModuleBase:
    """Return the object for a model that is loaded. Raises ValueError if its class is not registered here."""
    described = remote.ask("describe")
    implementation = module_backend_registry().get(described["module_id"], {}).get(described["implementation"])
    if implementation is None:
        raise ValueError(
            f"the module {described['module_id']} ({described['class']}) is known in the model's process but not in "
            "the serving process: name its library in runtime.library"
        )
    proxy = unloaded(remote, implementation.impl_class)
    proxy.metadata.update(described["metadata"])
    backends = {backend.backend_type: backend for backend in MODEL_MANAGER.get_module_backends()}
    proxy.set_load_backend(backends.get(described["backend"]))
    return proxy


def unloaded(remote: Remote, implementation: type) -> ModuleBase:
    """Return the object for a model of a class that is not loaded: each call of it tries to."""
    kind = _subclass(implementation)
    proxy = kind.__new__(kind)
    ModuleBase.__init__(proxy)
    proxy._hostd = remote  # noqa: SLF001 - an object of our own class
    return proxy


def _subclass(implementation: type) -> Any:
    namespace: dict[str, Any] = {
        "__module__": implementation.__module__,
        "__qualname__": implementation.__qualname__,
        "__doc__": implementation.__doc__,
        "__getattr__": _read,
        "__del__": lambda _: None,  # a destructor of the model's has nothing to destroy here
    }
    for name in _OF_BASE:
        namespace[name] = _forward(name, getattr(ModuleBase, name))
    own = [kind for kind in implementation.__mro__ if kind not in ModuleBase.__mro__]
    for kind in reversed(own):
        for name, value in vars(kind).items():
            if name.startswith("_") or name in _LEFT_ALONE:
                continue
            if isinstance(value, types.FunctionType):
                namespace[name] = _forward(name, value)
            elif isinstance(value, (property, functools.cached_property)):
                namespace[name] = property(functools.partial(_read, name=name))
            else:
                namespace.pop(name, None)
    return type(implementation)(implementation.__name__, (implementation,), namespace)


def _forward(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def forwarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _call(self._hostd, name, args, kwargs)

    return forwarded


def _call(remote: Remote, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    call = Call(remote)
    sent = [codec.encode(value, call.keep) for value in args]
    named = {name: codec.encode(value, call.keep) for name, value in kwargs.items()}
    call.begin()
    return value_of(remote.ask("call", method, sent, named, tracing.carried()), call)


def _read(self: Any, name: str) -> Any:
    remote = self.__dict__.get("_hostd")
    if remote is None or name.startswith("_"):
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
    return value_of(remote.ask("read", name), Call(remote))
