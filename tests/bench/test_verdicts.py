"""What rounds amount to, and how a comparison is shown."""

import io

import pytest
from rich.console import Console

from benchmarks import report
from benchmarks.runner import Round, Rounds, Side
from benchmarks.verdicts import Against, By, Target, compare

FLOOR, OURS = "floor", "ours"


def round_of(p50_s: float, p99_s: float, calls: int = 200) -> Round:
    """A round whose slowest 3 % take `p99_s` and the others `p50_s`."""
    slow = max(1, calls * 3 // 100)
    return Round([p50_s] * (calls - slow) + [p99_s] * slow, 1.0)


def side(name: str) -> Side:
    return Side(name, lambda: round_of(1.0, 1.0), is_ours=name == OURS)


def compared(ours: list[Round], floor: list[Round], *targets: Target, by: By = By.LATENCY, **options):
    return compare("g", "t", by, [side(FLOOR), side(OURS)], Rounds({FLOOR: floor, OURS: ours}), targets, **options)


def judged(comparison):
    return [verdict for verdict in comparison.verdicts if verdict.limit is not None]


def test_a_target_on_the_tail_compares_the_99th_percentiles_round_by_round():
    target = Target(OURS, FLOOR, Against.RATIO, 1.5, by=By.TAIL)
    ours = [round_of(1, 20), round_of(1, 30), round_of(1, 90)]
    floor = [round_of(9, 20), round_of(9, 20), round_of(9, 20)]
    (verdict,) = judged(compared(ours, floor, target))
    assert (verdict.low, verdict.value, verdict.high) == (1.0, 1.5, 4.5)
    assert verdict.is_met
    assert report.describe(verdict).startswith("p99 of ours ÷ floor = 1.50x")


def test_a_target_on_the_spread_is_of_ours_alone():
    target = Target(OURS, "", Against.ALONE, 5.0, by=By.SPREAD)
    (verdict,) = judged(compared([round_of(2, 12)], [round_of(1, 1)], target, by=By.RATE))
    assert verdict.value == 6.0
    assert not verdict.is_met
    assert report.describe(verdict) == "p99 ÷ p50 of ours = 6.00x, target <= 5.00x"


def test_the_99th_percentile_of_a_figure_is_the_median_of_the_rounds():
    ours = [round_of(1, 20), round_of(1, 30), round_of(1, 90)]
    figure = compared(ours, ours).figures[1]
    assert (figure.p50_s, figure.p99_s) == (1, 30)


def test_rounds_of_few_calls_have_their_99th_percentile_together():
    ours = [Round([1.0] * 5, 1.0), Round([1.0] * 4 + [7.0], 1.0)]
    assert compared(ours, ours).figures[1].p99_s == 7.0


@pytest.mark.parametrize("references", [(), (FLOOR,)])
def test_the_column_of_ratios_is_of_the_medians_also_where_a_target_is_on_the_tail(references):
    target = Target(OURS, FLOOR, Against.RATIO, 1.5, by=By.TAIL)
    comparison = compared([round_of(4, 30)], [round_of(2, 20)], target, references=references)
    console = Console(file=io.StringIO(), width=120)
    report.show(console, comparison)
    shown = console.file.getvalue()
    assert "2.00x" in shown
    row = next(line for line in shown.splitlines() if "2.00x" in line and "│" in line)
    assert (OURS in row) == bool(references)
    assert "ok" in shown
