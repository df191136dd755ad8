"""The channels of one asyncio client: one for each event loop that uses it.

A channel's futures, timers and descriptors belong to its loop, so it cannot move. A client can: from one loop to the
next (`asyncio.run` twice), and between the loops of several threads.
"""

from __future__ import annotations

import asyncio
import contextlib

from hostd.client._async.channel import AsyncChannel
from hostd_workers.wire.errors import FailedPreconditionError


class AsyncChannels:
    """Channels to one endpoint, by loop."""

    def __init__(self, endpoint: str, connect_timeout_s: float, wait_s: float, *, is_direct: bool) -> None:
        self.endpoint = endpoint
        self._connect_timeout_s = connect_timeout_s
        self._wait_s = wait_s
        self._is_direct = is_direct
        self._channels: dict[asyncio.AbstractEventLoop, AsyncChannel] = {}
        self._is_closed = False

    def __repr__(self) -> str:
        unused = f"<AsyncChannel {self.endpoint} {'closed' if self._is_closed else 'disconnected'}>"
        return ", ".join(repr(channel) for channel in [*self._channels.values()]) or unused

    def of_running_loop(self) -> AsyncChannel:
        """Return the channel of the loop that runs here. Raises `FailedPreconditionError` if the client is closed."""
        loop = asyncio.get_running_loop()
        return self._channels.get(loop) or self._make(loop)

    def close(self) -> None:
        """Close all of them: those of loops that run elsewhere as soon as these get to it, the others at once."""
        self._is_closed = True
        here = None
        with contextlib.suppress(RuntimeError):
            here = asyncio.get_running_loop()
        for loop, channel in [*self._channels.items()]:
            if loop.is_closed():
                channel.abandon()
            elif loop is not here and loop.is_running() and not channel.is_orphaned:
                with contextlib.suppress(RuntimeError):  # closed just now, and its connection goes with the channel
                    loop.call_soon_threadsafe(channel.close)
            else:
                channel.close()

    def _make(self, loop: asyncio.AbstractEventLoop) -> AsyncChannel:
        if self._is_closed:
            raise FailedPreconditionError("this client is closed: connect again with hostd.AsyncClient.connect()")
        for other in [*self._channels]:
            if other.is_closed() and (left := self._channels.pop(other, None)) is not None:
                left.abandon()
        made = AsyncChannel(loop, self.endpoint, self._connect_timeout_s, self._wait_s, is_direct=self._is_direct)
        self._channels[loop] = made
        return made
