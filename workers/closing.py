"""The end of a model that has something to finish: its `close` is called once, before its process is killed.

This is the border with the model's code at its end: whatever that raises is told in the model's log, and in words to
the host. Nothing here bounds how long it takes: the host kills what takes too long.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Final

from hostd_workers.process.ending import note
from hostd_workers.process.forked import leave_if_child
from hostd_workers.raised import error_of
from hostd_workers.wire.errors import sayable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

MAX_PROBLEM_CHARS: Final = 2000


def close(function: Callable[[], object]) -> str:
    """Call a model's `close`, a coroutine's in a loop of its own; return what it raised in words, or ""."""
    try:
        result = function()
        if inspect.isawaitable(result):
            import asyncio  # noqa: PLC0415 - a third of a worker's start, for a few models at their end

            asyncio.run(_awaited(result))
    except BaseException as error:  # noqa: BLE001 - the border with the model's code, which may raise anything
        return _told(error)
    return ""


async def close_in_loop(function: Callable[[], object]) -> str:
    """Do the same in the loop of the model's coroutines, which its `close` may need."""
    try:
        result = function()
        if inspect.isawaitable(result):
            await result
    except BaseException as error:  # noqa: BLE001 - as above
        return _told(error)
    return ""


async def _awaited(result: Awaitable[object]) -> None:
    await result


def _told(error: BaseException) -> str:
    leave_if_child()
    note(error)
    return sayable(error_of(error).message)[:MAX_PROBLEM_CHARS]
