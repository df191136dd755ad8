"""Hints in messages: which name was meant, and what is wrong with a path.

What looks at a path blocks on the disk: call it in a thread.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from hostd_workers.wire.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_NAMES_READ = 1000
_NAMES_SHOWN = 10
"""Of a directory: to tell what it is, and to find the name that was meant."""


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is nearest to a wrong one; None if none is near."""
    import difflib  # noqa: PLC0415 - only a failure needs it

    return next(iter(difflib.get_close_matches(name, sorted(known), n=1)), None)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a phrase with the known name nearest to a wrong one, or else with all known names."""
    names = sorted(known)
    close = closest(name, names)
    return f"did you mean {close!r}?" if close else f"known are: {', '.join(names)}"


@contextmanager
def looking_at(path: str) -> Iterator[None]:
    """Turn what the system says about a path into typed errors: NOT_FOUND, FAILED_PRECONDITION, INVALID_ARGUMENT."""
    details = {"path": path}
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        where = f"{path}: {why_missing(path)}" if path else "an empty path"
        raise NotFoundError(f"there is nothing at {where}", details=details) from error
    except PermissionError as error:
        raise FailedPreconditionError(f"cannot look at {path}: {why_forbidden(path)}", details=details) from error
    except OSError as error:
        raise FailedPreconditionError(f"cannot look at {path!r}: {error}", details=details) from error
    except ValueError as error:  # a null byte
        raise InvalidArgumentError(f"cannot look at {path!r}: {error}", details=details) from error


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
    close = closest(missing.name, [name.rstrip("/") for name in _names(where)])
    why = f"{where} has no {missing.name}" if missing == place else f"{missing} is missing"
    return f"{why}; did you mean {close}?" if close else why


def why_forbidden(path: str) -> str:
    """Return a phrase that says which part of an absolute path this process may not read, and as which user."""
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
