"""Which modules are of installed distributions: those alone may be in a template.

A module counts if its file lies below the directories that an interpreter installs into. A model's directory, the
current one, `PYTHONPATH` and a checkout that is installed in place hold code that may be another one tomorrow, or that
another model has under the same name.
"""

from __future__ import annotations

import contextlib
import os
import sys
from functools import lru_cache
from importlib.machinery import all_suffixes
from itertools import islice
from typing import TYPE_CHECKING

from hostd_workers.wire.errors import FailedPreconditionError

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_MODULES = 8000
"""The largest frameworks have some 4,000."""

_OURS = "hostd_workers"


@lru_cache(maxsize=1)
def places() -> tuple[str, ...]:
    """Return the directories that this interpreter installs into, each with a slash at its end."""
    import site  # noqa: PLC0415 - a model that is not asked what it imports does without these
    import sysconfig  # noqa: PLC0415 - as above

    found = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    if hasattr(site, "getsitepackages"):
        found += site.getsitepackages()
    if site.ENABLE_USER_SITE:
        found.append(site.getusersitepackages())
    return tuple(dict.fromkeys(f"{path.rstrip('/')}/" for path in found if path))


def is_installed(name: str) -> bool:
    """Say whether a module that is imported is of an installed distribution; of ours are the worker's own."""
    if name == _OURS or name.startswith(f"{_OURS}."):
        return True
    origin = _origin_of(name)
    return origin is not None and origin.startswith(places())


def foreign(names: Iterable[str]) -> list[str]:
    """Return those of these modules that came from a file elsewhere."""
    return [name for name in names if (origin := _origin_of(name)) and "/" in origin and not is_installed(name)]


def hidden_by(directory: str) -> list[str]:
    """Return what is imported from an installed distribution and would not be, were `directory` searched before them.

    The standard library comes before it, whatever is in there.
    """
    names = set()
    with contextlib.suppress(OSError):
        names = {name for entry in os.listdir(directory) if (name := _module_of(directory, entry))}  # noqa: PTH208
    if not names:
        return []
    ours = sys.stdlib_module_names | {_OURS, "__main__"}
    return sorted(name for name in names - ours if name in sys.modules and is_installed(name))


def _module_of(directory: str, entry: str) -> str:
    """Return the module that an entry of a directory is, "" for none; a folder without `__init__` hides no package."""
    for suffix in all_suffixes():
        if entry.endswith(suffix):
            return entry[: -len(suffix)]
    is_package = any(os.path.exists(f"{directory}/{entry}/__init__{suffix}") for suffix in all_suffixes())  # noqa: PTH110
    return entry if is_package else ""


def imported_since(count: int) -> list[str]:
    """Return the modules of installed distributions that were imported since there were so many.

    In the order in which that was done, what others need before them.

    Those from before are not looked at: in a forked worker each look would make a page of its own.
    """
    new = list(islice(reversed(sys.modules), min(MAX_MODULES, len(sys.modules) - count)))
    return [name for name in reversed(new) if is_installed(name)]


def refuse_if_hidden(directory: str) -> None:
    """Raise `FailedPreconditionError` if a model's directory has modules of its own in place of what is imported."""
    hidden = hidden_by(directory)
    if hidden:
        raise FailedPreconditionError(
            f"{directory} has a {hidden[0]} of its own, and a forked worker has the installed one"
        )


def _origin_of(name: str) -> str | None:
    spec = getattr(sys.modules.get(name), "__spec__", None)
    origin = getattr(spec, "origin", None)
    return origin if isinstance(origin, str) and getattr(spec, "name", None) == name else None
