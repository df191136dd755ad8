"""A view of all models that is kept current, over losses of the connection and restarts of the host."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from hostd.client._async.streams import AsyncItemStream
from hostd.client.listed import record_of
from hostd.views import LOST, Change
from hostd_workers.wire.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hostd.client._async.channels import AsyncChannels  # async only
    from hostd.client.tracker import PendingStream, Tracker

    # sync: from hostd.client._sync.channel import Channel

_PERIOD_S = 0.2
"""How often a host is looked for that was lost."""


async def changes(
    channels: AsyncChannels,  # sync: channel: Channel,
) -> AsyncIterator[Change]:
    """Iterate over the changes that a host tells; where it is lost, over that, and what it tells when it is back."""
    is_known = is_lost = False
    while True:
        channel = channels.of_running_loop()  # async only
        try:
            async with AsyncItemStream(channel, await channel.begin(_watch), None) as items:
                async for item in items:
                    is_known, is_lost = True, False
                    yield Change.from_dict({**item, "models": tuple(map(record_of, item["models"]))})
            reason = "it has ended the watch"
        except UnavailableError as error:
            if not is_known:
                raise
            reason = str(error)
        if not is_lost:
            is_lost = True
            yield Change(LOST, reason=reason)
        await asyncio.sleep(_PERIOD_S)


def _watch(tracker: Tracker) -> tuple[PendingStream, list[Any]]:
    return tracker.subscribe("watch", {})
