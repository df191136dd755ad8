"""The digits model, 1 and 64 in flight: a call that works for 0.3 ms, as real ones do.

It is scikit-learn's logistic regression of 64 numbers. The floor is a child that reads the bytes of an array from a
UNIX socket and calls the model. A model runs slower in a process that was just woken than in one that calls it again
and again, so the call in process is no floor of a call from outside.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.floors.digits import FLOORS, IN_PROCESS, UNIX_CALL
from benchmarks.models import model_directory, write_digits
from benchmarks.runner import MAP, SPINNING, SYNC, Effort, Side, alternate, in_flight
from benchmarks.verdicts import Against, By, Comparison, Target, compare

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.floors.lane import Lane
    from benchmarks.ours import Hosts

DEPTH = 64
LATENCY_LIMIT = 1.3
RATE_LIMIT = 0.9


def digits_latency(effort: Effort, hosts: Hosts | None) -> Iterator[Comparison]:
    """One in flight."""
    targets = [Target(ours, UNIX_CALL, Against.RATIO, LATENCY_LIMIT) for ours in (SYNC, SPINNING)]
    yield _digits("latency", 1, By.LATENCY, effort, hosts, targets)


def digits_throughput(effort: Effort, hosts: Hosts | None) -> Iterator[Comparison]:
    """Sixty-four in flight."""
    targets = [Target(ours, UNIX_CALL, Against.RATIO, RATE_LIMIT, is_ceiling=False) for ours in (SYNC, MAP)]
    yield _digits("throughput", DEPTH, By.RATE, effort, hosts, targets)


def open_floors(stack: ExitStack, path: Path) -> dict[str, Lane]:
    """Open every floor with the model at `path`."""
    return {name: stack.enter_context(open_lane(path)) for name, open_lane in FLOORS.items()}


def _digits(group: str, depth: int, by: By, effort: Effort, hosts: Hosts | None, targets: list[Target]) -> Comparison:
    with ExitStack() as stack:
        directory = stack.enter_context(model_directory())
        path = write_digits(directory)
        lanes = open_floors(stack, path)
        sides = [Side(name, partial(in_flight, lane, depth, effort.round_s)) for name, lane in lanes.items()]
        if hosts is not None:
            from benchmarks import ours  # noqa: PLC0415 - the floors can be measured without the host

            ours.load_into(hosts, ours.DIGITS_ID, path)
            sides += stack.enter_context(ours.call_sides(hosts, ours.classified(), depth, effort))
        rounds = alternate(sides, effort.rounds, effort.patience_s)
    title = f"digits model (scikit-learn), {depth} in flight"
    return compare(group, title, by, sides, rounds, targets, references=(IN_PROCESS, UNIX_CALL))
