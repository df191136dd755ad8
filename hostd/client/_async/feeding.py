"""Feeds of the asyncio client: a task for each call that has one, which ends with the call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from typing import TYPE_CHECKING, Any, Final, Protocol

from hostd.client.feed import gave_out, no_more

if TYPE_CHECKING:
    from hostd.client.feed import Feeding
    from hostd.client.tracker import Pending
    from hostd_workers.wire.frames import Buffer

_END: Final = object()


class Channel(Protocol):
    """What sends."""

    def feed(self, pending: Pending, frames: list[Buffer]) -> None:
        """Send what belongs to the feed of a call."""

    def feed_item(self, pending: Pending, feeding: Feeding, item: object) -> None:
        """Send an item."""

    def cancel(self, pending: Pending) -> None:
        """End a request."""


class AsyncFeeder:
    """Iterates over the items of one call, as far as the model asks for them."""

    def __init__(self, channel: Channel, pending: Pending, feeding: Feeding) -> None:
        """Begin with that."""
        self._channel = channel
        self._pending = pending
        self._feeding = feeding
        self._news = asyncio.Event()
        self._is_iterating = False
        pending.listeners.append(self._tell)
        feeding.asked = self._news.set
        feeding.task = self._task = asyncio.ensure_future(self._run())

    def _tell(self) -> None:
        self._news.set()
        if self._is_iterating and self._pending.is_done:
            self._task.cancel()

    async def _run(self) -> None:
        sender = self._feeding.sender
        try:
            while not self._pending.is_done:
                if not sender.may_send:
                    self._news.clear()
                    await self._news.wait()
                    continue
                item = await self._next()
                if item is _END:
                    sender.end()
                    self._channel.feed(self._pending, no_more(self._pending.id))
                else:
                    self._channel.feed_item(self._pending, self._feeding, item)
        except BaseException as error:
            if not self._pending.is_done:
                self._feeding.failure = error
                self._channel.feed(self._pending, gave_out(self._pending.id, error))
                self._channel.cancel(self._pending)
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
        finally:
            self._feeding.asked = None
            self._pending.listeners.remove(self._tell)  # or they would wait for the cycle collector
            await self._close()

    async def _next(self) -> Any:
        feeding = self._feeding
        self._is_iterating = True
        try:
            if hasattr(feeding.items, "__aiter__"):
                if feeding.iterator is None:
                    feeding.iterator = feeding.items.__aiter__()
                try:
                    return await feeding.iterator.__anext__()
                except StopAsyncIteration:
                    return _END
            if feeding.iterator is None:
                feeding.iterator = iter(feeding.items)
            return next(feeding.iterator, _END)
        finally:
            self._is_iterating = False

    async def _close(self) -> None:
        iterator, self._feeding.iterator = self._feeding.iterator, None
        if isinstance(iterator, AsyncGenerator):
            await iterator.aclose()
        elif isinstance(iterator, Generator):
            iterator.close()


async def ended(feeding: Feeding) -> None:
    """Wait until the feed of a call that has ended is closed; raises what that raises."""
    task = feeding.task
    if task is not None:
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
