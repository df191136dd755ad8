"""What can be asked of the host itself: records, settings, and what happens in it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from hostd.fronts.verbs.leaving import ended
from hostd.fronts.verbs.route import Asked, Following
from hostd.fronts.verbs.shapes import Reloaded
from hostd.fronts.verbs.streams import block, closing, comment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import hostd

_NO_PAST = "the host keeps no past events; GET /v1/models says how things are now"


async def host_info(asked: Asked) -> hostd.HostInfo:
    """Return the record of the host."""
    return await asked.client.host_info()


async def host_summary(asked: Asked) -> hostd.HostSummary:
    """Return the host and its models in short."""
    return await asked.client.host_summary()


async def memory_info(asked: Asked) -> hostd.MemoryInfo:
    """Return the memory of all models."""
    return await asked.client.memory_info()


async def templates_info(asked: Asked) -> hostd.TemplatesInfo:
    """Return the templates."""
    return await asked.client.templates_info()


async def host_settings(asked: Asked) -> dict[str, Any]:
    """Return the settings in force."""
    return await asked.client.host_settings()


async def reload_config(asked: Asked) -> Reloaded:
    """Have the host read its configuration file again."""
    done = await asked.client.reload_config()
    return Reloaded(done["file"], done["changed"], done["needs_restart"])


async def watch(asked: Asked) -> Following:
    """Follow how all models are."""
    return Following(_changing(asked))


async def _changing(asked: Asked) -> AsyncIterator[bytes]:
    async with closing(asked.client.watch()) as changing:
        async for change in changing:
            yield block(change.kind, change.to_dict(), change.number)


async def events(asked: Asked) -> Following:
    """Follow what happens."""
    return Following(_happening(asked))


async def _happening(asked: Asked) -> AsyncIterator[bytes]:
    if asked.last_event_id is not None:
        yield block("missed", {"after": asked.last_event_id, "reason": _NO_PAST})
    async with closing(asked.client.events(asked["model"])) as happening:
        first = asyncio.ensure_future(_next(happening))
        try:
            # The host answers in order: when it has answered this, it has noted the subscription. So a client that has
            # seen the comment misses nothing of what it causes.
            await asked.client.host_info()
            yield comment("following")
            event, number = await first, 1
        finally:
            await ended(first)
        while event is not None:
            yield block(event.subject, event.to_dict(), number)
            event, number = await _next(happening), number + 1


async def _next(happening: AsyncIterator[hostd.Event]) -> hostd.Event | None:
    return await anext(happening, None)
