"""The asyncio client as a synchronous one, so that one test is of both; and short ways to write what is of asyncio alone."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from typing import TYPE_CHECKING, Any

from helpers import PATIENCE_S

import hostd

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


class Blocking:
    """An `AsyncClient` in a loop of its own thread: what it returns is waited for, what it iterates over is an iterator."""

    def __init__(self, endpoint: str, **options: Any) -> None:
        self._client = hostd.AsyncClient(endpoint, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        try:
            self.run(self._client.__aenter__())
        except BaseException:
            self.end()
            raise

    def __repr__(self) -> str:
        return repr(self._client)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        return (lambda *args, **how: self._had(found(*args, **how))) if callable(found) else found

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(3 * PATIENCE_S)

    def end(self) -> None:
        """End the thread, too."""
        if self._thread.is_alive():
            self.run(self._end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _end(self) -> None:
        await self._client.close()
        await self._loop.shutdown_asyncgens()
        await self._loop.shutdown_default_executor()

    def _had(self, made: Any) -> Any:
        if inspect.iscoroutine(made):
            return self.run(made)
        return Items(self, made) if hasattr(made, "__anext__") else made


class Items:
    """An asynchronous iterator as another."""

    def __init__(self, client: Blocking, items: Any) -> None:
        self._client, self._items = client, items

    def __iter__(self) -> Items:
        return self

    def __next__(self) -> Any:
        try:
            return self._client.run(self._next())
        except StopAsyncIteration:
            raise StopIteration from None

    async def _next(self) -> Any:
        return await self._items.__anext__()  # begun in the loop, which is told of a generator that is dropped then

    def close(self) -> None:
        self._client.run(self._items.aclose())


# Asyncio alone


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(body(), 3 * PATIENCE_S))


async def until(check: Callable[[], Any]) -> None:
    """Wait until something is so, while the loop goes on."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not check():
        assert time.monotonic() < deadline_s, "it never happened"
        await asyncio.sleep(0.001)
