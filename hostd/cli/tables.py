"""Tables that keep paths, names and commands in one piece, whatever the width of the terminal.

Covers how wide columns are, and which cells go on lines of their own. Does not cover the table of `ps`, which leaves
out columns instead (`listing`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.padding import Padding
from rich.text import Text

from hostd.cli.output import PIPE_COLUMNS, console, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import RenderableType
    from rich.table import Table

_GAP = 2
_INDENT = 4


def print_table(rows: Table) -> None:
    """Print a table of `output.table` on stdout; in a pipe, which has no width, a row is a line."""
    out = console()
    if not out.is_terminal:
        out.width = PIPE_COLUMNS
    for part in laid_out(rows, out.width):
        out.print(part)


def laid_out(rows: Table, width: int) -> Iterator[RenderableType]:
    """Yield a table as it fits into `width`; its cells wrap between words.

    A cell with a word that is too long for its column goes below its row; only what is longer than a line is folded.
    """
    headings = [Text.from_markup(str(column.header)) for column in rows.columns]
    cells = [[Text.from_markup(str(cell)) for cell in column.cells] for column in rows.columns]
    columns = [[heading, *column] for heading, column in zip(headings, cells, strict=True)]
    if not rows.show_header:
        columns = cells
    widths = _widths(columns, width)

    def part() -> Table:
        made = table(*[""] * len(widths))
        for column, columns_width, model in zip(made.columns, widths, rows.columns, strict=True):
            column.width, column.justify = columns_width, model.justify
        made.show_header = False
        return made

    shown = part()
    if rows.show_header:
        shown.add_row(*headings, style="bold")
    for row, line in zip(rows.rows, zip(*cells, strict=True), strict=True):
        below = [_longest_word(cell) > room for cell, room in zip(line, widths, strict=True)]
        shown.add_row(*("" if is_below else cell for cell, is_below in zip(line, below, strict=True)), style=row.style)
        if any(below):
            yield shown
            for cell in (cell for cell, is_below in zip(line, below, strict=True) if is_below):
                cell.overflow = "fold"
                yield Padding(cell, (0, 0, 0, _INDENT), style=row.style or "none")
            shown = part()
    if shown.rows:
        yield shown


def _widths(columns: Sequence[Sequence[Text]], width: int) -> list[int]:
    """Return how wide columns are: enough for their words, then for all of their cells as long as there is room."""
    words = [[_longest_word(cell) for cell in column] for column in columns]
    left = width - _GAP * len(columns)
    if sum(map(max, words)) <= left:
        widths = [max(lengths) for lengths in words]
    else:  # each in its turn takes at most half of what is left, the last all of it
        widths = []
        for lengths in words:
            room = max(1, left - sum(widths)) // (2 if len(widths) < len(words) - 1 else 1)
            widths.append(max((length for length in lengths if length <= room), default=1))
    for index, column in enumerate(columns):
        fitting = [cell.cell_len for cell in column if _longest_word(cell) <= widths[index]]
        spare = max(0, left - sum(widths))
        widths[index] += min(spare, max(0, max(fitting, default=0) - widths[index]))
    return [max(1, found) for found in widths]


def _longest_word(cell: Text) -> int:
    return max(map(cell_len, cell.plain.split()), default=0)
