"""Ctrl-C in a command that waits: what becomes of what was asked for, and how to follow or end it."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def told(text: str | Callable[[], str]) -> Iterator[None]:
    """Say `text`, or what it returns then, if Ctrl-C ends the block: the command ends, and the host goes on."""
    try:
        yield
    except KeyboardInterrupt:
        from hostd.cli.output import plain, say  # noqa: PLC0415 - only an interrupt needs it

        said = text if isinstance(text, str) else text()
        line = "\n" if sys.stderr.isatty() else ""  # a terminal has shown ^C
        say(f"{line}[yellow]interrupted[/]: {plain(said)}", stderr=True)
        raise
