"""Ctrl-C: the command ends with one line, on what becomes of what was asked for and how to follow or end it."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hostd.cli.output import plain, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EXIT_INTERRUPTED = 130  # what shells report for a command that SIGINT ended: 128 + 2


@contextmanager
def told(text: str | Callable[[], str]) -> Iterator[None]:
    """Say `text`, or what it returns then, if Ctrl-C ends the block: the command ends, and the host goes on.

    Raises SystemExit then, and not KeyboardInterrupt, of which click makes an empty line.
    """
    try:
        yield
    except KeyboardInterrupt:
        said = text if isinstance(text, str) else text()
        line = "\n" if sys.stderr.isatty() else ""  # a terminal has shown ^C
        say(f"{line}[yellow]interrupted[/]{plain(f': {said}' if said else '')}", stderr=True)
        raise SystemExit(EXIT_INTERRUPTED) from None
