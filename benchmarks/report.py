"""Tables for people, JSON for programs, and a plot."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich.table import Table

from benchmarks.runner import OTHERS_LIMIT_CORES
from benchmarks.verdicts import Against, By, Comparison, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from rich.console import Console

# Bars tell the truth from zero only; a call in process is too far from the others for that.
LOG_FROM = 50
FORMATS: dict[By, Callable[[float], str]] = {
    By.RATE: "{:,.0f}/s".format,
    By.PERCENT: "{:.2f} %".format,
    By.COUNT: "{:,.0f}".format,
    By.FACTOR: "{:.2f}x".format,
    By.SPREAD: "{:.2f}x".format,
    By.BYTES: lambda value: f"{value / 1e6:,.1f} MB",
}
_AXES = {
    By.LATENCY: "median latency: less is better",
    By.RATE: "calls per second: more is better",
    By.BYTES: "bytes",
}
SECONDS = (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9))


def show(console: Console, comparison: Comparison, *, with_targets: bool = True) -> None:
    """Print one comparison: its figures, our ratio to each floor, and last its targets."""
    console.print(f"\n{comparison.group}: {comparison.title}", style="bold", highlight=False)
    columns = _ratio_columns(comparison)
    has_calls = any(figure.p99_s is not None for figure in comparison.figures)
    table = Table("side")
    heading = _heading(comparison.figures[0].by) if has_calls else "figure"
    is_rate = comparison.figures[0].by is By.RATE
    more = ("p50",) * (has_calls and is_rate) + ("p99", "calls") * has_calls
    for title in (heading, *more, *columns):
        table.add_column(title, justify="right")
    for figure in comparison.figures:
        cells = [figure.name, format_value(figure.value, figure.by)]
        if has_calls and is_rate:
            cells.append(_latency_cell(figure.p50_s))
        if has_calls:
            cells += [_latency_cell(figure.p99_s), f"{figure.calls:,}"]
        cells += [_ratio_cell(verdicts.get(figure.name)) for verdicts in columns.values()]
        table.add_row(*cells, style="bold" if figure.is_ours else None)
    console.print(table)
    for note in comparison.notes:
        console.print(f"  {note}", style="dim")
    if comparison.repeated:
        console.print(f"  {comparison.repeated} rounds measured again because of other programs", style="dim")
    if comparison.others_cores > OTHERS_LIMIT_CORES:
        console.print(
            f"  other programs used {comparison.others_cores:.1f} cores meanwhile: repeat this on a quiet machine, "
            "or with --patience",
            style="yellow",
        )
    if with_targets:
        show_targets(console, [comparison])


def show_targets(console: Console, comparisons: Sequence[Comparison]) -> None:
    """Print the verdicts that have a target, one a line, with ok or MISSED."""
    for comparison in comparisons:
        for verdict in comparison.verdicts:
            if verdict.limit is not None:
                outcome = "[green]ok    [/]" if verdict.is_met else "[bold red]MISSED[/]"
                console.print(f"  {outcome} {comparison.title}: {describe(verdict)}", highlight=False, soft_wrap=True)


def describe(verdict: Verdict) -> str:
    """Say a verdict in words, without its outcome."""
    of = {By.TAIL: "p99 of ", By.SPREAD: "p99 ÷ p50 of "}.get(verdict.by, "")
    if verdict.against is Against.RATIO:
        value, low, high = (f"{number:.2f}x" for number in (verdict.value, verdict.low, verdict.high))
        what, limit = f"{verdict.ours} ÷ {verdict.floor}", f"{verdict.limit}x"
    else:
        value, low, high = (format_value(number, verdict.by) for number in (verdict.value, verdict.low, verdict.high))
        against = f" - {verdict.floor}" if verdict.against is Against.DIFFERENCE else ""
        what, limit = f"{verdict.ours}{against}", format_value(verdict.limit or 0.0, verdict.by)
    spread = f" ({low} to {high})" if low != high else ""
    return f"{of}{what} = {value}{spread}, target {'<=' if verdict.is_ceiling else '>='} {limit}"


def format_value(value: float, by: By) -> str:
    """Format a figure in its unit."""
    if by in FORMATS:
        return FORMATS[by](value)
    for unit, factor in SECONDS:
        if abs(value) >= factor:
            return f"{value / factor:.3g} {unit}" if abs(value) < 1000 * factor else f"{value / factor:,.0f} {unit}"
    return f"{value / 1e-9:.3g} ns"


def write_json(path: Path, facts: dict[str, Any], comparisons: Sequence[Comparison], *, is_quick: bool) -> None:
    """Write facts and comparisons; every figure in the unit that its comparison names."""
    document = {"machine": facts, "quick": is_quick, "comparisons": [c.to_dict() for c in comparisons]}
    path.write_text(json.dumps(document, indent=2) + "\n")


def is_drawable(comparison: Comparison) -> bool:
    """Say whether a comparison has bars to compare: floors and ours, in one unit."""
    return len({figure.is_ours for figure in comparison.figures}) > 1


def write_plot(path: Path, facts: dict[str, Any], comparisons: Sequence[Comparison], *, is_quick: bool) -> None:
    """Draw one panel of horizontal bars per comparison of floors and ours: the median round, the lowest and highest."""
    import matplotlib as mpl  # noqa: PLC0415 - only in the `bench` extra

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    panels = [comparison for comparison in comparisons if is_drawable(comparison)]
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(7.5 * columns, 2.6 * lines), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, comparison in zip(axes.flat, panels, strict=False):
        bars = list(reversed(comparison.figures))
        by, values = bars[0].by, [bar.value for bar in bars]
        spread = [
            [bar.value - (bar.value if bar.low is None else bar.low) for bar in bars],
            [(bar.value if bar.high is None else bar.high) - bar.value for bar in bars],
        ]
        axis.barh(
            [bar.name for bar in bars],
            values,
            color=["tab:orange" if bar.is_ours else "tab:gray" for bar in bars],
            xerr=spread,
            error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "black"},
        )
        for row, bar in enumerate(bars):
            end = values[row] + spread[1][row]
            axis.annotate(
                format_value(bar.value, bar.by), (end, row), (4, 0), textcoords="offset points", va="center", fontsize=7
            )
        if max(values) > LOG_FROM * min(values):
            axis.set_xscale("log")
        axis.margins(x=0.25)
        axis.set_title(f"{comparison.group}: {comparison.title}", fontsize=8, loc="left")
        axis.set_xlabel(_AXES.get(by, ""), fontsize=7)
        axis.xaxis.set_major_formatter(lambda value, _, by=by: format_value(value, by) if value else "0")
        axis.tick_params(labelsize=7)
    said = "bars: median of the rounds; lines: lowest to highest round; orange: hostd"
    quick = "; a quick look, not a measurement" if is_quick else ""
    figure.suptitle(f"{facts['cpu']}, {facts['cores']} cores, Python {facts['python']}\n{said}{quick}", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _heading(by: By) -> str:
    return {By.LATENCY: "p50", By.RATE: "calls/s"}.get(by, "figure")


def _latency_cell(seconds: float | None) -> str:
    return "" if seconds is None else format_value(seconds, By.LATENCY)


def _ratio_columns(comparison: Comparison) -> dict[str, dict[str, Verdict]]:
    """Return the columns of ratios: by their titles, a verdict for the sides that have one.

    Ours against the floors that the comparison names, in the rows of ours; else against every floor, in its row.
    """
    ratios = [v for v in comparison.verdicts if v.against is Against.RATIO and v.by not in (By.TAIL, By.SPREAD)]
    if comparison.references:
        return {f"÷ {name}": {v.ours: v for v in ratios if v.floor == name} for name in comparison.references}
    ours = dict.fromkeys(verdict.ours for verdict in ratios)
    return {f"{mine} ÷ this": {v.floor: v for v in ratios if v.ours == mine} for mine in ours}


def _ratio_cell(verdict: Verdict | None) -> str:
    if verdict is None:
        return ""
    return f"{verdict.value:,.2f}x" if verdict.value < 100 else f"{verdict.value:,.0f}x"
