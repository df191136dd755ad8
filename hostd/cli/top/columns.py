"""The columns of the table of models, and which of them a width has room for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.text import Text

from hostd.cli.styles import STATE_STYLES
from hostd.cli.top.drawing import bar, cell, one_line
from hostd.cli.top.state import Sort
from hostd.units import format_age, format_duration, format_size_short

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostd.cli.top.look import Row

_SHORTEST_NAME, _LITTLE_OF_NAME, _ENOUGH_OF_NAME = 8, 12, 18
"""How much of the longest name has to be seen: the title with its arrow, a little on a tiny screen, else enough to tell
names from each other. Other columns go first."""

_LEAST_BAR, _MOST_BAR = 8, 40
_CUT_STATE = 9  # only QUARANTINED is longer
_TINY, _NARROW = 60, 100
"""Widths below which names are cut short, and below which columns are one blank apart and states are cut."""

_TIGHT = 0.9
"""The part of its own limit from which on the memory of a model is shown in red."""


@dataclass(frozen=True)
class Column:
    """A column of a fixed width, and what it shows of a row: foreign text, or one that has its style."""

    title: str
    width: int
    show: Callable[[Row], Text | str]
    sort: Sort | None = None
    is_right: bool = True


@dataclass(frozen=True)
class Scale:
    """How bars are drawn: what fills one, and with which characters."""

    full_bytes: int
    is_ascii: bool

    def bar(self, row: Row, width: int) -> Text:
        """Return the bar of a model's memory."""
        reserved_bytes = min(row.model.reserved_bytes, row.model.charge_bytes)
        parts = (row.model.charge_bytes - reserved_bytes, reserved_bytes)
        full, reserved = (part / (self.full_bytes or 1) for part in parts)
        return bar(width, full, reserved, style=_memory_style(row) or "green", is_ascii=self.is_ascii)


def _name(row: Row) -> Text:
    return Text.assemble(("*" if row.model.pinned else " ", "bold magenta"), (one_line(row.model.id), "bold"))


def _state(row: Row) -> Text:
    return Text(one_line(row.model.state), STATE_STYLES.get(row.model.state, ""))


def _memory(row: Row) -> Text:
    return Text(format_size_short(row.model.charge_bytes or None), _memory_style(row))


def _memory_style(row: Row) -> str:
    limit_bytes = row.model.memory_limit
    return "red" if limit_bytes and row.model.charge_bytes >= _TIGHT * limit_bytes else ""


def _rate(row: Row) -> str:
    rate = row.calls_per_s
    if rate is None:
        return "-"
    return f"{rate / 1000:.1f}k" if rate >= 9999.5 else f"{rate:.1f}" if 0 < rate < 9.95 else f"{rate:.0f}"


def _duration(duration_s: float | None) -> str:
    return format_duration(duration_s).replace(" ", "")


NAME = Column("MODEL", _ENOUGH_OF_NAME, _name, Sort.NAME, is_right=False)
BAR = Column("", _LEAST_BAR, lambda _: "", is_right=False)

_SHOWN = (
    NAME,
    Column("STATE", 11, _state, is_right=False),
    BAR,
    Column("MEMORY", 7, _memory, Sort.MEMORY),
    Column("RSS", 5, lambda row: format_size_short(row.sum_of("rss_bytes"))),
    Column("GPU", 5, lambda row: format_size_short(row.sum_of("gpu_bytes") or None)),
    Column("PEAK", 5, lambda row: format_size_short(row.sum_of("peak_bytes"))),
    Column("CALLS/S", 8, _rate, Sort.CALLS),
    Column("P50", 6, lambda row: _duration(row.model.latency_p50_s)),
    Column("P99", 6, lambda row: _duration(row.model.latency_p99_s), Sort.P99),
    Column("BUSY", 4, lambda row: str(row.in_flight)),
    Column("USED", 5, lambda row: format_age(row.age_s(row.model.last_used_s)), Sort.USED),
    Column("UP", 4, lambda row: format_age(row.age_s(row.model.ready_s))),
    Column("PID", 7, lambda row: " ".join(str(worker.pid) for worker in row.model.workers if worker.pid) or "-"),
    Column("LOADER", 12, lambda row: row.model.loader or "-", is_right=False),
)
"""All columns in the order in which they are shown."""

_WANTED = (
    "MODEL",
    "MEMORY",
    "STATE",
    "GPU",
    "",
    "CALLS/S",
    "P99",
    "BUSY",
    "USED",
    "P50",
    "RSS",
    "PEAK",
    "UP",
    "PID",
    "LOADER",
)
"""Their titles, those first that stay longest when there is little room; the bar has none."""


@dataclass(frozen=True)
class Layout:
    """The columns that fit, with their widths."""

    columns: tuple[tuple[Column, int], ...]
    gap: str

    def heading(self, sort: Sort, *, is_reversed: bool, is_ascii: bool) -> Text:
        """Return the line of titles; an arrow tells by what, and in which direction, the models are sorted."""
        descends = is_reversed if sort is Sort.NAME else not is_reversed
        arrow = ("v" if descends else "^") if is_ascii else ("▼" if descends else "▲")
        titles = []
        for column, width in self.columns:
            is_sorted = column.sort is sort
            title = f"{' ' if column is NAME else ''}{column.title}{arrow if is_sorted else ''}"
            titles.append(cell(title, width, is_right=column.is_right, style="bold cyan" if is_sorted else "bold"))
        return Text(self.gap).join(titles)

    def line(self, row: Row, scale: Scale) -> Text:
        """Return the line of a model."""
        cells = (
            scale.bar(row, width) if column is BAR else cell(column.show(row), width, is_right=column.is_right)
            for column, width in self.columns
        )
        return Text(self.gap).join(cells)


def layout(width: int, longest_name: int, *, has_gpu: bool = False) -> Layout:
    """Return the columns for a width. What is over goes to the names as far as they need it, then to the bar."""
    gap = " " if width < _NARROW else "  "
    left = width + len(gap)
    sizes = {column.title: column.width for column in _SHOWN}
    wanted = longest_name + 1  # for the mark of those that are pinned
    sizes["MODEL"] = min(max(wanted, _SHORTEST_NAME), _ENOUGH_OF_NAME if width >= _TINY else _LITTLE_OF_NAME, width)
    if width < _NARROW:
        sizes["STATE"] = _CUT_STATE
    fitting: dict[str, int] = {}
    for title in _WANTED:
        if title == "GPU" and not has_gpu:
            continue
        if left < sizes[title] + len(gap):
            break
        fitting[title] = sizes[title]
        left -= sizes[title] + len(gap)
    for title, most in (("MODEL", wanted), (BAR.title, _MOST_BAR), ("MODEL", width)):
        if title in fitting:
            more = max(0, min(left, most - fitting[title]))
            fitting[title] += more
            left -= more
    return Layout(tuple((column, fitting[column.title]) for column in _SHOWN if column.title in fitting), gap)
