"""One load: the loader runs, its warnings are kept, and what it raises is explained by what lies at the model's path.

This is the border with the model's code while it loads: whatever that raises becomes a typed error here. An error says
in its details `permanent` whether another try is of no use, if its status does not say it (`hostd.core.loading`).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import warnings
from typing import TYPE_CHECKING, Any

from hostd_workers.api import Served, Specification
from hostd_workers.plugins import DEFAULT_INITIALIZER, initialize, load_with
from hostd_workers.process.ending import ENDS_A_PROCESS
from hostd_workers.raised import error_of
from hostd_workers.wire.errors import HostError, InvalidArgumentError, ModelError, sayable
from hostd_workers.wire.light import NamedTuple, pattern

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_WARNINGS = 16
MAX_WARNING_CHARS = 500
_MAX_FILES = 1000
"""Files that are compared before and after a load: some 3 ms each time."""

_MAX_FLAWS = 3
_OF_MAIN = pattern(r"attribute '(\w+)' on <module '__main__'|module '__main__' has no attribute '(\w+)'")
_CHANGED = "its files were changed while it was loaded"

_State = dict[str, tuple[int, int, int]]


class Loaded(NamedTuple):
    """A model that is loaded, and the texts of what was warned of meanwhile."""

    served: Served
    warnings: list[str]


def load(request: dict[str, Any]) -> Loaded:
    """Return the model that a LOAD asks for. Raises `HostError`, whatever the loader or the model's code raised."""
    spec = Specification(request["model_id"], request["path"], request["loader"], request["options"], load_with)
    initializer = _initializer(request.get("initializer"))
    before = _state_of(spec.path)
    with _kept_warnings() as texts:
        try:
            made = initialize(spec, *initializer)
        except ENDS_A_PROCESS:
            raise
        except BaseException as error:
            explained = _explained(error, spec.path, has_changed=_has_changed(before, spec.path))
            if explained is error:
                raise
            raise explained from error
    if _has_changed(before, spec.path):
        texts.append(f"{_CHANGED}: what serves may be of both; load it again")
    return Loaded(made if isinstance(made, Served) else Served(made), _bounded(texts))


def _initializer(named: object) -> tuple[str, dict[str, Any]]:
    match named:
        case None:
            return DEFAULT_INITIALIZER, {}
        case [str(reference), dict(config)] if all(isinstance(name, str) for name in config):
            return reference, config
    raise InvalidArgumentError(f"a LOAD's initializer must be nil or [reference, config], got {named!r}")


# Errors


def load_error(error: BaseException) -> HostError:
    """Return the typed error of what was raised while a model was loaded."""
    raised = error_of(error)
    if raised is error:
        return raised
    return ModelError(f"loading failed: {raised.message}", details=raised.details)


def _explained(error: BaseException, path: str | None, *, has_changed: bool) -> HostError:
    """Return the typed error of a load, with what its own words do not say."""
    from hostd_workers.loaders._common.flaws import flaws_below  # noqa: PLC0415 - 6 ms that a load that succeeds does not pay

    described = load_error(error)
    flaws = [] if path is None or "flaw" in described.details else list(itertools.islice(flaws_below(path), _MAX_FLAWS))
    if name := _OF_MAIN.search(described.message):
        flaws.append(
            f"{name[1] or name[2]} was a part of the script that saved the model: put it into a module that the "
            "worker's interpreter has too and save the model again, or write a model.py that brings it"
        )
    described.message = ". ".join([described.message.rstrip("."), *flaws]) if flaws else described.message
    if has_changed:
        described.message += f". Perhaps because {_CHANGED}"
        described.details["permanent"] = False
    elif flaws or isinstance(error, (ImportError, SyntaxError)):
        described.details["permanent"] = True
    return described


# What changes under a load


def _state_of(path: str | None) -> _State:
    """Return size, time of change and inode of a model's files by name."""
    if path is None:
        return {}
    found = (os.path.join(top, name) for top, _, names in os.walk(path) for name in names)  # noqa: PTH118 - many
    state = {}
    for file in itertools.islice(itertools.chain([path], found), _MAX_FILES):
        with contextlib.suppress(OSError, ValueError):
            status = os.stat(file)  # noqa: PTH116 - many
            if not os.path.isdir(file):  # noqa: PTH112 - as above
                state[file] = (status.st_size, status.st_mtime_ns, status.st_ino)
    return state


def _has_changed(before: _State, path: str | None) -> bool:
    """Say whether one of the files is another one now, or gone; new ones may be what the model itself wrote."""
    after = _state_of(path)
    return any(after.get(file) != state for file, state in before.items())


# Warnings


@contextlib.contextmanager
def _kept_warnings() -> Iterator[list[str]]:
    """Keep the texts of the warnings that are shown meanwhile.

    Only what shows them is replaced: filters that the model or its libraries set stay as they are.
    """
    texts: list[str] = []
    is_open = True
    shown = warnings.showwarning

    def keep(message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any) -> None:
        if is_open:
            texts.append(f"{category.__name__}: {message}")
        shown(message, category, *args, **kwargs)

    warnings.showwarning = keep
    try:
        yield texts
    finally:
        is_open = False  # logging.captureWarnings, called by the model, keeps a reference to it
        if warnings.showwarning is keep:
            warnings.showwarning = shown


def _bounded(texts: list[str]) -> list[str]:
    different = list(dict.fromkeys(sayable(text)[:MAX_WARNING_CHARS] for text in texts))
    if len(different) > MAX_WARNINGS:
        return [*different[: MAX_WARNINGS - 1], f"and {len(different) - MAX_WARNINGS + 1} more in the model's log"]
    return different
