"""Figures and verdicts: what the rounds of a comparison amount to, and whether our targets are met.

A ratio or a difference is taken within a round, between neighbours in time, and then the median of the rounds is
reported with the lowest and the highest, because figures of different minutes cannot be compared on a shared machine.
"""

from __future__ import annotations

import enum
import math
import statistics
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.runner import Round, Rounds, Side


CALLS_FOR_P99 = 100


class By(enum.Enum):
    """The figure that a comparison or a target is about; its value is the unit, and what it is of."""

    LATENCY = "s"
    TAIL = "s, p99"
    SPREAD = "p99/p50"
    RATE = "1/s"
    BYTES = "B"
    PERCENT = "%"
    COUNT = ""
    FACTOR = "x"


class Against(enum.Enum):
    """How a target relates our figure to the floor's."""

    RATIO = "ratio"
    DIFFERENCE = "difference"
    ALONE = "alone"


@dataclass(frozen=True)
class Target:
    """A promise: `ours` against `floor` is at most, or at least, `limit` (a factor, or in the unit of `by`).

    `by` is the comparison's if it is None.
    """

    ours: str
    floor: str
    against: Against
    limit: float
    is_ceiling: bool = True
    by: By | None = None


@dataclass(frozen=True)
class Figure:
    """One side's figures: `value`, `p50_s` and `p99_s` are medians of the rounds, `value` in `by`'s unit.

    Where a round has too few calls for a 99th percentile `p99_s` is that of the calls of all rounds.

    `low` and `high` are the lowest and the highest round, None where there was only one.
    """

    name: str
    by: By
    value: float
    p99_s: float | None
    calls: int
    is_ours: bool
    low: float | None = None
    high: float | None = None
    p50_s: float | None = None


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
    """A table of the report: sides with their figures, then ratios, then targets.

    `others_cores` says how many cores were busy with other programs meanwhile, `repeated` how many rounds were measured
    again because of them. `references` are the floors that ours are shown against; all of them if there are none.
    """

    group: str
    title: str
    figures: list[Figure]
    verdicts: list[Verdict]
    notes: list[str] = field(default_factory=list)
    others_cores: float = 0.0
    repeated: int = 0
    references: Sequence[str] = ()

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
            "others_cores": round(self.others_cores, 3),
            "repeated": self.repeated,
            "references": list(self.references),
        }


def compare(
    group: str,
    title: str,
    by: By,
    sides: Sequence[Side],
    rounds: Rounds,
    targets: Sequence[Target] = (),
    notes: Sequence[str] = (),
    references: Sequence[str] = (),
) -> Comparison:
    """Turn rounds into figures, the ratio of each of ours to every floor, and the verdicts on the targets."""
    figures = [_figure(side, rounds.of[side.name], by) for side in sides]
    floors = [side.name for side in sides if not side.is_ours]
    ours = [side.name for side in sides if side.is_ours]
    targeted = {
        (target.ours, target.floor) for target in targets if target.against is Against.RATIO and target.by in (None, by)
    }
    plain = [
        Target(mine, floor, Against.RATIO, 0.0) for mine in ours for floor in floors if (mine, floor) not in targeted
    ]
    verdicts = [_verdict(target, rounds, by, limit=None) for target in plain]
    verdicts += [_verdict(target, rounds, by, limit=target.limit) for target in targets if target.ours in ours]
    return Comparison(group, title, figures, verdicts, list(notes), rounds.others_cores, rounds.repeated, references)


def alone(
    group: str,
    title: str,
    observed: Sequence[tuple[str, By, float, float | None]],
    notes: Sequence[str] = (),
    others_cores: float = 0.0,
) -> Comparison:
    """Make a comparison of single figures of ours, `(name, by, value, ceiling or None)`, with their fixed ceilings."""
    figures = [Figure(name, by, value, None, 1, is_ours=True) for name, by, value, _ in observed]
    verdicts = [
        Verdict(name, "", by, Against.ALONE, value, value, value, ceiling)
        for name, by, value, ceiling in observed
        if ceiling is not None
    ]
    return Comparison(group, title, figures, verdicts, list(notes), others_cores)


def nearest_rank(values: Sequence[float], share: float) -> float:
    """Return the smallest of the values that at least `share` of them do not exceed (the nearest-rank percentile)."""
    return sorted(values)[max(0, math.ceil(len(values) * share) - 1)]


def _value(round_: Round, by: By) -> float:
    match by:
        case By.RATE:
            return round_.rate
        case By.TAIL:
            return round_.p99_s
        case By.SPREAD:
            return round_.p99_s / round_.p50_s
        case _:
            return round_.p50_s


def _figure(side: Side, rounds: Sequence[Round], by: By) -> Figure:
    calls = [latency for round_ in rounds for latency in round_.latencies_s]
    if min(len(round_.latencies_s) for round_ in rounds) >= CALLS_FOR_P99:
        p99_s = statistics.median(round_.p99_s for round_ in rounds)
    else:
        p99_s = nearest_rank(calls, 0.99)
    p50_s = statistics.median(round_.p50_s for round_ in rounds)
    values = [_value(round_, by) for round_ in rounds]
    middle, low, high = statistics.median(values), min(values), max(values)
    return Figure(side.name, by, middle, p99_s, len(calls), side.is_ours, low, high, p50_s)


def _verdict(target: Target, rounds: Rounds, by: By, *, limit: float | None) -> Verdict:
    by = target.by or by
    mine = [_value(r, by) for r in rounds.of[target.ours]]
    if target.against is Against.ALONE:
        values = mine
    else:
        theirs = [_value(r, by) for r in rounds.of[target.floor]]
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
