"""The retrieved model: an object that behaves like the model; its methods run in its worker.

Shared by the synchronous and the asyncio client; what differs is the `Caller` behind it. A handle outlives its model's
worker: calls go by the model's id, so after a reload they reach the new one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from hostd.client.pickling import reopened
from hostd_workers.wire.errors import UnimplementedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostd.records import MethodInfo, ModelInfo


class UnknownMethodError(UnimplementedError, AttributeError):
    """The model has no such method; it is an AttributeError too, so `hasattr` works."""


class Caller(Protocol):
    """What a handle needs of its client; the attributes are what another client like it is made of."""

    endpoint: str
    timeout_s: float | None
    connect_timeout_s: float

    def call(self, model_id: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout_s: Any) -> Any:
        """Call a method and return its result, or an awaitable of it."""
        ...

    def submit(self, model_id: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout_s: Any) -> Any:
        """Begin a call and return it."""
        ...

    def map(self, model_id: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout_s: Any) -> Any:
        """Call a method for each of many inputs and return an iterator over the results, or an asynchronous one."""
        ...

    def stream(self, model_id: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout_s: Any) -> Any:
        """Call a method that yields and return an iterator, or an asynchronous one."""
        ...

    def get_model(self, model_id: str) -> Any:
        """Return the record of a model, or an awaitable of it."""
        ...

    def get_model_size(self, model_id: str) -> Any:
        """Return the resident memory of a model in bytes, or an awaitable of it."""
        ...

    def _verb(self, verb: str, timeout_s: float | None, **arguments: Any) -> Any:
        """Return the answer of the host to a verb, or an awaitable of it."""
        ...


class Methods:
    """A namespace with the model's methods as attributes, each of them sent off by the client's method `run`."""

    def __init__(self, handle: Handle, run: str) -> None:
        self._handle = handle
        self._run = run

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):  # copy, pickle and the like ask for such names before there is a `_handle`
            raise AttributeError(name)
        return self._handle._bound(name, self._run)  # noqa: SLF001 - one concept in two classes

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model's default method."""
        return self._handle._bound(self._handle._default(), self._run)(*args, **kwargs)  # noqa: SLF001 - as above

    def __dir__(self) -> list[str]:
        return sorted(self._handle.methods)

    def __repr__(self) -> str:
        return f"<methods of {self._handle!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Methods, (self._handle, self._run)


class Method:
    """A method of a model, as a function is; it can be given to other processes."""

    def __init__(self, handle: Handle, run: str, name: str, info: MethodInfo | None) -> None:
        self._of = (handle, run, name, info)
        self._run = getattr(handle._caller, run)  # noqa: SLF001 - one concept in two classes
        self._model_id = handle.id
        self._timeout_s = handle._timeout_s  # noqa: SLF001 - as above
        self.__name__ = name
        if info is not None:
            self.__doc__ = f"{name}{info.signature}\n\n{info.doc}"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model's method."""
        return self._run(self._model_id, self.__name__, args, kwargs, self._timeout_s)

    def __repr__(self) -> str:
        return f"<method {self.__name__!r} of {self._of[0]!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Method, self._of


class Handle:
    """The base of `Model` and `AsyncModel`: everything that involves no waiting.

    It can be pickled: in the other process it is a handle of the same model, with a client that connects to the same
    endpoint.
    """

    _can_ask: ClassVar[bool]
    """Whether its client answers at once, and not with an awaitable."""

    def __init__(self, caller: Caller, info: ModelInfo, timeout_s: float | None) -> None:
        self._caller = caller
        self._info = info
        self._timeout_s = timeout_s
        self._was_loaded = info.already_loaded  # of the load, whatever the record says later

    @property
    def id(self) -> str:
        """The model's id."""
        return self._info.id

    @property
    def path(self) -> str | None:
        """Where the model was loaded from; None if it has no path."""
        return self._info.path

    @property
    def type(self) -> str:
        """The model's type, as it was given to `load_model`."""
        return self._info.type

    @property
    def already_loaded(self) -> bool:
        """Whether the `load_model` that returned this handle had nothing to load."""
        return self._was_loaded

    @property
    def files_changed(self) -> bool:
        """Whether the files at the path were others than those that are loaded, by the last record that came."""
        return self._info.files_changed

    @property
    def methods(self) -> dict[str, MethodInfo]:
        """The methods that the model serves, by name; empty until it is loaded."""
        return dict(self._info.methods)

    @property
    def submit(self) -> Methods:
        """The model's methods, begun without waiting: `model.submit.predict(x).result()`.

        Do not change an array that was given to it until the result is there: big ones are sent without a copy.
        """
        return Methods(self, "submit")

    @property
    def map(self) -> Methods:
        """The model's methods, for many inputs: `for y in model.map.predict(inputs)`, results in order, 64 in flight.

        Further keywords are the same for each call. The first error ends it, and cancels what was begun.
        """
        return Methods(self, "map")

    @property
    def stream(self) -> Methods:
        """The model's generators: `for item in model.stream.generate(prompt)`. Closing the iterator cancels it."""
        return Methods(self, "stream")

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method by name, also one with a name that the handle uses for itself."""
        return self._caller.call(self.id, method, args, kwargs, self._timeout_s)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model's default method."""
        return self._caller.call(self.id, self._default(), args, kwargs, self._timeout_s)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):  # copy, pickle and the like ask for such names before there is an `_info`
            raise AttributeError(name)
        bound = self._bound(name, "call")
        # Kept, so that the next call finds it without coming here; if a reload makes it wrong the host says so.
        self.__dict__[name] = bound
        return bound

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._info.methods})

    def __repr__(self) -> str:
        info = self._info
        pids = ", ".join(str(worker.pid) for worker in info.workers)
        methods = ", ".join(sorted(info.methods)) or "none yet"
        return f"<{type(self).__name__} {info.id!r} {info.state} pid={pids or None} methods: {methods}>"

    def __copy__(self) -> Handle:
        return type(self)(self._caller, self._info, self._timeout_s)

    def __deepcopy__(self, _: object) -> Handle:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        caller = self._caller
        client = (type(caller), caller.endpoint, caller.timeout_s, caller.connect_timeout_s)
        return reopened, (type(self), client, self._info, self._timeout_s)

    def _bound(self, name: str, run: str) -> Callable[..., Any]:
        is_known = name in self._info.methods or self._refresh_for(name)
        # Of what is being loaded nobody knows the methods yet: the host says what becomes of the call.
        if not is_known and self._info.state != "LOADING":
            known = ", ".join(sorted(self._info.methods)) or "none"
            raise UnknownMethodError(
                f"model {self.id!r} has no method {name!r}; it has: {known}",
                details={"methods": sorted(self._info.methods)},
            )
        return Method(self.__copy__(), run, name, self._info.methods.get(name))  # of a copy, which does not keep it

    def _default(self) -> str:
        name = self._info.default_method
        if name is None and not self._refresh_for(""):
            known = ", ".join(sorted(self._info.methods)) or "none"
            raise UnimplementedError(f"model {self.id!r} has no default method; call one of: {known}")
        return self._info.default_method or ""

    def _refresh_for(self, name: str) -> bool:
        """Look again what the model serves, if that takes no `await`; say whether `name` ("": the default) is known."""
        if not self._can_ask:
            return False
        info = self._info = self._caller.get_model(self.id)
        return name in info.methods if name else info.default_method is not None
