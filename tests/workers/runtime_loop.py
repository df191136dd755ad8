"""Running a test's coroutine, and letting a runtime's tasks run beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime_rig import Rig

Body = Callable[[], Coroutine[Any, Any, None]]


def run(body: Body) -> None:
    asyncio.run(asyncio.wait_for(body(), 30))


async def settle(rig: Rig) -> Rig:
    """Let everything run that can."""
    for _ in range(50):
        rig.run()
        await asyncio.sleep(0)
    return rig


async def until(check: Callable[[], bool]) -> None:
    while not check():  # noqa: ASYNC110 - what is waited for sets no event
        await asyncio.sleep(0)
