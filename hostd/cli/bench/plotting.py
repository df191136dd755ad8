"""The picture of `bench --plot`: each call's latency over time, and how the latencies are spread."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING

import click

from hostd.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

KINDS = (".png", ".svg", ".pdf")
_PERCENTS = ((50, "tab:green"), (90, "tab:olive"), (99, "tab:red"))
_INCHES, _DOTS_PER_INCH = (10.0, 4.0), 120
_BINS = 60


def check_plot(file: Path) -> Path:
    """Return where a plot goes. Raises click.UsageError before anything is measured that could not be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        raise click.UsageError("--plot needs matplotlib, which is not installed here: pip install matplotlib")
    if file.suffix.lower() not in KINDS:
        raise click.UsageError(f"--plot draws {', '.join(KINDS)} files, and {file} is none")
    if not file.absolute().parent.is_dir() or not os.access(file.absolute().parent, os.W_OK):
        raise click.UsageError(f"--plot cannot write {file}: {file.absolute().parent} is no directory to write into")
    return file


def draw(file: Path, title: str, ended_s: Sequence[float], latencies_s: Sequence[float]) -> None:
    """Draw the latencies of calls that ended at these seconds of the run."""
    import matplotlib as mpl  # noqa: PLC0415 - optional, and slow to import

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - as above

    from hostd.cli.bench.percentiles import percentile  # noqa: PLC0415 - imports this module

    ordered = sorted(latencies_s)
    figure, (over_time, spread) = plt.subplots(1, 2, figsize=_INCHES, sharey=True, width_ratios=(3, 1))
    over_time.plot(ended_s, latencies_s, ".", markersize=2, alpha=0.4, color="tab:blue", rasterized=True)
    low, high = ordered[0], ordered[-1]
    bins = [
        low * (high / low) ** (edge / _BINS) for edge in range(_BINS + 1)
    ]  # as even as the axis, which is in decades
    spread.hist(latencies_s, bins=bins, orientation="horizontal", color="tab:blue", alpha=0.6)
    for percent, colour in _PERCENTS:
        value_s = percentile(ordered, percent) or 0.0
        for axis in (over_time, spread):
            axis.axhline(value_s, color=colour, linewidth=1, label=f"p{percent}: {format_duration(value_s)}")
    over_time.set(xlabel="seconds since the start", ylabel="latency of a call", yscale="log")
    spread.set(xlabel=f"calls, of {len(ordered)}")
    over_time.yaxis.set_major_formatter(lambda value_s, _: format_duration(value_s))
    over_time.legend(loc="lower left", bbox_to_anchor=(0, 1), ncol=3, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(file, dpi=_DOTS_PER_INCH)
    plt.close(figure)
