"""Clients that go away: what they asked for ends with them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import ClientDisconnect

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from starlette.types import Receive

T = TypeVar("T")


async def gone(receive: Receive) -> None:
    """Wait until the client of a request has gone; what it still sends is let go."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(receive: Receive, doing: Awaitable[T]) -> T:
    """Return what comes of it. Raises `ClientDisconnect`, after it is cancelled, if the client goes away before."""
    work, leaving = asyncio.ensure_future(doing), asyncio.ensure_future(gone(receive))
    try:
        await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientDisconnect
        return work.result()
    finally:
        await ended(work)
        await ended(leaving)


async def ended(task: asyncio.Future[Any]) -> None:
    """Cancel a task, if it is not done, and wait for its end; its error is nobody's any more."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()
