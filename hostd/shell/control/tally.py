"""What has happened since the start of the host, counted from transitions, for the metrics page.

Plain numbers of our own, not the library's counters: where an application that embeds us has told the library to write
them to files (PROMETHEUS_MULTIPROC_DIR), ours would be among them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, SummaryMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hostd.records import Event

_LOAD_BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_UNLOAD_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

MAX_NAMED_DEATHS = 256
"""Models that have a count of deaths of their own, for as long as the host lives; those of further ones are counted
under none."""


class Durations:
    """How many took how long."""

    def __init__(self, bounds_s: Sequence[float]) -> None:
        self._bounds_s = bounds_s
        self._counts = [0] * (len(bounds_s) + 1)
        self._sum_s = 0.0

    def add(self, duration_s: float) -> None:
        """Count one."""
        self._counts[bisect_left(self._bounds_s, duration_s)] += 1
        self._sum_s += duration_s

    def family(self, name: str, help_text: str) -> HistogramMetricFamily:
        """Return the counts as they are on the page."""
        return HistogramMetricFamily(
            name, help_text, buckets=buckets_of(self._bounds_s, self._counts), sum_value=self._sum_s
        )


def buckets_of(bounds_s: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """Return counts by duration as Prometheus has them: each with all that took less."""
    return list(zip((*map(str, bounds_s), "+Inf"), accumulate(counts), strict=True))


class Tally:
    """The counts of one host; it lives on the event loop."""

    def __init__(self) -> None:
        self._failures: Counter[str] = Counter()
        self._loads_of: dict[str, tuple[int, float]] = {}
        self._loads = Durations(_LOAD_BUCKETS_S)
        self._unloads = Durations(_UNLOAD_BUCKETS_S)
        self._retries = 0
        self._began_s: dict[tuple[str, int], float] = {}
        self.deaths: Counter[str] = Counter()

    def on_event(self, event: Event) -> None:
        """Count a transition."""
        if event.subject == "worker":
            if event.cause == "EXITED":
                is_named = event.model_id in self.deaths or len(self.deaths) < MAX_NAMED_DEATHS
                self.deaths[event.model_id if is_named else ""] += 1
            return
        if event.old == event.new:
            self._retries += event.cause == "RETRY"
            return
        key = (event.model_id, event.generation)
        if event.new in ("LOADING", "UNLOADING"):
            self._began_s[key] = event.time_s
            return
        duration_s = event.time_s - self._began_s.pop(key, event.time_s)
        if event.new == "UNLOADED":
            self._unloads.add(duration_s)
        elif event.old == "LOADING" and event.new == "READY":
            count, sum_s = self._loads_of.get(event.model_type, (0, 0.0))
            self._loads_of[event.model_type] = (count + 1, sum_s + duration_s)
            self._loads.add(duration_s)
        elif event.old == "LOADING":
            self._failures[event.model_type] += 1

    def families(self) -> Iterator[Any]:
        """Yield the counts as they are on the page, but for the deaths."""
        failed = CounterMetricFamily("load_model_exception_count", "Loads that failed", labels=["model_type"])
        for model_type, count in self._failures.items():
            failed.add_metric([model_type], count)
        yield failed
        by_type = SummaryMetricFamily(
            "load_model_duration_seconds", "Duration of successful loads", labels=["model_type"]
        )
        for model_type, (count, sum_s) in self._loads_of.items():
            by_type.add_metric([model_type], count, sum_s)
        yield by_type
        yield self._loads.family("hostd_load_seconds", "Duration of successful loads")
        yield self._unloads.family(
            "hostd_unload_seconds", "Time from the request to the proof that every process is gone"
        )
        yield CounterMetricFamily("hostd_load_retries", "Tries of loads that were tried again", value=self._retries)
