"""Pieces of a picture that are one line high: bars, and cells of a given width."""

from __future__ import annotations

from rich.text import Text

from hostd.cli.output import printable

_EIGHTHS = " ▏▎▍▌▋▊▉█"


def bar(width: int, full: float, reserved: float = 0.0, *, style: str, track: bool = False, is_ascii: bool) -> Text:
    """Return a bar of which a part is `full` and another `reserved`, both between 0 and 1; a `track` shows the rest.

    What is not nothing is at least the smallest mark there is.
    """
    full = min(max(full, 0.0), 1.0)
    reserved = min(max(reserved, 0.0), 1.0 - full)
    eighths = round(full * width * 8) or (1 if full else 0)
    whole, rest = divmod(eighths, 8)
    if is_ascii:
        whole, rest = min(width, -(-eighths // 8)), 0
    drawn = Text(("#" if is_ascii else "█") * whole + (_EIGHTHS[rest] if rest else ""), style=style)
    ahead = min(width - len(drawn), round((full + reserved) * width) - len(drawn) or (1 if reserved else 0))
    drawn.append(("+" if is_ascii else "▒") * ahead, "yellow")
    drawn.append(
        ("." if is_ascii else "·") * (width - len(drawn)) if track else " " * (width - len(drawn)), "bright_black"
    )
    return drawn


def cell(content: Text | str, width: int, *, is_right: bool = False, style: str = "") -> Text:
    """Return foreign text, or a text that is made already, in a given width; what is too long ends with an ellipsis."""
    made = content.copy() if isinstance(content, Text) else Text(one_line(content), style=style)
    if is_right and made.cell_len < width:
        made.pad_left(width - made.cell_len)
    made.truncate(width, overflow="ellipsis", pad=True)
    return made


def ends(left: Text, right: Text, width: int) -> Text:
    """Return a line with one text at its left end and one at its right end, which goes if it leaves less than half."""
    room = width - right.cell_len - 1
    if not right or room < min(left.cell_len, width // 2 + 1):
        return cell(left, width)
    return Text.assemble(cell(left, room), " ", right)


def one_line(text: str) -> str:
    """Return foreign text without what would move the terminal."""
    return printable(text).replace("\n", " ").replace("\t", " ")
