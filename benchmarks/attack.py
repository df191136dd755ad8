"""`attack`: what a client feels while another one attacks the host, and what the supervisor takes meanwhile.

    python -m benchmarks attack [--attack NAME ...] [--quick]

The attacks are those of the tests (`tests/attacks`), each against a fresh host. The victim calls an echo of 64 bytes,
one call in flight, from a process of its own, and asks for the list of models now and then; another client does what
the attack could keep it from (connect, load, deploy, scrape). The p99 are corrected for coordinated omission, as
HdrHistogram does it (G. Tene, "How not to measure latency"): a call that takes a second hides the thousand that would
have been sent in it. `neighbour-that-computes` is no attack: its p99 says what the machine costs.
"""

from __future__ import annotations

import statistics
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.machine import Neighbours
from benchmarks.verdicts import Against, By, Comparison, Figure, Verdict, nearest_rank

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from attacks.rig import Call, Deed, Outcome

    from benchmarks.runner import Effort

TESTS = Path(__file__).resolve().parents[1] / "tests"
BEFORE_S, QUICK_BEFORE_S = 5.0, 1.0
DURING_S, QUICK_DURING_S = 10.0, 3.0
P99_LIMIT = 5.0
DEED_FROM_S = 0.1
"""A deed that is shorter is seen too few times for a ratio; whether it fails counts all the same."""

GROWTH_LIMIT_BYTES = 64 * 10**6

BEFORE, DURING = "victim's calls, before", "victim's calls, during"
DEED_BEFORE, DEED_DURING = "another's deed, before", "another's deed, during"
_SHOWN = 3


def attack(effort: Effort, *, with_host: bool, names: Sequence[str] = ()) -> Iterator[Comparison]:
    """Attack a host in each of these ways, or in all."""
    if not with_host:
        return
    for name in names or attack_names():
        neighbours = Neighbours()
        outcome = _observe(name, effort)
        yield _comparison(outcome, neighbours.cores())


def attack_names() -> list[str]:
    """Return the names of all attacks."""
    _find_attacks()
    from attacks.catalogue import ATTACKS  # noqa: PLC0415 - it is found only now

    return list(ATTACKS)


def _find_attacks() -> None:
    if str(TESTS) not in sys.path:
        sys.path.append(str(TESTS))


def _observe(name: str, effort: Effort) -> Outcome:
    _find_attacks()
    from attacks.rig import observe  # noqa: PLC0415 - as above

    before_s, during_s = (QUICK_BEFORE_S, QUICK_DURING_S) if effort.is_quick else (BEFORE_S, DURING_S)
    return observe(name, is_small=effort.is_quick, before_s=before_s, during_s=during_s)


def _comparison(outcome: Outcome, others_cores: float) -> Comparison:
    from attacks.catalogue import ATTACKS, CONTROL  # noqa: PLC0415 - as above
    from attacks.victim import LIST  # noqa: PLC0415 - as above

    before, during = outcome.before(), outcome.during()
    period_s = statistics.median(after.sent_s - call.sent_s for call, after in pairwise(before))
    figures = [_calls(BEFORE, before, period_s), _calls(DURING, during, period_s)]
    for label, calls in (("list_models, before", outcome.before(LIST)), ("list_models, during", outcome.during(LIST))):
        figures.append(_calls(label, calls, period_s=0))
    figures += [_deeds(DEED_BEFORE, outcome.deeds_before), _deeds(DEED_DURING, outcome.deeds_during)]
    figures += [
        Figure("supervisor's RSS, before", By.BYTES, outcome.rss_before_bytes, None, 1, is_ours=True),
        Figure("supervisor's RSS, highest", By.BYTES, outcome.rss_highest_bytes, None, 1, is_ours=True),
        Figure("supervisor's RSS, after", By.BYTES, outcome.rss_after_bytes, None, 1, is_ours=True),
        Figure("until it answers again", By.LATENCY, outcome.recovery_s, None, 1, is_ours=True),
    ]
    failures, told = outcome.failures, outcome.report.told
    notes = [f"the attacker {ATTACKS[outcome.name].what}: {_numbers(outcome.report.done)}; told: {told or 'nothing'}"]
    notes += [f"failed: {reason}" for reason in list(dict.fromkeys(failures))[:_SHOWN]]
    if outcome.report.wrong:
        notes.append(f"wrong: {outcome.report.wrong}")
    untold = ATTACKS[outcome.name].must_be_told and not told
    is_judged = outcome.name != CONTROL
    deed_limit = P99_LIMIT if is_judged and figures[4].value >= DEED_FROM_S else None
    verdicts = [
        _ratio(f"p99: {DURING}", BEFORE, figures[1].p99_s, figures[0].p99_s, P99_LIMIT if is_judged else None),
        _ratio(f"worst: {DEED_DURING}", DEED_BEFORE, figures[5].value, figures[4].value, deed_limit),
        _alone("failed calls and deeds of others", By.COUNT, len(failures), 0),
        _alone("growth of the supervisor", By.BYTES, outcome.growth_bytes, GROWTH_LIMIT_BYTES),
        _alone("supervisors that died", By.COUNT, int(not outcome.is_alive), 0),
        _alone("wrong, or not told, of the attacker", By.COUNT, int(bool(outcome.report.wrong) or untold), 0),
    ]
    return Comparison("attack", outcome.name, figures, verdicts, notes, others_cores)


def corrected(latencies_s: Sequence[float], period_s: float) -> list[float]:
    """Return also what the calls would have taken that a late answer kept from being sent, one in each period."""
    found = list(latencies_s)
    if period_s > 0:
        for latency_s in latencies_s:
            missing = int(latency_s / period_s) - 1
            found += [latency_s - number * period_s for number in range(1, missing + 1)]
    return found


def _calls(name: str, calls: Sequence[Call], period_s: float) -> Figure:
    latencies_s = [call.latency_s for call in calls] or [float("inf")]
    p99_s = nearest_rank(corrected(latencies_s, period_s), 0.99)
    return Figure(name, By.LATENCY, nearest_rank(latencies_s, 0.5), p99_s, len(calls), is_ours=True)


def _deeds(name: str, deeds: Sequence[Deed]) -> Figure:
    worst_s = max((deed.latency_s for deed in deeds), default=0.0)
    return Figure(name, By.LATENCY, worst_s, None, len(deeds), is_ours=True)


def _ratio(ours: str, floor: str, mine: float | None, theirs: float | None, limit: float | None) -> Verdict:
    value = (mine or 0.0) / (theirs or float("inf"))
    return Verdict(ours, floor, By.LATENCY, Against.RATIO, value, value, value, limit)


def _alone(name: str, by: By, value: float, ceiling: float) -> Verdict:
    return Verdict(name, "", by, Against.ALONE, value, value, value, ceiling)


def _numbers(done: dict[str, float]) -> str:
    return ", ".join(f"{value:,.0f} {what}" for what, value in done.items()) or "nothing done"
