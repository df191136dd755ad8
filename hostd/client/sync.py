"""The synchronous, thread-safe client."""

from __future__ import annotations

import os
import time
from collections import deque
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hostd import paths
from hostd.client.channel import Channel
from hostd.client.handle import Handle
from hostd.client.tracker import again
from hostd.records import Event, HostInfo, ModelInfo, UnloadReport
from workers.wire.errors import DeadlineExceededError, InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType

    from hostd.client.tracker import Pending, PendingStream, Tracker
    from workers.wire.frames import Buffer

MAP_WINDOW = 64
"""Calls that `map` keeps in flight: enough to hide the round trip, few enough to lose little when one fails."""

DEFAULT_TIMEOUT_S = 60.0
"""A call that takes longer than a minute is a job; it should say so with a timeout of its own."""

CONNECT_TIMEOUT_S = 5.0
"""A host takes half a second to start; ten times that is the time to say that none is there."""


class PendingCall:
    """A call that was begun with `model.submit`."""

    def __init__(self, channel: Channel, pending: Pending, timeout_s: float | None) -> None:
        self._channel = channel
        self._pending = pending
        self._timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"<PendingCall {'done' if self._pending.is_done else 'waiting'}>"

    def done(self) -> bool:
        """Say whether the answer has come; it takes in what has arrived, and does not wait."""
        if not self._pending.is_done:
            self._channel.wait_until(self._pending, lambda: self._pending.is_done, time.monotonic())
        return self._pending.is_done

    def result(self, timeout_s: float | None = None) -> Any:
        """Wait for the answer, at most `timeout_s` (None: the call's own deadline), and return or raise it.

        After a `timeout_s` that was too short the call goes on: ask again, or `cancel` it.
        """
        if timeout_s is None:
            return self._channel.wait(self._pending, self._timeout_s)
        self._channel.wait_until(self._pending, lambda: self._pending.is_done, time.monotonic() + timeout_s)
        if not self._pending.is_done:
            raise DeadlineExceededError(f"there was no answer within {timeout_s:g} s; the call goes on")
        return self._pending.result()

    def cancel(self) -> None:
        """Give the call up; the worker skips it if it has not begun."""
        if not self._pending.is_done:
            self._channel.cancel(self._pending)


class ItemStream:
    """The items of a stream, as they come. Closing it, or leaving a `with` block, cancels what is still to come."""

    def __init__(self, channel: Channel, pending: PendingStream, timeout_s: float | None) -> None:
        self._channel = channel
        self._pending = pending
        self._deadline_s = None if timeout_s is None else time.monotonic() + timeout_s

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        pending = self._pending
        self._channel.wait_until(pending, lambda: bool(pending.items) or pending.is_done, self._deadline_s)
        if pending.items:
            item, credit = pending.take()
            if credit and not pending.is_done:
                self._channel.grant(pending, credit)
            return item
        if not pending.is_done:
            self.close()
            raise DeadlineExceededError("the deadline passed before the stream's next item came")
        if pending.error is not None:
            error, pending.error = pending.error, None
            raise again(error)
        raise StopIteration

    def close(self) -> None:
        """Cancel the stream, in the worker too."""
        if not self._pending.is_done:
            self._channel.cancel(self._pending)
            self._pending.error = None
        self._pending.items.clear()

    def __enter__(self) -> ItemStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        # A `for` loop that was left early drops its iterator without a word; the worker must not go on for nobody.
        self.close()


class Model(Handle):
    """A model in the host; its methods are those of the loaded object, and run in its worker.

    `model.predict(x)` calls the model's `predict`, `model(x)` its default method, `model.submit.predict(x)` begins a
    call without waiting, `model.stream.generate(p)` iterates over what a generator yields, and
    `model.options(timeout_s=0.5)` is the same model with another timeout.
    """

    _caller: Client

    @property
    def info(self) -> ModelInfo:
        """The model's record as it is now (asks the host)."""
        self._info = self._caller.get_model(self.id)
        return self._info

    @property
    def size(self) -> int:
        """The resident memory of the model's processes in bytes, as last measured (asks the host)."""
        return self._caller.get_model_size(self.id)

    @property
    def loaded(self) -> bool:
        """Whether the model serves (asks the host)."""
        return self.info.state in ("READY", "DEGRADED")

    @property
    def loading(self) -> bool:
        """Whether the model is still being loaded (asks the host)."""
        return self.info.state == "LOADING"

    def wait(self, timeout_s: float | None = None) -> Model:
        """Wait until the load has ended; raises its error if it failed. Returns the model itself."""
        self._info = self._caller.retrieve_model(self.id, timeout_s=timeout_s)._info  # noqa: SLF001 - one of us
        return self

    def options(self, *, timeout_s: float | None) -> Model:
        """Return the same model with another timeout for its calls, in seconds (None: no deadline)."""
        return Model(self._caller, self._info, timeout_s)

    def _refresh_for(self, name: str) -> bool:
        info = self.info
        return name in info.methods if name else info.default_method is not None


class Client:
    """A connection to a host; thread safe, and a context manager.

    Every verb raises a `hostd.HostError`: `UnavailableError` if the host is gone, `DeadlineExceededError` after its
    timeout, and what the host answers. After a restart of the host the next call connects again.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        timeout_s: float | None = DEFAULT_TIMEOUT_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        """Connect to `endpoint`, by default to the host of this user; see `hostd.connect`."""
        self.endpoint = endpoint or paths.default_endpoint()
        self.timeout_s = timeout_s
        self._channel = Channel(self.endpoint, connect_timeout_s)

    def __repr__(self) -> str:
        return f"<Client {self._channel!r}>"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; models stay loaded."""
        self._channel.close()

    # Models

    def load_model(
        self,
        model_id: str,
        local_model_path: str | os.PathLike[str] | None,
        model_type: str = "standalone-model",
        *,
        wait: bool = True,
        finder: str | None = None,
        initializer: str | None = None,
        options: dict[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> Model:
        """Load a model and return its handle; `wait=False` returns while it loads.

        `options` go to the loader, over those of `model.yaml`. Loading what is loaded returns at once. Raises
        `AlreadyExistsError` if the id is loaded from something else, `ModelError` with the model's traceback if its
        code raised, `NotFoundError` or `InvalidArgumentError` if there is no model at the path. No timeout by default:
        the host's `workers.load_timeout_s` ends a load that hangs.
        """
        arguments = load_arguments(model_id, local_model_path, model_type, wait, finder, initializer, options)
        return Model(self, ModelInfo.from_dict(self._verb("load_model", timeout_s, **arguments)), self.timeout_s)

    def unload_model(self, model_id: str, *, timeout_s: float | None = None) -> UnloadReport:
        """Unload a model; returns, with what was given back, when every process of it is gone."""
        return UnloadReport.from_dict(self._verb("unload_model", timeout_s, model_id=model_id))

    def unload_all_models(self, *, timeout_s: float | None = None) -> list[UnloadReport]:
        """Unload every model, in parallel."""
        return [UnloadReport.from_dict(report) for report in self._verb("unload_all_models", timeout_s)]

    def retrieve_model(self, model_id: str, *, timeout_s: float | None = None) -> Model:
        """Return the handle of a model, after waiting for it while it loads; `NotFoundError` if there is none."""
        return Model(
            self, ModelInfo.from_dict(self._verb("retrieve_model", timeout_s, model_id=model_id)), self.timeout_s
        )

    def get_model_size(self, model_id: str) -> int:
        """Return the resident memory of a model's processes in bytes, as last measured."""
        return size_of(self.get_model(model_id))

    def list_models(self) -> list[ModelInfo]:
        """Return the records of all models, by id."""
        return [ModelInfo.from_dict(model) for model in self._verb("list_models", self.timeout_s)]

    def get_model(self, model_id: str) -> ModelInfo:
        """Return the record of a model. Raises `NotFoundError` if there is none."""
        return ModelInfo.from_dict(self._verb("get_model", self.timeout_s, model_id=model_id))

    def explain_model(self, model_id: str) -> dict[str, Any]:
        """Return why a model is as it is: `state`, `reason`, its record, and the `story` of its last transitions."""
        return dict(self._verb("explain_model", self.timeout_s, model_id=model_id))

    def model_logs(self, model_id: str, tail_bytes: int = 65536) -> str:
        """Return the end of what a model's workers printed, also of a model that is gone."""
        return str(self._verb("model_logs", self.timeout_s, model_id=model_id, tail_bytes=tail_bytes))

    # The host

    def events(self, model_id: str | None = None) -> Iterator[Event]:
        """Iterate over transitions as they happen, of one model or of all; those after this returns are all there."""
        pending = self._channel.begin(lambda tracker: tracker.subscribe("events", {"model_id": model_id}))
        items = ItemStream(self._channel, pending, None)
        next(items)  # the first item says that the host has noted the subscription
        return _events(items)

    def host_info(self) -> HostInfo:
        """Return the record of the host."""
        return HostInfo.from_dict(self._verb("host_info", self.timeout_s))

    def shutdown(self) -> None:
        """Drain, unload everything and end the host; returns when that is done."""
        self._verb("shutdown", None)

    # What handles use

    def call(
        self, model_id: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout_s: float | None
    ) -> Any:
        """Call a method of a model by name, and return its result."""
        channel = self._channel
        pending = channel.begin(lambda tracker: tracker.call(model_id, method, args, kwargs, timeout_s))
        return channel.wait(pending, timeout_s)

    def submit(
        self, model_id: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout_s: float | None
    ) -> PendingCall:
        """Begin a call of a method."""
        pending = self._channel.begin(lambda tracker: tracker.call(model_id, method, args, kwargs, timeout_s))
        return PendingCall(self._channel, pending, timeout_s)

    def map(
        self, model_id: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout_s: float | None
    ) -> Iterator[Any]:
        """Call a method for each of many inputs, and iterate over the results in their order."""
        (inputs,) = only_inputs(args)
        channel, waiting = self._channel, deque[Any]()
        remaining = iter(inputs)
        try:
            while True:
                if len(waiting) <= MAP_WINDOW // 2:
                    fresh = islice(remaining, MAP_WINDOW - len(waiting))
                    waiting.extend(
                        channel.begin_all(
                            partial(
                                _map_call, model_id=model_id, method=method, x=x, kwargs=kwargs, timeout_s=timeout_s
                            )
                            for x in fresh
                        )
                    )
                if not waiting:
                    return
                yield channel.wait(waiting.popleft(), timeout_s)
        finally:
            for pending in waiting:
                channel.cancel(pending)

    def stream(
        self, model_id: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout_s: float | None
    ) -> ItemStream:
        """Call a method that yields, and return an iterator over its items."""
        pending = self._channel.begin(lambda tracker: tracker.stream(model_id, method, args, kwargs, timeout_s))
        return ItemStream(self._channel, pending, timeout_s)

    def _verb(self, verb: str, timeout_s: float | None, **arguments: Any) -> Any:
        pending = self._channel.begin(lambda tracker: tracker.verb(verb, arguments, timeout_s))
        return self._channel.wait(pending, timeout_s)


def _map_call(
    tracker: Tracker, *, model_id: str, method: str, x: Any, kwargs: dict[str, Any], timeout_s: float | None
) -> tuple[Pending, list[Buffer]]:
    return tracker.call(model_id, method, (x,), kwargs, timeout_s)


def only_inputs(args: tuple[Any, ...]) -> tuple[Iterable[Any]]:
    """Return the one positional argument of `map`, which must be iterable."""
    if len(args) != 1 or not hasattr(args[0], "__iter__"):
        raise InvalidArgumentError("map takes one iterable of inputs: model.map.predict(inputs, **the_same_for_each)")
    return args


def _events(items: ItemStream) -> Iterator[Event]:
    with items:
        for item in items:
            yield Event.from_dict(item)


def load_arguments(
    model_id: str,
    path: str | os.PathLike[str] | None,
    model_type: str,
    wait: bool,  # noqa: FBT001 - private to the two clients
    finder: str | None,
    initializer: str | None,
    options: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return the arguments of the verb `load_model`; the path becomes absolute, because the host has another cwd."""
    return {
        "model_id": model_id,
        "path": None if path is None else _absolute(path),
        "type": model_type,
        "wait": wait,
        "finder": finder,
        "initializer": initializer,
        "options": options or {},
    }


def _absolute(path: str | os.PathLike[str]) -> str:
    return os.path.abspath(Path(path).expanduser())  # noqa: PTH100 - Path.resolve would follow links


def size_of(info: ModelInfo) -> int:
    """Return the size of a model. Raises `NotFoundError` before the first measurement."""
    if info.size is None:
        raise NotFoundError(f"model {info.id!r} is {info.state} and was not measured yet")
    return info.size
