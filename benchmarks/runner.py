"""Rounds, figures and verdicts: how sides are measured against each other.

Rules
* Sides alternate within one run (A B C A B C ...), so that a change of the machine's mood hits all of them.
* A ratio or a difference is taken within a round, between neighbours in time, and then the median of the rounds is
  reported with the lowest and the highest, because figures of different minutes cannot be compared on a shared machine.
* Every side answers one unmeasured round first.

Does not cover what a side does (`floors`, `ours`) nor how figures are shown (`report`).
"""

from __future__ import annotations

import enum
import gc
import statistics
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.floors.lane import Lane


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    `rounds` and `round_s` (seconds per side and round) are for calls; `slow_rounds` is for things that take a second
    each (loads, starts); `cycles` counts load/unload cycles; `idle_s` is the length of the idle watch in seconds.
    """

    rounds: int
    round_s: float
    slow_rounds: int
    cycles: int
    idle_s: float
    is_quick: bool


FULL = Effort(rounds=9, round_s=0.4, slow_rounds=9, cycles=100, idle_s=20.0, is_quick=False)
QUICK = Effort(rounds=3, round_s=0.1, slow_rounds=3, cycles=5, idle_s=5.0, is_quick=True)

# Our sides' names, here because the floors are measured without importing the host.
SYNC = "hostd sync"
ASYNC = "hostd async"
HOST = "hostd"

# A round of 16 MiB calls ends in the time of two or three; fewer give no median.
MIN_CALLS = 5

# A call in this process takes 100 ns: without a limit its latencies alone would fill a gigabyte.
MAX_CALLS = 50_000


@dataclass(frozen=True)
class Round:
    """What one side did in one round: a latency in seconds per call, and the wall time of all of them together."""

    latencies_s: Sequence[float]
    elapsed_s: float

    @property
    def p50_s(self) -> float:
        """Return the median latency in seconds."""
        return statistics.median(self.latencies_s)

    @property
    def rate(self) -> float:
        """Return calls per second."""
        return len(self.latencies_s) / self.elapsed_s


@dataclass(frozen=True)
class Side:
    """A named thing to measure; `measure` runs one round."""

    name: str
    measure: Callable[[], Round]
    is_ours: bool = False


class By(enum.Enum):
    """The figure that a comparison is about; its value is the unit."""

    LATENCY = "s"
    RATE = "1/s"
    BYTES = "B"
    PERCENT = "%"
    COUNT = ""


class Against(enum.Enum):
    """How a target relates our figure to the floor's."""

    RATIO = "ratio"
    DIFFERENCE = "difference"
    ALONE = "alone"


@dataclass(frozen=True)
class Target:
    """A promise: `ours` against `floor` is at most, or at least, `limit` (a factor, or in the comparison's unit)."""

    ours: str
    floor: str
    against: Against
    limit: float
    is_ceiling: bool = True


@dataclass(frozen=True)
class Figure:
    """One side's figures: `value` is the median of the rounds in `by`'s unit, `p99_s` is over all their calls."""

    name: str
    by: By
    value: float
    p99_s: float | None
    calls: int
    is_ours: bool


@dataclass(frozen=True)
class Verdict:
    """A relation of ours to a floor: the median of the rounds, the lowest, the highest, and the target if any."""

    ours: str
    floor: str
    by: By
    against: Against
    value: float
    low: float
    high: float
    limit: float | None = None
    is_ceiling: bool = True

    @property
    def is_met(self) -> bool | None:
        """Return whether the target is met; None without a target."""
        if self.limit is None:
            return None
        return self.value <= self.limit if self.is_ceiling else self.value >= self.limit


@dataclass(frozen=True)
class Comparison:
    """A table of the report: sides with their figures, then ratios, then targets."""

    group: str
    title: str
    figures: list[Figure]
    verdicts: list[Verdict]
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict; values are in the unit that `by` names, those of ratios are factors."""
        return {
            "group": self.group,
            "title": self.title,
            "figures": [{**asdict(figure), "by": figure.by.value} for figure in self.figures],
            "verdicts": [
                {
                    **asdict(verdict),
                    "by": verdict.by.value,
                    "against": verdict.against.value,
                    "is_met": verdict.is_met,
                }
                for verdict in self.verdicts
            ],
            "notes": self.notes,
        }


def one_at_a_time(lane: Lane, duration_s: float) -> Round:
    """Call again and again with one request in flight."""
    clock, call = time.perf_counter, lane.call
    latencies: list[float] = []
    start = now = clock()
    end = start + duration_s
    while (now < end and len(latencies) < MAX_CALLS) or len(latencies) < MIN_CALLS:
        call()
        after = clock()
        latencies.append(after - now)
        now = after
    return Round(latencies, now - start)


def pipelined(lane: Lane, depth: int, duration_s: float) -> Round:
    """Keep `depth` requests in flight; answers come in the order of the requests, from one worker."""
    clock, send, receive = time.perf_counter, lane.send, lane.receive
    latencies: list[float] = []
    sent_at: deque[float] = deque()
    start = now = clock()
    end = start + duration_s
    for _ in range(depth):
        sent_at.append(clock())
        send()
    while (now < end and len(latencies) < MAX_CALLS) or len(latencies) < MIN_CALLS:
        receive()
        now = clock()
        latencies.append(now - sent_at.popleft())
        sent_at.append(now)
        send()
    while sent_at:
        receive()
        now = clock()
        latencies.append(now - sent_at.popleft())
    return Round(latencies, now - start)


def timed(action: Callable[[], object]) -> Round:
    """Measure one slow action as a round of one call."""
    start = time.perf_counter()
    action()
    elapsed_s = time.perf_counter() - start
    return Round([elapsed_s], elapsed_s)


def alternate(sides: Sequence[Side], rounds: int, *, warm_up: bool = True) -> dict[str, list[Round]]:
    """Measure every side once per round, in turn."""
    if warm_up:
        for side in sides:
            side.measure()
    results: dict[str, list[Round]] = {side.name: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            gc.collect()
            results[side.name].append(side.measure())
    return results


def compare(
    group: str,
    title: str,
    by: By,
    sides: Sequence[Side],
    rounds: dict[str, list[Round]],
    targets: Sequence[Target] = (),
    notes: Sequence[str] = (),
) -> Comparison:
    """Turn rounds into figures, the ratio of each of ours to every floor, and the verdicts on the targets."""
    figures = [_figure(side, rounds[side.name], by) for side in sides]
    floors = [side.name for side in sides if not side.is_ours]
    ours = [side.name for side in sides if side.is_ours]
    targeted = {(target.ours, target.floor) for target in targets if target.against is Against.RATIO}
    plain = [
        Target(mine, floor, Against.RATIO, 0.0) for mine in ours for floor in floors if (mine, floor) not in targeted
    ]
    verdicts = [_verdict(target, rounds, by, limit=None) for target in plain]
    verdicts += [_verdict(target, rounds, by, limit=target.limit) for target in targets if target.ours in ours]
    return Comparison(group, title, figures, verdicts, list(notes))


def alone(group: str, title: str, observed: Sequence[tuple[str, By, float, float | None]]) -> Comparison:
    """Make a comparison of single figures of ours, `(name, by, value, ceiling or None)`, with their fixed ceilings."""
    figures = [Figure(name, by, value, None, 1, is_ours=True) for name, by, value, _ in observed]
    verdicts = [
        Verdict(name, "", by, Against.ALONE, value, value, value, ceiling)
        for name, by, value, ceiling in observed
        if ceiling is not None
    ]
    return Comparison(group, title, figures, verdicts)


def _value(round_: Round, by: By) -> float:
    return round_.rate if by is By.RATE else round_.p50_s


def _figure(side: Side, rounds: Sequence[Round], by: By) -> Figure:
    calls = sorted(latency for round_ in rounds for latency in round_.latencies_s)
    p99 = calls[min(len(calls) - 1, int(len(calls) * 0.99))]
    return Figure(side.name, by, statistics.median(_value(r, by) for r in rounds), p99, len(calls), side.is_ours)


def _verdict(target: Target, rounds: dict[str, list[Round]], by: By, *, limit: float | None) -> Verdict:
    mine = [_value(r, by) for r in rounds[target.ours]]
    if target.against is Against.ALONE:
        values = mine
    else:
        theirs = [_value(r, by) for r in rounds[target.floor]]
        pairs = list(zip(mine, theirs, strict=True))
        values = [m / t for m, t in pairs] if target.against is Against.RATIO else [m - t for m, t in pairs]
    return Verdict(
        target.ours,
        target.floor,
        by,
        target.against,
        statistics.median(values),
        min(values),
        max(values),
        limit,
        target.is_ceiling,
    )
