"""How long a model's calls took, in the host's eyes: from the arrival of a call to its answer.

A window of the last calls, for quantiles of the present, and counts by duration since the load, for the metrics page,
where the scraper keeps the history.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from typing import TYPE_CHECKING, Final

from hostd_workers.wire.lane.figures import BUCKETS_S, MAX_METHODS, WINDOW

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

OTHER: Final = "(other)"
"""No method has such a name."""


class Histogram:
    """Counts of calls by duration: `counts` has one more than `BUCKETS_S`, for those that took longer than all."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.sum_s = 0.0


class Latencies:
    """The durations of a model's calls: of the last `WINDOW` all, of the others how many took how long.

    `count` is how many were taken one by one: as long as it stays, so do the quantiles.
    """

    __slots__ = ("_durations_s", "_sorted_s", "by_method", "count")

    def __init__(self) -> None:
        self.count = 0
        self._durations_s: deque[float] = deque(maxlen=WINDOW)
        self._sorted_s: tuple[int, list[float]] = (0, [])
        """The same in order, as of so many."""
        self.by_method: dict[str, Histogram] = {}

    def add(self, method: str, duration_s: float) -> None:
        """Take the duration of a call; this is done for every call."""
        self.count += 1
        self._durations_s.append(duration_s)
        histogram = self.by_method.get(method) or self._begin(method)
        histogram.counts[bisect_left(BUCKETS_S, duration_s)] += 1
        histogram.sum_s += duration_s

    def merge(self, method: str, counts: Sequence[int], sum_s: float) -> None:
        """Take the calls of a method that somebody else has counted, by the same buckets."""
        histogram = self.by_method.get(method) or self._begin(method)
        histogram.counts = [own + more for own, more in zip(histogram.counts, counts, strict=True)]
        histogram.sum_s += sum_s

    def quantiles(self, others_s: Iterable[float] = ()) -> tuple[float | None, float | None]:
        """Return the median and the 99th percentile of the last calls and these; None if there were none."""
        if self._sorted_s[0] != self.count:
            self._sorted_s = (self.count, sorted(self._durations_s))
        durations_s = sorted([*self._sorted_s[1], *others_s])  # which takes what is in order as it is
        count = len(durations_s)
        return (durations_s[count // 2], durations_s[min(count * 99 // 100, count - 1)]) if count else (None, None)

    def _begin(self, method: str) -> Histogram:
        name = method if len(self.by_method) < MAX_METHODS else OTHER
        return self.by_method.get(name) or self.by_method.setdefault(name, Histogram())
