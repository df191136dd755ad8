"""What both clients share and needs no connection: defaults, the arguments of verbs, and what their answers mean."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hostd import paths
from hostd.records import SERVING
from hostd_workers.wire.errors import InvalidArgumentError, NotFoundError, sayable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hostd.records import ModelInfo

MAP_WINDOW = 64
"""Calls that `map` keeps in flight: enough to hide the round trip, few enough to lose little when one fails."""

DEFAULT_TIMEOUT_S = 60.0
"""A call that takes longer than a minute is a job; it should say so with a timeout of its own."""

CONNECT_TIMEOUT_S = 5.0
"""A host takes half a second to start; ten times that is the time to say that none is there."""


MAX_PROGRAM_CHARS = 100


def only_inputs(args: tuple[Any, ...]) -> tuple[Iterable[Any]]:
    """Return the one positional argument of `map`, which must be iterable."""
    if len(args) != 1 or not hasattr(args[0], "__iter__"):
        raise InvalidArgumentError("map takes one iterable of inputs: model.map.predict(inputs, **the_same_for_each)")
    return args


def named(
    model_id: str,
    model_type: str,
    finder: str | None,
    loader: str | None,
    initializer: str | None,
    options: dict[str, Any] | None,
    *path: str | os.PathLike[str] | None,
) -> dict[str, Any]:
    """Return what loads, plans of loads and deploys say alike: which model it is, and what loads it; with its path."""
    how = {"finder": finder, "initializer": initializer, "options": options or {}, **given(loader=loader)}
    return {"model_id": model_id, "type": model_type, **how, **({"path": absolute(path[0])} if path else {})}


def given(**arguments: Any) -> dict[str, Any]:
    """Return those that are neither None nor False: what is left out is known to a host of an older version, too."""
    return {name: value for name, value in arguments.items() if value is not None and value is not False}


def absolute(path: str | os.PathLike[str] | None) -> str | None:
    """Return a path as the host needs it, which has another working directory; None and "" stay as they are."""
    if path is None or path == "":
        return path
    return os.path.abspath(paths.expanded(path))  # noqa: PTH100 - resolve follows links


def program_name() -> str:
    """Return what a person calls this program: its script, or the package that was run with `python -m`."""
    script = Path(sys.argv[0] if sys.argv else "")
    name = script.parent.name if script.name == "__main__.py" else script.name
    return sayable(name if name not in ("", "-c") else "python")[:MAX_PROGRAM_CHARS]


def check_named(model_id: object) -> None:
    """Raise `NotFoundError` for None or an empty id: nothing is loaded under it (contract, row C14)."""
    if model_id is None or model_id == "":
        raise NotFoundError(
            f"no model has the id {model_id!r}: name one that is loaded; hostd ls (list_models()) shows them"
        )


def size_of(info: ModelInfo) -> int:
    """Return the size of a model. Raises `NotFoundError` if it is not loaded, or was not measured yet."""
    if info.state not in SERVING:
        reason = f" ({info.reason})" if info.reason else ""
        raise NotFoundError(f"model {info.id!r} is not loaded: it is {info.state}{reason}")
    if info.size is None:
        raise NotFoundError(f"model {info.id!r} is {info.state} and was not measured yet")
    return info.size
