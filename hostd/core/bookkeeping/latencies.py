"""How long a model's calls took, in the host's eyes: from the arrival of a call to its answer.

A window of the last calls, for quantiles of the present, and counts by duration since the load, for the metrics page,
where the scraper keeps the history.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from typing import Final

WINDOW: Final = 256
"""Enough for a p99 with two calls above it; a hundred models keep 200 KB."""

BUCKETS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the counts, in seconds: from the way through the host alone to the default deadline of a call."""

MAX_METHODS: Final = 16
"""With counts of their own, per model; each is 18 series for a scraper. The rest counts as `OTHER`."""

OTHER: Final = "(other)"
"""No method has such a name."""


class Histogram:
    """Counts of calls by duration: `counts` has one more than `BUCKETS_S`, for those that took longer than all."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.sum_s = 0.0


class Latencies:
    """The durations of a model's calls: of the last `WINDOW` all, of the others how many took how long."""

    __slots__ = ("_durations_s", "by_method")

    def __init__(self) -> None:
        self._durations_s: deque[float] = deque(maxlen=WINDOW)
        self.by_method: dict[str, Histogram] = {}

    def add(self, method: str, duration_s: float) -> None:
        """Take the duration of a call; this is done for every call."""
        self._durations_s.append(duration_s)
        histogram = self.by_method.get(method) or self._begin(method)
        histogram.counts[bisect_left(BUCKETS_S, duration_s)] += 1
        histogram.sum_s += duration_s

    def quantiles(self) -> tuple[float | None, float | None]:
        """Return the median and the 99th percentile of the last calls; None if there were none."""
        durations_s = sorted(self._durations_s)
        count = len(durations_s)
        return (durations_s[count // 2], durations_s[min(count * 99 // 100, count - 1)]) if count else (None, None)

    def _begin(self, method: str) -> Histogram:
        name = method if len(self.by_method) < MAX_METHODS else OTHER
        return self.by_method.get(name) or self.by_method.setdefault(name, Histogram())
