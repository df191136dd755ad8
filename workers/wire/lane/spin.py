"""Looking for news for a moment before sleeping. Off by default: it takes the time of a core that others may need.

To be woken takes longer than a small call, and what sleeps comes back to cold caches; on virtual machines that makes
most of the time of a call. Where the other end answers within the limit, looking takes no more of a core than sleeping.

Rules
1. A look takes `limit_s` at most. So whoever has nothing to do sleeps.
2. After `MISSES` in vain only one in `SELDOM` is taken, until two in a row succeed: a model that takes longer costs
   little. One alone may have found the rest of what was slept for.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

MISSES: Final = 4
SELDOM: Final = 17
"""Odd: where looks alternate between what is slept for and the rest of it, both are tried."""


class Spin:
    """When to look; one for each thread that waits."""

    __slots__ = ("_has_found", "_looks", "_misses", "limit_s")

    def __init__(self, limit_s: float = 0.0) -> None:
        self.limit_s = limit_s
        self._looks = self._misses = 0
        self._has_found = False

    def look(self, poll: Callable[[float], list[T]]) -> list[T]:
        """Return the first news that `poll(0)` has within the limit; none: it is time to sleep."""
        if not self.limit_s:
            return []
        self._looks += 1
        is_rare = self._misses >= MISSES
        if is_rare and self._looks % SELDOM:
            return []
        until_s = monotonic() + self.limit_s
        while not (news := poll(0)):
            if monotonic() >= until_s:
                self._misses += 1
                self._has_found = False
                return []
        if is_rare:
            self._misses = MISSES - 1
        elif self._has_found:
            self._misses = 0
        self._has_found = True
        return news
