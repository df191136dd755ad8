"""Memory of regions that are not in use: a call that is repeated finds its pages there, which is half of its time.

Rules
1. All lanes of a channel or a worker keep `KEPT_BYTES` together. What was not used for the longest time gives its pages
   back to the system, and stays as addresses without memory.
2. After `REST_S` without a change all pages go back.
"""

from __future__ import annotations

import mmap
import threading
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

KEPT_BYTES: Final = 64 << 20
REST_S: Final = 1.0


class Timer(Protocol):
    """What was put off (`threading.Timer`, `asyncio.TimerHandle`)."""

    def cancel(self) -> object:
        """Do it not at all."""


Later: TypeAlias = "Callable[[float, Callable[[], None]], Timer]"


class Spare:
    """The maps that nobody uses, by age. `later` calls something after so many seconds; without it, call `rest`."""

    def __init__(self, later: Later | None = None) -> None:
        self.later = later
        self._timer: Timer | None = None
        self._maps: dict[mmap.mmap, None] = {}
        self._lock = threading.Lock()  # a timer may be a thread
        self._changes = self._seen = 0
        self.size_bytes = 0

    def add(self, region: mmap.mmap) -> None:
        """Take a map that nobody uses any more."""
        with self._lock:
            self._changes += 1
            self._maps[region] = None
            self.size_bytes += len(region)
            while self.size_bytes > KEPT_BYTES:
                self._give_back(next(iter(self._maps)))
            if self.later is not None and self._timer is None and self._maps:
                self._timer = self.later(REST_S, self._look)

    def take(self, region: mmap.mmap) -> None:
        """Let a map be used again, or closed."""
        with self._lock:
            self._changes += 1
            if region in self._maps:
                del self._maps[region]
                self.size_bytes -= len(region)

    def rest(self) -> None:
        """Give all pages back to the system."""
        with self._lock:
            while self._maps:
                self._give_back(next(iter(self._maps)))

    def close(self) -> None:
        """Call nobody later."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None  # what is closed may be opened again, and goes on with this

    def _look(self) -> None:
        with self._lock:
            is_still, self._seen, self._timer = self._seen == self._changes, self._changes, None
            if not is_still and self.later is not None:
                self._timer = self.later(REST_S, self._look)
        if is_still:
            self.rest()

    def _give_back(self, region: mmap.mmap) -> None:
        del self._maps[region]
        self.size_bytes -= len(region)
        region.madvise(mmap.MADV_REMOVE)
