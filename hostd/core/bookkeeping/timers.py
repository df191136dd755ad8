"""Deadlines: a heap with entries that may be cancelled.

Rules
1. A key has at most one deadline.
2. Cancelling is lazy; when more than half of the heap is stale it is built anew, so memory follows the live entries (at
   20,000 calls a second with deadlines of a minute the stale ones would be a million).
"""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

K = TypeVar("K")

_SLACK = 1024


class Timers(Generic[K]):
    """Deadlines by key, in seconds of whatever clock the caller uses."""

    def __init__(self) -> None:
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, key: K) -> bool:
        return key in self._due

    def set(self, key: K, at_s: float) -> None:
        """Give a key its deadline, instead of the one it had."""
        self._due[key] = at_s
        self._count += 1
        heapq.heappush(self._heap, (at_s, self._count, key))
        if len(self._heap) > 2 * len(self._due) + _SLACK:
            self._heap = [entry for entry in self._heap if self._due.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)

    def bring_forward(self, key: K, at_s: float) -> None:
        """Give a key its deadline, unless it has an earlier one."""
        if self._due.get(key, math.inf) > at_s:
            self.set(key, at_s)

    def cancel(self, key: K) -> None:
        """Forget a key's deadline, if it has one."""
        self._due.pop(key, None)

    def due_s(self, key: K) -> float:
        """Return the deadline of a key that has one."""
        return self._due[key]

    def next(self) -> float | None:
        """Return the earliest deadline, or None."""
        heap = self._heap
        while heap:
            at_s, _, key = heap[0]
            if self._due.get(key) == at_s:
                return at_s
            heapq.heappop(heap)
        return None

    def pop_due(self, now: float) -> Iterator[K]:
        """Yield the keys that are due, earliest first, and forget each.

        One by one: what is done about one may cancel the next.
        """
        while (at_s := self.next()) is not None and at_s <= now:
            key = heapq.heappop(self._heap)[2]
            del self._due[key]
            yield key
