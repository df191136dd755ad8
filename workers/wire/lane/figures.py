"""How calls are counted, by the host and by its workers."""

from __future__ import annotations

from typing import Final

from hostd_workers.wire.light import NamedTuple

WINDOW: Final = 256
"""Enough for a p99 with two calls above it."""

BUCKETS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the counts, in seconds: from the way to the worker alone to the default deadline of a call."""

MAX_METHODS: Final = 16
"""With counts of their own."""


class Figures(NamedTuple):
    """What a page says of a worker's lanes; `last_use_s` is of the monotonic clock, 0 if there was none.

    `executions`, and how long these waited in the worker (`queue_ns`) and ran (`compute_ns`), are of calls by lanes and
    by the host together.
    """

    begun: int
    ended: int
    failed: int
    bytes_in_flight: int
    last_use_s: float
    connections: int
    succeeded: int = 0
    cancelled: int = 0
    success_ns: int = 0
    fail_ns: int = 0
    executions: int = 0
    queue_ns: int = 0
    compute_ns: int = 0

    @property
    def in_flight(self) -> int:
        """How many calls have begun and not ended."""
        return max(0, self.begun - self.ended)


NO_FIGURES: Final = Figures(0, 0, 0, 0, 0.0, 0)


class MethodFigures(NamedTuple):
    """The calls of one method: counts by duration, one more than `BUCKETS_S`, and the sum of durations in seconds."""

    method: str | None
    counts: list[int]
    sum_s: float
