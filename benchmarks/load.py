"""`load`: cold loads of small and big models, the first start of an embedded host, and a command of a person.

The floor of a load is a fresh interpreter that imports the libraries and loads the same file, until it has it; as a
whole process, exit included, it is shown too. The floor of a start is a fresh interpreter that imports what the
supervisor imports; our side is the first start in a fresh interpreter, so it pays for its own imports. Does not cover
loads from a cold disk: every file has been read before.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.floors.processes import JOBLIB_SOURCE, MODULE_SOURCE, interpreter_round, ready_round, told_round
from benchmarks.models import GIB, model_directory, write_digits, write_echo, write_holder
from benchmarks.runner import HOST, Effort, Side, alternate
from benchmarks.verdicts import Against, By, Comparison, Target, compare

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

READY = "fresh interpreter, until ready"
WHOLE = "fresh interpreter, with its exit"

# The packages of supervisor and client, as they import them.
START_SOURCE = "import sys, asyncio, hostd, zmq, msgpack, sqlite3"

COMMAND_SOURCE = "import os, sys; sys.stdout = sys.stderr = open(os.devnull, 'w'); from hostd.cli import main; main()"
BARE = "fresh interpreter that does nothing"

DIGITS_EXTRA_S = 0.150
START_EXTRA_S = 0.4
COMMAND_EXTRA_S = 0.2


def load(effort: Effort, *, with_host: bool) -> Iterator[Comparison]:
    """Cold loads, then embedded starts, step by step, then a command."""
    with model_directory() as directory:
        digits, small = write_digits(directory), write_echo(directory)
        big = write_holder(directory, GIB)
        extra = Target(HOST, READY, Against.DIFFERENCE, DIGITS_EXTRA_S)
        cases: list[tuple[str, Path, str, Path, list[Target]]] = [
            ("digits regression (scikit-learn)", digits, JOBLIB_SOURCE, digits, [extra]),
            ("small python model", small, MODULE_SOURCE, small / "model.py", []),
            ("python model of 1 GiB", big, MODULE_SOURCE, big / "model.py", []),
        ]
        for title, path, source, file, targets in cases:
            floors = [
                Side(WHOLE, partial(interpreter_round, source, file)),
                Side(READY, partial(ready_round, source, file)),
            ]
            yield _loads(title, path, floors, targets, effort, with_host=with_host)
        if with_host:
            yield _starts(effort, small)
            yield _commands(effort)


def _loads(
    title: str, path: Path, floors: list[Side], targets: list[Target], effort: Effort, *, with_host: bool
) -> Comparison:
    if not with_host:
        return compare("load", title, By.LATENCY, floors, alternate(floors, effort.slow_rounds, effort.patience_s))
    from benchmarks.lifecycle import cold_load, plain_host  # noqa: PLC0415 - the floors can be measured without the host

    with plain_host() as client:
        numbers = itertools.count()
        sides = [*floors, Side(HOST, lambda: cold_load(client, f"model-{next(numbers)}", path), is_ours=True)]
        return compare(
            "load", title, By.LATENCY, sides, alternate(sides, effort.slow_rounds, effort.patience_s), targets
        )


def _starts(effort: Effort, small: Path) -> Comparison:
    from benchmarks.lifecycle import INFO_SOURCE, MODEL_SOURCE, READY_SOURCE  # noqa: PLC0415 - as above

    model_side = "hostd to a model's answer"
    sides = [
        Side(READY, partial(ready_round, START_SOURCE)),
        Side("hostd until it is ready", partial(told_round, READY_SOURCE), is_ours=True),
        Side("hostd to host_info()", partial(told_round, INFO_SOURCE), is_ours=True),
        Side(model_side, partial(told_round, MODEL_SOURCE, small), is_ours=True),
    ]
    targets = [Target(model_side, READY, Against.DIFFERENCE, START_EXTRA_S)]
    rounds = alternate(sides, effort.slow_rounds, effort.patience_s)
    return compare("load", "first start of an embedded host", By.LATENCY, sides, rounds, targets)


def _commands(effort: Effort) -> Comparison:
    from benchmarks.lifecycle import plain_host  # noqa: PLC0415 - as above

    with plain_host() as client:
        host = ("-e", client.host_info().endpoint)
        names = {"hostd ps": ("ps", *host), "hostd ps --json": ("ps", "--json", *host)}
        sides = [Side(BARE, partial(interpreter_round, "pass"))]
        sides += [
            Side(name, partial(interpreter_round, COMMAND_SOURCE, *typed), is_ours=True)
            for name, typed in names.items()
        ]
        targets = [Target(name, BARE, Against.DIFFERENCE, COMMAND_EXTRA_S) for name in names]
        rounds = alternate(sides, effort.slow_rounds, effort.patience_s)
        return compare("load", "a command of a person, as a whole process", By.LATENCY, sides, rounds, targets)
