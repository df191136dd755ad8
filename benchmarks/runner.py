"""Rounds: how sides are measured against each other.

Rules
* Sides alternate within one run (A B C A B C ...), so that a change of the machine's mood hits all of them.
* Every side answers one unmeasured round first.
* A round in which other programs used the machine is measured again, as long as the effort's patience lasts. Whether to
  do so depends on the others' CPU time alone, never on the figures.

Does not cover what a side does (`floors`, `ours`, `lifecycle`) nor what the rounds amount to (`verdicts`).
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.floors.lane import Lane


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    `rounds` and `round_s` (seconds per side and round) are for calls; `slow_rounds` is for things that take a second
    each (loads, starts); `cycles` counts load/unload cycles; `idle_s` is the length of the idle watch in seconds;
    `patience_s` is how long a comparison may wait for a quiet machine.
    """

    rounds: int
    round_s: float
    slow_rounds: int
    cycles: int
    idle_s: float
    is_quick: bool
    patience_s: float = 0.0


FULL = Effort(rounds=9, round_s=0.3, slow_rounds=9, cycles=100, idle_s=20.0, is_quick=False)
QUICK = Effort(rounds=3, round_s=0.1, slow_rounds=2, cycles=4, idle_s=4.0, is_quick=True)

# Our sides' names, here because the floors are measured without importing the host. Routed: no call goes to a worker
# directly.
SYNC = "hostd sync"
ASYNC = "hostd async"
MAP = "hostd map"
SPINNING = "hostd sync, spin_s"
ROUTED_SYNC = "routed sync"
ROUTED_ASYNC = "routed async"
ROUTED_MAP = "routed map"
HOST = "hostd"

# A round of 16 MiB calls ends in the time of two or three; fewer give no median.
MIN_CALLS = 5

# Above this the figures say as much about the neighbours as about us.
OTHERS_LIMIT_CORES = 0.15
_LOOK_AGAIN_S = 0.5

# A call in this process takes 100 ns: without a limit its latencies alone would fill a gigabyte.
MAX_CALLS = 50_000


@dataclass(frozen=True)
class Round:
    """What one side did in one round: a latency in seconds per call, and the wall time of all of them together."""

    latencies_s: Sequence[float]
    elapsed_s: float

    @property
    def p50_s(self) -> float:
        """Return the median latency in seconds."""
        return statistics.median(self.latencies_s)

    @property
    def p99_s(self) -> float:
        """Return the 99th percentile of the latencies in seconds, by nearest rank."""
        return sorted(self.latencies_s)[math.ceil(len(self.latencies_s) * 0.99) - 1]

    @property
    def rate(self) -> float:
        """Return calls per second."""
        return len(self.latencies_s) / self.elapsed_s


@dataclass(frozen=True)
class Side:
    """A named thing to measure; `measure` runs one round."""

    name: str
    measure: Callable[[], Round]
    is_ours: bool = False


def one_at_a_time(lane: Lane, duration_s: float) -> Round:
    """Call again and again with one request in flight."""
    clock, call = time.perf_counter, lane.call
    latencies: list[float] = []
    start = now = clock()
    end = start + duration_s
    while (now < end and len(latencies) < MAX_CALLS) or len(latencies) < MIN_CALLS:
        call()
        after = clock()
        latencies.append(after - now)
        now = after
    return Round(latencies, now - start)


def pipelined(lane: Lane, depth: int, duration_s: float) -> Round:
    """Keep `depth` requests in flight; answers come in the order of the requests, from one worker."""
    clock, send, receive = time.perf_counter, lane.send, lane.receive
    latencies: list[float] = []
    sent_at: deque[float] = deque()
    start = now = clock()
    end = start + duration_s
    for _ in range(depth):
        sent_at.append(clock())
        send()
    while (now < end and len(latencies) < MAX_CALLS) or len(latencies) < MIN_CALLS:
        receive()
        now = clock()
        latencies.append(now - sent_at.popleft())
        sent_at.append(now)
        send()
    while sent_at:
        receive()
        now = clock()
        latencies.append(now - sent_at.popleft())
    return Round(latencies, now - start)


def in_flight(lane: Lane, depth: int, duration_s: float) -> Round:
    """Keep `depth` requests in flight, in the plainest way for that many."""
    return one_at_a_time(lane, duration_s) if depth == 1 else pipelined(lane, depth, duration_s)


def timed(action: Callable[[], object]) -> Round:
    """Measure one slow action as a round of one call."""
    start = time.perf_counter()
    action()
    elapsed_s = time.perf_counter() - start
    return Round([elapsed_s], elapsed_s)


@dataclass(frozen=True)
class Rounds:
    """The rounds of each side, by its name; the cores that others used in them; and how many had to be repeated."""

    of: dict[str, list[Round]]
    others_cores: float = 0.0
    repeated: int = 0


def alternate(sides: Sequence[Side], rounds: int, patience_s: float = 0.0) -> Rounds:
    """Measure every side once per round, in turn."""
    from benchmarks.machine import Neighbours  # noqa: PLC0415 - callers under a peer's interpreter have no psutil

    for side in sides:
        side.measure()
    results: dict[str, list[Round]] = {side.name: [] for side in sides}
    others: list[float] = []
    repeated = 0
    give_up_s = time.monotonic() + patience_s
    neighbours = Neighbours()
    while len(others) < rounds:
        neighbours.cores()
        taken = [(side.name, collected(side)) for side in sides]
        cores = neighbours.cores()
        if cores > OTHERS_LIMIT_CORES and time.monotonic() < give_up_s:
            repeated += 1
            neighbours.await_quiet(OTHERS_LIMIT_CORES, give_up_s, _LOOK_AGAIN_S)
            continue
        others.append(cores)
        for name, round_ in taken:
            results[name].append(round_)
    return Rounds(results, statistics.mean(others), repeated)


def collected(side: Side) -> Round:
    """Return a round of a side that begins with an empty collector."""
    # What the benchmark itself has imported, NumPy and scikit-learn too, is not looked through in a round.
    gc.collect()
    gc.freeze()
    return side.measure()
