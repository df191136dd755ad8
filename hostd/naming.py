"""Leading from a wrong name to the right one, in every message about an unknown name."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is nearest to a wrong one; None if none is near."""
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)), None)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a phrase with the known name nearest to a wrong one, or else with all known names."""
    names = sorted(known)
    if close := closest(name, names):
        return f"did you mean {close!r}?"
    return f"known are: {', '.join(names)}"
