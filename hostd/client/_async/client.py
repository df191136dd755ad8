"""The asyncio client: the same verbs as coroutines, on the loop that runs them."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from hostd import paths
from hostd.client import deploying
from hostd.client._async.calls import AsyncItemStream
from hostd.client._async.channels import AsyncChannels
from hostd.client._async.verbs import AsyncVerbs
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
from hostd.client.tracker import Tracker
from hostd.records import ModelInfo
from hostd_workers.wire.errors import HostError, NotFoundError

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator
    from types import TracebackType

    from hostd.client.deploying import Progress
    from hostd.client.files import Files, Part
    from hostd.client.tracker import Pending


class AsyncModel(Handle):
    """A model in the host, for asyncio: `await model.predict(x)`, `async for item in model.stream.generate(p)`."""

    _caller: AsyncClient

    async def info(self) -> ModelInfo:
        """Return the model's record as it is now."""
        self._info = await self._caller.get_model(self.id)
        return self._info

    async def size(self) -> int:
        """Return the resident memory of the model's processes in bytes, as last measured."""
        return await self._caller.get_model_size(self.id)

    async def loaded(self) -> bool:
        """Say whether the model serves."""
        return await self._state() in SERVING

    async def loading(self) -> bool:
        """Say whether the model is still being loaded."""
        return await self._state() == "LOADING"

    async def _state(self) -> str:
        try:
            return (await self.info()).state
        except NotFoundError:
            return "UNLOADED"

    async def wait(self, timeout_s: float | None = None) -> AsyncModel:
        """Wait until the load has ended; raises its error if it failed. Returns the model itself."""
        self._info = await self._caller._retrieved(self.id, timeout_s, self._info.generation)  # noqa: SLF001 - one of us
        return self

    def options(self, *, timeout_s: float | None) -> AsyncModel:
        """Return the same model with another timeout for its calls, in seconds (None: no deadline)."""
        return AsyncModel(self._caller, self._info, timeout_s)


class AsyncClient(NotPickled, AsyncVerbs):
    """A connection to a host for asyncio; an asynchronous context manager.

    `client = await hostd.AsyncClient.connect()`, or `async with hostd.AsyncClient() as client:`. Errors are those of
    `hostd.Client`. It may be used from several event loops, one after the other or in several threads: in each it has a
    connection of its own, made by its first request there, and so it has in a forked child.
    """

    _instead = (
        "its connections are of this process; pickle its endpoint and make a hostd.AsyncClient(endpoint) there, or "
        "pickle a model's handle, which connects by itself"
    )

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        timeout_s: float | None = DEFAULT_TIMEOUT_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        wait_s: float = 0.0,
    ) -> None:
        """Take a host's name or endpoint, by default this user's; `connect` or `async with` connects."""
        self.endpoint = paths.endpoint_of(endpoint) if endpoint else paths.default_endpoint()
        self.timeout_s = timeout_s
        self.connect_timeout_s = connect_timeout_s
        self._channels = AsyncChannels(self.endpoint, connect_timeout_s, wait_s)

    @classmethod
    async def connect(cls, endpoint: str | None = None, **options: Any) -> AsyncClient:
        """Return a connected client; takes the arguments of the constructor."""
        client = cls(endpoint, **options)
        await client._channel.connect()
        return client

    def __repr__(self) -> str:
        return f"<AsyncClient {self._channels!r}>"

    async def __aenter__(self) -> AsyncClient:
        await self._channel.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; models stay loaded, and requests that wait end with CANCELLED."""
        self._channels.close()

    # What returns handles

    async def load_model(
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
    ) -> AsyncModel:
        """Load a model and return its handle; see `hostd.Client.load_model`."""
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
        return AsyncModel(
            self, ModelInfo.from_dict(await self._verb("load_model", timeout_s, **arguments)), self.timeout_s
        )

    async def retrieve_model(self, model_id: str, *, timeout_s: float | None = None) -> AsyncModel:
        """Return the handle of a model, after waiting for it while it loads."""
        return AsyncModel(self, await self._retrieved(model_id, timeout_s), self.timeout_s)

    async def _retrieved(self, model_id: str, timeout_s: float | None, generation: int | None = None) -> ModelInfo:
        arguments = {"model_id": model_id, **({} if generation is None else {"generation": generation})}
        return ModelInfo.from_dict(await self._verb("retrieve_model", timeout_s, **arguments))

    async def deploy_model(
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
    ) -> AsyncModel:
        """Copy a model's files into the models directory and load it from there; see `hostd.Client.deploy_model`.

        Files are read in threads. `progress` is called on the loop, and is no coroutine.
        """
        deadline = deploying.Deadline(timeout_s)
        collected = await asyncio.to_thread(collect, files)
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
        upload = (await self._verb("deploy_begin", deadline.left_s(), **arguments))["upload"]
        try:
            await self._send_files(upload, collected.parts, progress, deadline)
            info = await self._verb("deploy_commit", deadline.left_s(), upload=upload)
        except BaseException as error:
            if deploying.is_worth_an_abort(error):
                with suppress(HostError):
                    await self._verb("deploy_abort", deploying.ABORT_TIMEOUT_S, upload=upload)
            raise
        return AsyncModel(self, ModelInfo.from_dict(info), self.timeout_s)

    # What handles use

    async def call(
        self, model_id: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout_s: float | None
    ) -> Any:
        """Call a method of a model by name, and return its result."""
        pending = await self._channel.begin(lambda tracker: tracker.call(model_id, method, args, kwargs, timeout_s))
        return await self._channel.wait(pending, timeout_s)

    def submit(
        self, model_id: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout_s: float | None
    ) -> asyncio.Task[Any]:
        """Begin a call of a method, as a task."""
        return asyncio.ensure_future(self.call(model_id, method, args, kwargs, timeout_s))

    async def map(
        self, model_id: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout_s: float | None
    ) -> AsyncIterator[Any]:
        """Call a method for each of many inputs, and iterate over the results in their order."""
        (inputs,) = only_inputs(args)
        channel, waiting = self._channel, deque[Any]()
        remaining = iter(inputs)
        try:
            while True:
                for x in islice(remaining, MAP_WINDOW - len(waiting)):
                    call = partial(Tracker.call, model_id=model_id, method=method, args=(x,), kwargs=kwargs)
                    waiting.append(await channel.begin(partial(call, timeout_s=timeout_s)))
                if not waiting:
                    return
                yield await channel.wait(waiting.popleft(), timeout_s)
        finally:
            for pending in waiting:
                channel.cancel(pending)

    async def stream(
        self, model_id: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout_s: float | None
    ) -> AsyncIterator[Any]:
        """Call a method that yields, and iterate over its items."""
        pending = await self._channel.begin(lambda tracker: tracker.stream(model_id, method, args, kwargs, timeout_s))
        async with AsyncItemStream(self._channel, pending, timeout_s) as items:
            async for item in items:
                yield item

    async def _send_files(
        self, upload: int, parts: list[Part], progress: Progress | None, deadline: deploying.Deadline
    ) -> None:
        channel, sent_bytes, total_bytes = self._channel, 0, sum(part.size_bytes for part in parts)
        reader = Reader(parts, deploying.chunk_bytes(channel.max_message_bytes))
        waiting: deque[tuple[Pending, int]] = deque()
        try:
            chunk = await asyncio.to_thread(reader.next)
            while chunk is not None or waiting:
                if chunk is None or len(waiting) == deploying.WINDOW:
                    pending, size_bytes = waiting[0]
                    await channel.wait(pending, deadline.left_s())
                    waiting.popleft()
                    sent_bytes += size_bytes
                    if progress is not None:
                        progress(sent_bytes, total_bytes)
                else:
                    pending = await self._begin("deploy_write", deadline.left_s(), upload=upload, **chunk._asdict())
                    waiting.append((pending, len(chunk.data)))
                    chunk = await asyncio.to_thread(reader.next)
        finally:
            reader.close()
            for pending, _ in waiting:
                channel.cancel(pending)
