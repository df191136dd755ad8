"""What is wrong with a path, in words: which part of it is missing, or may not be entered, and what is there instead.

Blocks on the disk: call it in a thread.
"""

from __future__ import annotations

import difflib
import os
from itertools import islice
from pathlib import Path

_NAMES_READ = 1000
_NAMES_SHOWN = 10
"""Of a directory: to tell what it is, and to find the name that was meant."""


def why_missing(path: str) -> str:
    """Return a phrase that says which part of an absolute path is missing, after "there is nothing at PATH"."""
    place = Path(path)
    if place.is_symlink():
        return f"it is a link to {place.readlink()}, which is missing"
    missing = place
    while not missing.parent.exists():
        missing = missing.parent
    where = missing.parent
    if not where.is_dir():
        return f"{where} is a file, not a directory"
    close = difflib.get_close_matches(missing.name, [name.rstrip("/") for name in _names(where)], n=1)
    why = f"{where} has no {missing.name}" if missing == place else f"{missing} is missing"
    return f"{why}; did you mean {close[0]}?" if close else why


def why_forbidden(path: str) -> str:
    """Return a phrase that says which part of an absolute path this process may not read, and who it is."""
    place = Path(path)
    for above in reversed(place.parents):
        if not os.access(above, os.X_OK):
            return f"user id {os.geteuid()} may not enter {above}: chmod o+x, or its owner, lets it"
    return f"user id {os.geteuid()} may not read it: check its mode and its owner"


def what_is_in(path: str) -> str:
    """Return the names in a directory for a message, the first few of them; "" for what is none."""
    names = _names(Path(path))
    if not Path(path).is_dir():
        return ""
    if not names:
        return "it is empty"
    more = f", and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"it has {', '.join(names[:_NAMES_SHOWN])}{more}"


def _names(directory: Path) -> list[str]:
    """Return the names in a directory, in order, those of directories with a slash; none if it cannot be read."""
    try:
        with os.scandir(directory) as entries:
            return sorted(f"{e.name}/" if e.is_dir() else e.name for e in islice(entries, _NAMES_READ))
    except OSError:
        return []
