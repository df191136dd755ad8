"""Work that has to be done on the loop because it looks at the core, and is too long to be done in one go.

Rules
1. One slice of it in a turn of the loop, however much waits: calls and all else have their turns between two slices.
2. Owners (clients; all connections of a process are one) have slices one after another, and what one of them waits for
   is done in order. So a client that asks for much holds up itself.

A thread would be no help: Python gives the loop its turn back after a while (`surroundings.SWITCH_S`), at each event.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from hostd.core.values import ClientId, process_of
from hostd.shell.work.turns import MAX_WAITING
from hostd_workers.wire.errors import ResourceExhaustedError
from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

T = TypeVar("T")

SLICE_S = 0.0005
"""As long as a turn of a connection (`transport/poller`)."""


class _Job(NamedTuple):
    """Steps that are taken, what they have yielded, and the future of all of it."""

    steps: Iterator[Any]
    found: list[Any]
    result: asyncio.Future[list[Any]]


class Slices:
    """The work of the loop that runs; a slice takes as long as a turn, and one step at least."""

    def __init__(self, slice_s: float = SLICE_S) -> None:
        self._slice_s = slice_s
        self._owners: dict[Hashable, deque[_Job]] = {}
        """What each owner waits for; the owner that has waited longest for a slice comes first."""

    def __repr__(self) -> str:
        return f"<Slices for {len(self._owners)} owners>"

    async def all_of(self, client: ClientId, steps: Iterator[T]) -> list[T]:
        """Return all that `steps` yields, for a client; one that waits for too much already is refused at once."""
        loop = asyncio.get_running_loop()
        if not self._owners:
            loop.call_soon(self._next, loop)
        waiting = self._owners.setdefault(process_of(client), deque())
        if len(waiting) >= MAX_WAITING:
            raise ResourceExhaustedError(
                f"{MAX_WAITING} requests of this client wait for their turn: wait for answers before more"
            )
        result: asyncio.Future[list[T]] = loop.create_future()
        waiting.append(_Job(steps, [], result))
        return await result

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give one owner its slice."""
        owner = next(iter(self._owners))
        waiting = self._owners.pop(owner)
        if self._is_over(waiting[0]):
            waiting.popleft()
        if waiting:
            self._owners[owner] = waiting
        if self._owners:
            loop.call_soon(self._next, loop)

    def _is_over(self, job: _Job) -> bool:
        """Work on a job for a slice; say whether nothing of it is left."""
        until_s = monotonic() + self._slice_s
        try:
            for found in job.steps:
                job.found.append(found)
                if monotonic() >= until_s:
                    return job.result.cancelled()
        except Exception as error:  # noqa: BLE001 - it is the result, as with any pool
            if not job.result.done():
                job.result.set_exception(error)
        else:
            if not job.result.done():
                job.result.set_result(job.found)
        return True
