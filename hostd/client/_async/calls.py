"""What the asyncio client hands out for a call that goes on: the items of a stream."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from hostd.client.pickling import NotPickled
from hostd.client.tracker import again
from hostd_workers.wire.errors import DeadlineExceededError

if TYPE_CHECKING:
    from types import TracebackType

    from hostd.client._async.channel import AsyncChannel
    from hostd.client.tracker import PendingStream


class AsyncItemStream(NotPickled):
    """The items of a stream, as they come. Closing it cancels what is still to come."""

    _instead = "its items come to this process; pickle them, or a model's handle, and begin a stream there"

    def __init__(self, channel: AsyncChannel, pending: PendingStream, timeout_s: float | None) -> None:
        self._channel = channel
        self._pending = pending
        self._deadline_s = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
        self._arrived = asyncio.Event()
        pending.listeners.append(self._arrived.set)
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
                self._channel.grant(pending, credit)
            return item
        if pending.error is not None:
            error, pending.error = pending.error, None
            raise again(error)
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
            self._channel.cancel(self._pending)
            self._pending.error = None
        self._pending.items.clear()

    async def __aenter__(self) -> AsyncItemStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()
