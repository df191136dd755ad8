"""What a template imports: modules of installed distributions, one after the other, looked at after each."""

from __future__ import annotations

import importlib
import os
import sys
from functools import partial
from typing import TYPE_CHECKING

from hostd_workers.process.installed import foreign, hidden_by, places
from hostd_workers.template.rehearsal import first_uses
from hostd_workers.template.safety import State
from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Unsafe(NamedTuple):
    """A module of which the import makes this process unfit to be forked, and why."""

    module: str
    reason: str


def import_all(names: Iterable[str], note: Callable[[str], object]) -> Unsafe | None:
    """Import modules, from where distributions are installed alone; return the first that makes a fork unsafe.

    One that cannot be imported by itself is left out. `note` is told of each before: it may hang, or end the process.
    """
    searched = sys.path[:]
    elsewhere = [entry for entry in searched if not _is_place(entry)]
    sys.path[:] = [entry for entry in searched if _is_place(entry)]
    try:
        before = State.now()
        last = ""
        for name in names:
            if name not in sys.modules:
                note(name)
                is_next = name.partition(".")[0] != last.partition(".")[0]
                reason = _changed_by(partial(importlib.import_module, name), before, None if is_next else before.shared)
                if reason:
                    return Unsafe(name, reason)
                last = name
        for name, use in first_uses():
            note(name)
            if reason := _changed_by(use, before, None):
                return Unsafe(name, reason)
        if reason := State.now().why_unsafe(before):
            return Unsafe(last, reason)
    finally:
        # What libraries have added stays, as it does where they are imported by a model.
        sys.path[:] = [*searched, *(entry for entry in sys.path if entry not in searched)]
    hidden = {name: entry for entry in elsewhere if entry for name in hidden_by(entry)}
    return next((Unsafe(name, f"{entry} hides it") for name, entry in hidden.items()), None)


def _changed_by(step: Callable[[], object], before: State, shared: frozenset[str] | None) -> str:
    """Import a module or use one; return what that did that makes a fork unsafe."""
    known = set(sys.modules)
    try:
        step()
    except Exception:  # noqa: BLE001, S110 - a module that others made, or that wants another one first
        pass
    except BaseException as error:  # noqa: BLE001 - not even this ends a template
        return f"it raises {type(error).__name__}"
    strangers = foreign(sys.modules.keys() - known)
    if strangers:
        return f"it imports {strangers[0]}, which is of no installed distribution"
    return State.now(shared).why_unsafe(before)


def _is_place(entry: str) -> bool:
    return f"{entry.rstrip('/')}/".startswith(places()) or entry.endswith(".zip")


def files_of(names: Iterable[str]) -> bytes:
    """Return the files that tell that a distribution was installed anew: directories, and each package's first file.

    The standard library is installed as a whole. Their paths, with a zero byte between two: one object, because each
    that a forked child looks at is a page of its own.
    """
    looked = [place for place in places() if os.path.isdir(place)]  # noqa: PTH112 - many, as strings
    for name in names:
        path = getattr(sys.modules.get(name), "__file__", None)
        if not ("." in name or name in sys.stdlib_module_names) and isinstance(path, str) and path.startswith(places()):
            looked += [path, os.path.dirname(path)]  # noqa: PTH120 - as above
    return b"\0".join(map(os.fsencode, dict.fromkeys(looked)))


def changes_of(files: bytes) -> bytes:
    """Return when each of these was changed last, 0 for what is gone; for comparison."""
    return b" ".join(b"%d" % _changed_ns(file) for file in files.split(b"\0"))


def _changed_ns(file: bytes) -> int:
    try:
        return os.stat(file).st_mtime_ns  # noqa: PTH116 - as above
    except OSError:
        return 0
