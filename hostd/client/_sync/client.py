"""The synchronous, thread-safe client."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from hostd import paths
from hostd.client import deploying
from hostd.client._sync.calls import ItemStream, PendingCall
from hostd.client._sync.channel import Channel
from hostd.client._sync.verbs import Verbs
from hostd.client.arguments import (
    CONNECT_TIMEOUT_S,
    DEFAULT_TIMEOUT_S,
    MAP_WINDOW,
    SERVING,
    load_arguments,
    only_inputs,
)
from hostd.client.files import Reader, collect
from hostd.client.handle import Handle
from hostd.client.pickling import NotPickled
from hostd.records import ModelInfo
from hostd_workers.wire.errors import HostError, NotFoundError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from types import TracebackType

    from hostd.client.deploying import Progress
    from hostd.client.files import Files, Part
    from hostd.client.tracker import Pending, Tracker
    from hostd_workers.wire.frames import Buffer


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
        return self._state() in SERVING

    @property
    def loading(self) -> bool:
        """Whether the model is still being loaded (asks the host)."""
        return self._state() == "LOADING"

    def _state(self) -> str:
        try:
            return self.info.state
        except NotFoundError:
            return "UNLOADED"

    def wait(self, timeout_s: float | None = None) -> Model:
        """Wait until the load has ended; raises its error if it failed. Returns the model itself."""
        self._info = self._caller._retrieved(self.id, timeout_s, self._info.generation)  # noqa: SLF001 - one of us
        return self

    def options(self, *, timeout_s: float | None) -> Model:
        """Return the same model with another timeout for its calls, in seconds (None: no deadline)."""
        return Model(self._caller, self._info, timeout_s)

    def _refresh_for(self, name: str) -> bool:
        info = self.info
        return name in info.methods if name else info.default_method is not None


class Client(NotPickled, Verbs):
    """A connection to a host; thread safe, and a context manager.

    Every verb raises a `hostd.HostError`: `UnavailableError` if the host is gone, `DeadlineExceededError` after its
    timeout, and what the host answers. After a restart of the host the next call connects again.

    In a signal handler or a finalizer that interrupts a call of the same client in the same thread, `close`, `submit`
    and `cancel` work, and whatever waits raises `FailedPreconditionError`. A client that is dropped closes by itself.
    """

    _instead = (
        "it is a connection of this process; pickle its endpoint and call hostd.connect(endpoint) there, or pickle a "
        "model's handle, which connects by itself"
    )

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        timeout_s: float | None = DEFAULT_TIMEOUT_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        wait_s: float = 0.0,
    ) -> None:
        """Connect to a host by its name or endpoint, by default to this user's; see `hostd.connect`."""
        self.endpoint = paths.endpoint_of(endpoint) if endpoint else paths.default_endpoint()
        self.timeout_s = timeout_s
        self.connect_timeout_s = connect_timeout_s
        self._channel = Channel(self.endpoint, connect_timeout_s, wait_s)

    def __repr__(self) -> str:
        return f"<Client {self._channel!r}>"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; models stay loaded."""
        self._channel.close()

    # What returns handles

    def load_model(
        self,
        model_id: str,
        local_model_path: str | os.PathLike[str] | None = None,
        model_type: str = "standalone-model",
        *,
        wait: bool = True,
        retries: int | None = None,
        finder: str | None = None,
        initializer: str | None = None,
        options: dict[str, Any] | None = None,
        reload: bool = False,
        timeout_s: float | None = None,
    ) -> Model:
        """Load a model and return its handle; `wait=False` returns while it loads.

        `options` go to the loader, over those of `model.yaml`. A load that fails is tried again `retries` times, each
        in a fresh process (None: as often as the host's settings say). Loading what is loaded starts nothing: the
        handle says that it is `already_loaded`, and in `files_changed` whether its files have changed since. With
        `reload` it is unloaded first, whatever it was loaded from, and calls that come meanwhile wait. A reload without
        a path is from where it was, with the type, the finder, the initializer, the retries and each of the options
        that it had where this call gives none.

        Raises `AlreadyExistsError` if the id is loaded from something else and `reload` is not set, `ModelError` with
        the model's traceback if its code raised, `NotFoundError` or `InvalidArgumentError` if there is no model at the
        path (or no path, and nothing to reload), and `ResourceExhaustedError` if the budget has no memory for it:
        never, or not within the host's `memory.admission_timeout_s`; `plan_load` says so beforehand. No timeout by
        default: the host's `workers.load_timeout_s` ends a load that hangs.
        """
        arguments = load_arguments(
            model_id,
            local_model_path,
            model_type,
            wait=wait,
            retries=retries,
            finder=finder,
            initializer=initializer,
            options=options,
            reload=reload,
        )
        return Model(self, ModelInfo.from_dict(self._verb("load_model", timeout_s, **arguments)), self.timeout_s)

    def retrieve_model(self, model_id: str, *, timeout_s: float | None = None) -> Model:
        """Return the handle of a model, after waiting for it while it loads; `NotFoundError` if there is none.

        A host with lazy loading loads it first, from the models directory. No timeout by default, as for `load_model`.
        """
        return Model(self, self._retrieved(model_id, timeout_s), self.timeout_s)

    def _retrieved(self, model_id: str, timeout_s: float | None, generation: int | None = None) -> ModelInfo:
        # With the generation the host can tell the error of just that load, if it has failed meanwhile.
        arguments = {"model_id": model_id, **({} if generation is None else {"generation": generation})}
        return ModelInfo.from_dict(self._verb("retrieve_model", timeout_s, **arguments))

    def deploy_model(
        self,
        model_id: str,
        files: Files,
        model_type: str = "standalone-model",
        *,
        wait: bool = True,
        replace: bool = False,
        keep: bool = False,
        retries: int | None = None,
        finder: str | None = None,
        initializer: str | None = None,
        options: dict[str, Any] | None = None,
        progress: Progress | None = None,
        timeout_s: float | None = None,
    ) -> Model:
        """Copy a model's files into the host's models directory, load it from there, and return its handle.

        `files` is a local directory (all its regular files; links to files are followed), or a map of names, which may
        have subdirectories, to contents or to paths of local files. All or nothing: if anything fails, or `progress`
        raises, no file is left, unless `keep` is set and only the load failed. `replace` deploys over a model of that
        id, which serves until the new one is ready. `progress(sent_bytes, total_bytes)` is called whenever the host has
        written a piece. The other arguments are those of `load_model`; `timeout_s` is for all of it.

        Raises `AlreadyExistsError` if the id is deployed and `replace` is not set, `InvalidArgumentError` for names and
        files that cannot be deployed, `FailedPreconditionError` if the host has no models directory that it may write
        to or a file changes while it is sent, `ResourceExhaustedError` if the host's disk is full, and what
        `load_model` raises.
        """
        deadline = deploying.Deadline(timeout_s)
        collected = collect(files)
        arguments = deploying.begin_arguments(
            model_id,
            collected,
            model_type,
            wait=wait,
            replace=replace,
            keep=keep,
            retries=retries,
            finder=finder,
            initializer=initializer,
            options=options,
        )
        upload = self._verb("deploy_begin", deadline.left_s(), **arguments)["upload"]
        try:
            self._send_files(upload, collected.parts, progress, deadline)
            info = self._verb("deploy_commit", deadline.left_s(), upload=upload)
        except BaseException as error:
            if deploying.is_worth_an_abort(error):
                with suppress(HostError):
                    self._verb("deploy_abort", deploying.ABORT_TIMEOUT_S, upload=upload)
            raise
        return Model(self, ModelInfo.from_dict(info), self.timeout_s)

    # What handles use

    def call(
        self, model_id: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout_s: float | None
    ) -> Any:
        """Call a method of a model by name, and return its result."""
        return self._channel.ask(lambda tracker: tracker.call(model_id, method, args, kwargs, timeout_s), timeout_s)

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
        channel.check_may_wait()
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

    def _send_files(
        self, upload: int, parts: list[Part], progress: Progress | None, deadline: deploying.Deadline
    ) -> None:
        channel, sent_bytes, total_bytes = self._channel, 0, sum(part.size_bytes for part in parts)
        reader = Reader(parts, deploying.chunk_bytes(channel.max_message_bytes))
        waiting: deque[tuple[Pending, int]] = deque()
        try:
            chunk = reader.next()
            while chunk is not None or waiting:
                if chunk is None or len(waiting) == deploying.WINDOW:
                    pending, size_bytes = waiting[0]
                    channel.wait(pending, deadline.left_s())
                    waiting.popleft()
                    sent_bytes += size_bytes
                    if progress is not None:
                        progress(sent_bytes, total_bytes)
                else:
                    pending = self._begin("deploy_write", deadline.left_s(), upload=upload, **chunk._asdict())
                    waiting.append((pending, len(chunk.data)))
                    chunk = reader.next()
        finally:
            reader.close()
            for pending, _ in waiting:
                channel.cancel(pending)


def _map_call(
    tracker: Tracker, *, model_id: str, method: str, x: Any, kwargs: dict[str, Any], timeout_s: float | None
) -> tuple[Pending, list[Buffer]]:
    return tracker.call(model_id, method, (x,), kwargs, timeout_s)
