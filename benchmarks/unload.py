"""`unload`: what it takes until a model's processes are proven gone.

The floor is SIGKILL to reaped of a bare process that holds the same memory. What unloads leave behind is in `proof`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from benchmarks.floors.processes import kill_round
from benchmarks.models import GIB, model_directory, write_echo, write_holder
from benchmarks.runner import HOST, Effort, Side, alternate
from benchmarks.verdicts import Against, By, Comparison, Target, compare

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KILL = "SIGKILL and wait"
BASE_S = 0.050
PER_GIB_S = 0.25

# What an interpreter holds with pyzmq and msgpack, about, so that the small floor dies with the same pages.
SMALL_BYTES = 10_000_000


def unload(effort: Effort, *, with_host: bool) -> Iterator[Comparison]:
    """Unloads of a small and of a big model."""
    with model_directory() as directory:
        small, big = write_echo(directory), write_holder(directory, GIB)
        yield _unloads("small python model", small, SMALL_BYTES, BASE_S, effort, with_host=with_host)
        yield _unloads("python model of 1 GiB", big, GIB, BASE_S + PER_GIB_S, effort, with_host=with_host)


def _unloads(title: str, path: Path, size_bytes: int, limit_s: float, effort: Effort, *, with_host: bool) -> Comparison:
    sides = [Side(KILL, partial(kill_round, size_bytes))]
    if not with_host:
        return compare("unload", title, By.LATENCY, sides, alternate(sides, effort.slow_rounds, effort.patience_s))
    from benchmarks.lifecycle import load_and_unload, plain_host  # noqa: PLC0415 - floors are measured without the host

    with plain_host() as client:
        sides.append(Side(HOST, partial(load_and_unload, client, path), is_ours=True))
        rounds = alternate(sides, effort.slow_rounds, effort.patience_s)
    return compare("unload", title, By.LATENCY, sides, rounds, [Target(HOST, "", Against.ALONE, limit_s)])
