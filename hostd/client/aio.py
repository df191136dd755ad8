"""The asyncio client: the same verbs as coroutines, on the loop that connected it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from hostd import paths
from hostd.client.channel import GRACE_S
from hostd.client.connection import Connection, unreachable, went_away, why_unreachable
from hostd.client.handle import Handle
from hostd.client.sync import CONNECT_TIMEOUT_S, DEFAULT_TIMEOUT_S, load_arguments, size_of
from hostd.client.tracker import Pending, PendingStream, Tracker
from hostd.records import Event, HostInfo, ModelInfo, UnloadReport
from workers.wire import frames as wire
from workers.wire import messages as msg
from workers.wire.errors import CancelledError, DeadlineExceededError, FailedPreconditionError, UnavailableError

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Callable
    from types import TracebackType

    from workers.wire.frames import Buffer

_RETRY_S = 0.05

_SWEEP_PERIOD_S = 0.25
"""How often to look for requests that are overdue."""


class AsyncItemStream:
    """The items of a stream, as they come. Closing it cancels what is still to come."""

    def __init__(self, client: AsyncClient, pending: PendingStream, timeout_s: float | None) -> None:
        self._client = client
        self._pending = pending
        self._deadline_s = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
        self._arrived = asyncio.Event()
        pending.on_item = pending.on_done = self._arrived.set
        if pending.items or pending.is_done:
            self._arrived.set()

    def __aiter__(self) -> AsyncItemStream:
        return self

    async def __anext__(self) -> Any:
        pending = self._pending
        while not pending.items and not pending.is_done:
            self._arrived.clear()
            await self._wait()
        if pending.items:
            item, credit = pending.take()
            if credit and not pending.is_done:
                self._client._send(msg.pack_credit(pending.id, credit))  # noqa: SLF001 - one of us
            return item
        if pending.error is not None:
            error, pending.error = pending.error, None
            raise error
        raise StopAsyncIteration

    async def _wait(self) -> None:
        timeout_s = None
        if self._deadline_s is not None:
            timeout_s = max(0.0, self._deadline_s - asyncio.get_running_loop().time())
        try:
            await asyncio.wait_for(self._arrived.wait(), timeout_s)
        except asyncio.TimeoutError:
            await self.aclose()
            raise DeadlineExceededError("the deadline passed before the stream's next item came") from None

    async def aclose(self) -> None:
        """Cancel the stream, in the worker too."""
        if not self._pending.is_done:
            self._client._cancel(self._pending)  # noqa: SLF001 - one of us
            self._pending.error = None
        self._pending.items.clear()

    async def __aenter__(self) -> AsyncItemStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()


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
        return (await self.info()).state in ("READY", "DEGRADED")

    async def loading(self) -> bool:
        """Say whether the model is still being loaded."""
        return (await self.info()).state == "LOADING"

    async def wait(self, timeout_s: float | None = None) -> AsyncModel:
        """Wait until the load has ended; raises its error if it failed. Returns the model itself."""
        self._info = (await self._caller.retrieve_model(self.id, timeout_s=timeout_s))._info  # noqa: SLF001 - one of us
        return self

    def options(self, *, timeout_s: float | None) -> AsyncModel:
        """Return the same model with another timeout for its calls, in seconds (None: no deadline)."""
        return AsyncModel(self._caller, self._info, timeout_s)


class AsyncClient:
    """A connection to a host for one event loop; an asynchronous context manager.

    `client = await hostd.AsyncClient.connect()`, or `async with hostd.AsyncClient() as client:`. Errors are those of
    `hostd.Client`.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        timeout_s: float | None = DEFAULT_TIMEOUT_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        """Take the endpoint, by default that of this user's host; `connect` or `async with` connects."""
        self.endpoint = endpoint or paths.default_endpoint()
        self.timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._tracker = Tracker()
        self._connection: Connection | None = None
        self._connecting = asyncio.Lock()
        self._outbox: list[list[Buffer]] = []
        self._retry: asyncio.TimerHandle | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._is_closed = False

    @classmethod
    async def connect(cls, endpoint: str | None = None, **options: Any) -> AsyncClient:
        """Return a connected client; takes the arguments of the constructor."""
        client = cls(endpoint, **options)
        await client._ensure_connected()
        return client

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "connected" if self._connection else "disconnected"
        return f"<AsyncClient {self.endpoint} {state} waiting={len(self._tracker)}>"

    async def __aenter__(self) -> AsyncClient:
        await self._ensure_connected()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; models stay loaded, and requests that wait end with CANCELLED."""
        self._is_closed = True
        if self._connection is not None:
            self._connection.send(wire.pack(msg.BYE, 0))
        self._disconnect(CancelledError("the client was closed"), linger_ms=100)

    # Models

    async def load_model(
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
    ) -> AsyncModel:
        """Load a model and return its handle; see `hostd.Client.load_model`."""
        arguments = load_arguments(model_id, local_model_path, model_type, wait, finder, initializer, options)
        return AsyncModel(
            self, ModelInfo.from_dict(await self._verb("load_model", timeout_s, **arguments)), self.timeout_s
        )

    async def unload_model(self, model_id: str, *, timeout_s: float | None = None) -> UnloadReport:
        """Unload a model; returns, with what was given back, when every process of it is gone."""
        return UnloadReport.from_dict(await self._verb("unload_model", timeout_s, model_id=model_id))

    async def unload_all_models(self, *, timeout_s: float | None = None) -> list[UnloadReport]:
        """Unload every model, in parallel."""
        return [UnloadReport.from_dict(report) for report in await self._verb("unload_all_models", timeout_s)]

    async def retrieve_model(self, model_id: str, *, timeout_s: float | None = None) -> AsyncModel:
        """Return the handle of a model, after waiting for it while it loads."""
        info = ModelInfo.from_dict(await self._verb("retrieve_model", timeout_s, model_id=model_id))
        return AsyncModel(self, info, self.timeout_s)

    async def get_model_size(self, model_id: str) -> int:
        """Return the resident memory of a model's processes in bytes, as last measured."""
        return size_of(await self.get_model(model_id))

    async def list_models(self) -> list[ModelInfo]:
        """Return the records of all models, by id."""
        return [ModelInfo.from_dict(model) for model in await self._verb("list_models", self.timeout_s)]

    async def get_model(self, model_id: str) -> ModelInfo:
        """Return the record of a model. Raises `NotFoundError` if there is none."""
        return ModelInfo.from_dict(await self._verb("get_model", self.timeout_s, model_id=model_id))

    async def explain_model(self, model_id: str) -> dict[str, Any]:
        """Return why a model is as it is; see `hostd.Client.explain_model`."""
        return dict(await self._verb("explain_model", self.timeout_s, model_id=model_id))

    async def model_logs(self, model_id: str, tail_bytes: int = 65536) -> str:
        """Return the end of what a model's workers printed."""
        return str(await self._verb("model_logs", self.timeout_s, model_id=model_id, tail_bytes=tail_bytes))

    # The host

    async def events(self, model_id: str | None = None) -> AsyncIterator[Event]:
        """Iterate over transitions as they happen, of one model or of all."""
        pending = await self._begin(lambda tracker: tracker.subscribe("events", {"model_id": model_id}))
        async with AsyncItemStream(self, pending, None) as items:
            await items.__anext__()  # the first item says that the host has noted the subscription
            async for item in items:
                yield Event.from_dict(item)

    async def host_info(self) -> HostInfo:
        """Return the record of the host."""
        return HostInfo.from_dict(await self._verb("host_info", self.timeout_s))

    async def shutdown(self) -> None:
        """Drain, unload everything and end the host; returns when that is done."""
        await self._verb("shutdown", None)

    # What handles use

    async def call(
        self, model_id: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout_s: float | None
    ) -> Any:
        """Call a method of a model by name, and return its result."""
        pending = await self._begin(lambda tracker: tracker.call(model_id, method, args, kwargs, timeout_s))
        return await self._wait(pending, timeout_s)

    def submit(
        self, model_id: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout_s: float | None
    ) -> asyncio.Task[Any]:
        """Begin a call of a method, as a task."""
        return asyncio.ensure_future(self.call(model_id, method, args, kwargs, timeout_s))

    async def stream(
        self, model_id: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout_s: float | None
    ) -> AsyncIterator[Any]:
        """Call a method that yields, and iterate over its items."""
        pending = await self._begin(lambda tracker: tracker.stream(model_id, method, args, kwargs, timeout_s))
        async with AsyncItemStream(self, pending, timeout_s) as items:
            async for item in items:
                yield item

    async def _verb(self, verb: str, timeout_s: float | None, **arguments: Any) -> Any:
        pending = await self._begin(lambda tracker: tracker.verb(verb, arguments, timeout_s))
        return await self._wait(pending, timeout_s)

    # The connection

    async def _begin(self, make: Callable[[Tracker], tuple[Any, list[Buffer]]]) -> Any:
        if self._connection is None:
            await self._ensure_connected()
        pending, frames = make(self._tracker)
        self._send(frames)
        return pending

    async def _wait(self, pending: Pending, timeout_s: float | None) -> Any:
        if not pending.is_done:
            loop = asyncio.get_running_loop()
            arrived: asyncio.Future[None] = loop.create_future()
            pending.on_done = lambda: None if arrived.done() else arrived.set_result(None)
            if timeout_s is not None:
                pending.deadline_s = loop.time() + timeout_s + GRACE_S
                if self._sweeper is None:
                    self._sweeper = loop.call_later(_SWEEP_PERIOD_S, self._sweep)
            try:
                await arrived
            except asyncio.CancelledError:
                self._cancel(pending)
                raise
        return pending.result()

    def _sweep(self) -> None:
        """End the requests that the host should have ended; it answers late ones itself, unless it hangs.

        One timer for all, because one for each call costs more than the call's own bookkeeping.
        """
        loop = asyncio.get_running_loop()
        for pending in self._tracker.overdue(loop.time()):
            self._tracker.forget(pending, DeadlineExceededError("the host did not answer in time"))
            if self._connection is not None:
                self._send(wire.pack(msg.CANCEL, pending.id))
        self._sweeper = loop.call_later(_SWEEP_PERIOD_S, self._sweep) if len(self._tracker) else None

    def _cancel(self, pending: Pending) -> None:
        self._tracker.forget(pending, CancelledError("the call was cancelled by its caller"))
        if self._connection is not None:
            self._send(wire.pack(msg.CANCEL, pending.id))

    def _send(self, frames: list[Buffer]) -> None:
        self._outbox.append(frames)
        self._flush()
        # A send may swallow the descriptor's news of a message that came meanwhile.
        if self._connection is not None and self._connection.has_news():
            asyncio.get_running_loop().call_soon(self._receive)

    def _flush(self) -> None:
        self._retry = None
        connection, outbox = self._connection, self._outbox
        sent = 0
        while connection is not None and sent < len(outbox) and connection.send(outbox[sent]):
            sent += 1
        del outbox[:sent]
        if outbox and self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(_RETRY_S, self._flush)

    def _receive(self) -> None:
        connection = self._connection
        while connection is not None and (frames := connection.receive()) is not None:
            self._tracker.receive(frames)

    def _on_monitor(self) -> None:
        if self._connection is not None and self._connection.is_broken():
            self._receive()  # an answer may have come just before the end
            self._disconnect(went_away(self.endpoint))

    def _disconnect(self, error: UnavailableError | CancelledError, linger_ms: int = 0) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            loop = asyncio.get_running_loop()
            for fd in connection.descriptors():
                loop.remove_reader(fd)
            connection.close(linger_ms)
        for timer in (self._retry, self._sweeper):
            if timer is not None:
                timer.cancel()
        self._retry = self._sweeper = None
        self._outbox.clear()
        self._tracker.lose(error)

    async def _ensure_connected(self) -> None:
        if self._is_closed:
            raise FailedPreconditionError("this client is closed: connect again with hostd.AsyncClient.connect()")
        async with self._connecting:
            if self._connection is None:
                await self._connect()

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._connect_timeout_s
        while why_unreachable(self.endpoint) is not None:
            if loop.time() + _RETRY_S > deadline_s:
                raise unreachable(self.endpoint, self._connect_timeout_s)
            await asyncio.sleep(_RETRY_S)
        connection = self._connection = Connection(self.endpoint)
        readers = (self._receive, self._on_monitor)
        for fd, reader in zip(connection.descriptors(), readers, strict=True):
            loop.add_reader(fd, reader)
        pending, hello = self._tracker.hello()
        try:
            self._send(hello)
            await self._wait(pending, max(0.0, deadline_s - loop.time() - GRACE_S))
            self._tracker.accept_welcome(pending)
        except DeadlineExceededError:
            self._disconnect(UnavailableError("not connected"))
            raise unreachable(self.endpoint, self._connect_timeout_s) from None
        except BaseException:
            self._disconnect(UnavailableError("not connected"))
            raise
