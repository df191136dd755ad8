"""How long a model's last calls took, in the host's eyes: from the arrival of a call to its answer.

A window of the last calls and no history: who wants that scrapes the metrics page.
"""

from __future__ import annotations

from collections import deque
from typing import Final

WINDOW: Final = 256
"""Enough for a p99 with two calls above it; a hundred models keep 200 KB."""


class Latencies:
    """The durations of the last `WINDOW` calls, in seconds."""

    __slots__ = ("_durations_s", "add")

    def __init__(self) -> None:
        self._durations_s: deque[float] = deque(maxlen=WINDOW)
        self.add = self._durations_s.append
        """Takes a duration; it is done for every call, so it is the deque's own."""

    def quantiles(self) -> tuple[float | None, float | None]:
        """Return the median and the 99th percentile of the last calls; None if there were none."""
        durations_s = sorted(self._durations_s)
        count = len(durations_s)
        return (durations_s[count // 2], durations_s[min(count * 99 // 100, count - 1)]) if count else (None, None)
