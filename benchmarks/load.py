"""`load`: cold loads of small and big models, and the start of an embedded host.

The floor of a load is a fresh interpreter that imports the libraries and loads the same file; of a start, a fresh
interpreter that imports what the supervisor and a worker import. Does not cover loads from a cold disk: every file has
been read before.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.floors.processes import JOBLIB_SOURCE, MODULE_SOURCE, interpreter_round
from benchmarks.models import GIB, model_directory, write_digits, write_echo, write_holder
from benchmarks.runner import HOST, Against, By, Comparison, Effort, Round, Side, Target, alternate, compare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import hostd

INTERPRETER = "fresh interpreter"

# The packages of the supervisor and of a worker, in one interpreter.
START_SOURCE = "import hostd, asyncio, zmq, msgpack, psutil, pydantic, pydantic_settings, yaml, prometheus_client"

DIGITS_EXTRA_S = 0.150
START_EXTRA_S = 0.4


def load(effort: Effort, *, with_host: bool) -> Iterator[Comparison]:
    """Cold loads, then embedded starts."""
    with model_directory() as directory:
        digits, small = write_digits(directory), write_echo(directory)
        big = write_holder(directory, GIB)
        yield from _loads(effort, digits, small, big, with_host=with_host)
        if with_host:
            yield _starts(effort, small)


def _loads(effort: Effort, digits: Path, small: Path, big: Path, *, with_host: bool) -> Iterator[Comparison]:
    from_joblib = partial(interpreter_round, JOBLIB_SOURCE, digits)
    cases: list[tuple[str, Path, Callable[[], Round], float | None]] = [
        ("digits regression (scikit-learn)", digits, from_joblib, DIGITS_EXTRA_S),
        ("small python model", small, partial(interpreter_round, MODULE_SOURCE, small / "model.py"), None),
        (
            "python model of 1 GiB",
            big,
            partial(interpreter_round, MODULE_SOURCE, big / "model.py", until_ready=True),
            None,
        ),
    ]
    for title, path, floor, extra_s in cases:
        sides = [Side(INTERPRETER, floor)]
        targets = [] if extra_s is None else [Target(HOST, INTERPRETER, Against.DIFFERENCE, extra_s)]
        if not with_host:
            yield compare("load", title, By.LATENCY, sides, alternate(sides, effort.slow_rounds), targets)
            continue
        from benchmarks.lifecycle import cold_load, plain_host  # noqa: PLC0415 - the floors can be measured without the host

        with plain_host() as client:
            names = (f"model-{number}" for number in itertools.count())
            sides.append(Side(HOST, partial(_load_once, cold_load, client, names, path), is_ours=True))
            yield compare("load", title, By.LATENCY, sides, alternate(sides, effort.slow_rounds), targets)


def _load_once(
    cold_load: Callable[[hostd.Client, str, Path], Round], client: hostd.Client, names: Iterator[str], path: Path
) -> Round:
    return cold_load(client, next(names), path)


def _starts(effort: Effort, small: Path) -> Comparison:
    from benchmarks.lifecycle import start_to_info, start_to_model  # noqa: PLC0415 - as above

    model_side = "hostd, entry to first answer of a model"
    sides = [
        Side(INTERPRETER, partial(interpreter_round, START_SOURCE)),
        Side("hostd, entry to host_info()", start_to_info, is_ours=True),
        Side(model_side, partial(start_to_model, small), is_ours=True),
    ]
    targets = [Target(model_side, INTERPRETER, Against.DIFFERENCE, START_EXTRA_S)]
    rounds = alternate(sides, effort.slow_rounds)
    return compare("load", "start of an embedded host", By.LATENCY, sides, rounds, targets)
