"""`unload`: what it takes until a model's processes are proven gone, and what a hundred cycles leave behind.

The floor is SIGKILL to reaped of a bare process that holds the same memory. The host's answer is checked by pid and
start time with the answer in hand: a worker that is still there then is counted as left.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from benchmarks.floors.processes import kill_round
from benchmarks.models import GIB, model_directory, write_echo, write_holder
from benchmarks.runner import HOST, Effort, Rounds, Side, alternate
from benchmarks.verdicts import Against, By, Comparison, Target, alone, compare

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KILL = "SIGKILL and wait"
BASE_S = 0.050
PER_GIB_S = 0.25
CYCLED_BYTES = 500_000_000
GROWTH_LIMIT_BYTES = 5_000_000

# What an interpreter holds with pyzmq and msgpack, about, so that the small floor dies with the same pages.
SMALL_BYTES = 10_000_000


def unload(effort: Effort, *, with_host: bool) -> Iterator[Comparison]:
    """Unloads of a small and of a big model, then cycles."""
    with model_directory() as directory:
        small, big = write_echo(directory), write_holder(directory, GIB)
        yield _unloads("small python model", small, SMALL_BYTES, BASE_S, effort, with_host=with_host)
        yield _unloads("python model of 1 GiB", big, GIB, BASE_S + PER_GIB_S, effort, with_host=with_host)
        if with_host:
            yield from _cycles(write_holder(directory, CYCLED_BYTES), effort)


def _unloads(title: str, path: Path, size_bytes: int, limit_s: float, effort: Effort, *, with_host: bool) -> Comparison:
    sides = [Side(KILL, partial(kill_round, size_bytes))]
    if not with_host:
        return compare("unload", title, By.LATENCY, sides, alternate(sides, effort.slow_rounds, effort.patience_s))
    from benchmarks.lifecycle import load_and_unload, plain_host  # noqa: PLC0415 - floors are measured without the host

    with plain_host() as client:
        sides.append(Side(HOST, partial(load_and_unload, client, path), is_ours=True))
        rounds = alternate(sides, effort.slow_rounds, effort.patience_s)
    return compare("unload", title, By.LATENCY, sides, rounds, [Target(HOST, "", Against.ALONE, limit_s)])


def _cycles(path: Path, effort: Effort) -> Iterator[Comparison]:
    from benchmarks.lifecycle import cycle  # noqa: PLC0415 - as above

    found = cycle(path, effort.cycles)
    title = f"{effort.cycles} cycles of a 500 MB model"
    yield compare(
        "unload",
        title,
        By.LATENCY,
        [Side("load", lambda: found.loads[0], is_ours=True), Side("unload", lambda: found.unloads[0], is_ours=True)],
        Rounds({"load": found.loads, "unload": found.unloads}),
        [Target("unload", "", Against.ALONE, BASE_S + PER_GIB_S * CYCLED_BYTES / GIB)],
        [f"freed by each unload, as reported: {min(found.freed_bytes):,} to {max(found.freed_bytes):,} bytes"],
    )
    yield alone(
        "unload",
        f"what is left of {title}",
        [
            ("processes", By.COUNT, found.left, 0),
            ("growth of the supervisor's RSS", By.BYTES, found.growth_bytes, GROWTH_LIMIT_BYTES),
            ("of that, after the first tenth of the cycles", By.BYTES, found.late_growth_bytes, None),
        ],
    )
