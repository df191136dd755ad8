"""What goes on after an asyncio client has begun it: tasks, and generators, which begin with their first iteration."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from hostd.client._async.feeding import ended
from hostd.client._async.streams import AsyncItemStream
from hostd.records import Event

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import TypeAlias

    from hostd.client._async.channels import AsyncChannels
    from hostd.client.tracker import Make

    AsyncPendingCall: TypeAlias = asyncio.Task[Any]


def submit(channels: AsyncChannels, make: Make, timeout_s: float | None) -> AsyncPendingCall:
    """Begin a call, as a task."""

    async def ask() -> Any:
        return await channels.of_running_loop().ask(make, timeout_s)

    return asyncio.ensure_future(ask())


async def stream(channels: AsyncChannels, make: Make, timeout_s: float | None) -> AsyncIterator[Any]:
    """Iterate over the items of a stream."""
    channel = channels.of_running_loop()
    pending = await channel.begin(make)
    try:
        async with AsyncItemStream(channel, pending, timeout_s) as items:
            async for item in items:
                yield item
    finally:
        if pending.feeding is not None:
            await ended(pending.feeding)


async def events(channels: AsyncChannels, make: Make) -> AsyncIterator[Event]:
    """Iterate over the events of a subscription."""
    channel = channels.of_running_loop()
    async with AsyncItemStream(channel, await channel.begin(make), None) as items:
        await items.__anext__()  # the first item says that the host has noted the subscription
        async for item in items:
            yield Event.from_dict(item)
