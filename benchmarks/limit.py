"""`limit`: a model with a limit of 500 MB that grows by 50 MB with every call, and the others beside it.

First it is called without a pause, and its process is read from outside every 20 ms: how far it gets beyond the limit
(as seen so, or as its caller is told, whichever is more), in what it grows by in one period of the host's watch
(`memory.watch_period_s`), and what its caller is told. Then it is called ten times a second, while three other models
are called steadily: at first it does not grow, then it does. Their p99 from its first growth until 0.3 s after its kill
is held against as long a time before. The same is done with a model that does not grow at all, which says how noisy the
machine is, and with a bare process that is called over a pipe, grows as fast and is killed, which says what that costs
the others without any host.

All of that twice: with all on the same cores, where all are in each other's way, host or no host; and with a core to
the model that grows, and the others to the host, its clients and the other models. The target is of the latter.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.machine import Neighbours
from benchmarks.memory_models import MB, write_grower
from benchmarks.models import model_directory, write_echo
from benchmarks.outside import watching
from benchmarks.verdicts import Against, By, Comparison, Figure, Verdict, alone, nearest_rank

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import hostd
    from benchmarks.clients import Steady
    from benchmarks.outside import Series
    from benchmarks.runner import Effort

GROWER = "grower"
LIMIT_BYTES = 500 * MB
STEP_BYTES = 50 * MB
MOST_STEPS = 2 * LIMIT_BYTES // STEP_BYTES
WATCH_PERIOD_S = 0.1
WATCHED = {"watch_period_s": WATCH_PERIOD_S}
SAMPLE_PERIOD_S = 0.02
PERIODS_LIMIT = 1.0

OTHERS = ("one", "two", "three")
PACE_S = 0.01
GROW_PACE_S = 0.1
AFTERWARDS_S = 0.3
WINDOW_S = 1.5
P99_LIMIT = 1.1
"""Of the others, while the model grows and is killed, against before."""

PRECISION = 4
"""So many times the rounds where that is the target: a window has 400 calls, their p99 is the fourth worst, and with
nine windows the median of the ratios scatters by a tenth, also when nothing grows."""

BEFORE = "before"
HERE = "one grows and is killed"
NOTHING = "none grows"
BARE = "a bare process grows and is killed"

# As the model does; the first line says that it is there, each further one that it has grown.
BARE_SOURCE = """
import sys
blocks = []
print(flush=True)
for line in sys.stdin:
    blocks.append(bytearray(b"\\x01") * int(line))
    print(flush=True)
"""


def limit(effort: Effort, *, with_host: bool) -> Iterator[Comparison]:
    """Have a model grow over its limit: alone, and beside others."""
    if not with_host:
        return
    import hostd  # noqa: PLC0415 - the floors can be measured without the host

    with model_directory() as directory:
        path, echo = write_grower(directory / GROWER, LIMIT_BYTES), write_echo(directory)
        with hostd.Host(memory=WATCHED) as host:
            neighbours = Neighbours()
            breaches = [_breach(host.client(), path) for _ in range(effort.slow_rounds)]
            yield _alone(breaches, neighbours.cores())
        cores = sorted(os.sched_getaffinity(0))
        for core in (None, *cores[-1:]) if len(cores) > 1 else (None,):
            with _without(core), hostd.Host(memory=WATCHED) as host:
                for model_id in OTHERS:
                    host.client().load_model(model_id, echo)
                neighbours = Neighbours()
                rounds = effort.slow_rounds if core is None else PRECISION * effort.slow_rounds
                found, failed = _beside(host, path, core, rounds)
                yield _compared(found, failed, core, neighbours.cores())


@contextlib.contextmanager
def _without(core: int | None) -> Iterator[None]:
    """Keep this process, and all that it starts meanwhile, off a core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before - {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


# Alone


@dataclass(frozen=True)
class _Breach:
    """A growth over the limit: what was seen from outside, and when the caller was told what."""

    series: Series
    told_s: float
    told_bytes: int
    is_told: bool
    is_explained: bool

    @property
    def over_bytes(self) -> int:
        """Return how far it got beyond its limit, as seen from outside or told by the host, whichever is more."""
        return max(self.series.highest.uss_bytes, self.told_bytes) - LIMIT_BYTES

    @property
    def bytes_per_s(self) -> float:
        """Return how fast it grew, from the first step to the last."""
        grown = [sample for sample in self.series.samples if sample.uss_bytes > STEP_BYTES]
        highest = self.series.highest
        return (highest.uss_bytes - grown[0].uss_bytes) / (highest.at_s - grown[0].at_s)

    @property
    def over_periods(self) -> float:
        """Return how far it got in units of what it grows by in one period of the host's watch."""
        return self.over_bytes / (self.bytes_per_s * WATCH_PERIOD_S)

    @property
    def late_s(self) -> float:
        """Return the time from the first sample over the limit until the caller was told; 0 if none was."""
        over = [sample.at_s for sample in self.series.samples if sample.uss_bytes > LIMIT_BYTES]
        return self.told_s - over[0] if over else 0.0


def _breach(client: hostd.Client, path: Path) -> _Breach:
    import hostd  # noqa: PLC0415 - as above

    client.load_model(GROWER, path)
    (worker,) = client.get_model(GROWER).workers
    error: hostd.HostError | None = None
    with watching(worker.pid or 0, SAMPLE_PERIOD_S, is_root_in=True) as watch:
        try:
            for _ in range(MOST_STEPS):
                client.call(GROWER, "grow", (STEP_BYTES,), {}, client.timeout_s)
        except hostd.HostError as failed:
            error = failed
        told_s = time.monotonic()
    explanation = client.explain_model(GROWER)
    told_bytes = explanation["details"].get("measured_bytes", 0)
    is_explained = explanation["state"] == "FAILED" and "memory_limit" in explanation["reason"]
    return _Breach(watch.series, told_s, told_bytes, _is_told(error), is_explained)


def _is_told(error: hostd.HostError | None) -> bool:
    import hostd  # noqa: PLC0415 - as above

    if isinstance(error, hostd.FailedPreconditionError):  # the kill came between two calls
        return "memory_limit" in error.message
    details = error.details if isinstance(error, hostd.ResourceExhaustedError) else {}
    is_the_limit = details.get("reason") == "MEMORY_LIMIT" and details.get("limit_bytes") == LIMIT_BYTES
    return is_the_limit and details["measured_bytes"] > LIMIT_BYTES


def _alone(breaches: list[_Breach], others_cores: float) -> Comparison:
    periods = [breach.over_periods for breach in breaches]
    over = [breach.over_bytes for breach in breaches]
    rates = [breach.bytes_per_s for breach in breaches]
    worst = max(breaches, key=lambda breach: breach.over_periods)
    return alone(
        "limit",
        f"a model that grows over its limit of 500 MB, {len(breaches)} times",
        [
            ("highest over the limit, p50", By.BYTES, statistics.median(over), None),
            ("highest over the limit, worst", By.BYTES, max(over), None),
            ("its growth in a period of the watch", By.BYTES, statistics.median(rates) * WATCH_PERIOD_S, None),
            ("highest over the limit, worst, of that", By.FACTOR, max(periods), PERIODS_LIMIT),
            ("the same, p50", By.FACTOR, statistics.median(periods), None),
            ("over the limit until its caller is told, worst", By.LATENCY, max(b.late_s for b in breaches), None),
            ("callers told something else", By.COUNT, sum(not breach.is_told for breach in breaches), 0),
            ("explained as something else", By.COUNT, sum(not breach.is_explained for breach in breaches), 0),
        ],
        [f"the worst: {worst.series.describe()}"],
        others_cores,
    )


# Beside others


class _Span(NamedTuple):
    """When a window before something began, when that happened, and when it was over."""

    began_s: float
    happens_s: float
    ended_s: float


@dataclass(frozen=True)
class _Window:
    """What the calls of the others took, in seconds, before something happened and while it did."""

    before_s: list[float]
    during_s: list[float]

    @property
    def ratio(self) -> float:
        """Return their p99 against before."""
        return nearest_rank(self.during_s, 0.99) / nearest_rank(self.before_s, 0.99)


def _beside(host: hostd.Host, path: Path, core: int | None, rounds: int) -> tuple[dict[str, list[_Window]], int]:
    """Return what the others' calls took, by what happened meanwhile (on that core), and how many of them failed."""
    from benchmarks.clients import steadily  # noqa: PLC0415 - as above

    client = host.client()
    spans: dict[str, list[_Span]] = {NOTHING: [], BARE: [], HERE: []}
    with steadily(host, OTHERS, PACE_S) as steady:
        for _ in range(rounds):
            with _bare_grower(core) as grow_bare:
                spans[BARE].append(_around(grow_bare, STEP_BYTES, LIMIT_BYTES // STEP_BYTES))

            def grow(by_bytes: int) -> None:
                client.call(GROWER, "grow", (by_bytes,), {}, client.timeout_s)

            client.load_model(GROWER, path, options={} if core is None else {"core": core})
            spans[NOTHING].append(_around(grow, 0, LIMIT_BYTES // STEP_BYTES))
            spans[HERE].append(_around(grow, STEP_BYTES, MOST_STEPS))
    # Only now: a call that was sent in a window may have been answered after it.
    found = {name: [_window(steady, span) for span in those] for name, those in spans.items()}
    return found, sum(bool(call.error) for call in steady.calls)


def _window(steady: Steady, span: _Span) -> _Window:
    return _Window(steady.latencies_s(span.began_s, span.happens_s), steady.latencies_s(span.happens_s, span.ended_s))


def _around(grow: Callable[[int], object], step_bytes: int, steps: int) -> _Span:
    """Call something that does not grow yet, and then have it grow in steps, until it says that it is dead."""
    import hostd  # noqa: PLC0415 - as above

    began_s = time.monotonic()
    _paced(partial(grow, 0), round(WINDOW_S / GROW_PACE_S))
    happens_s = time.monotonic()
    with contextlib.suppress(hostd.ResourceExhaustedError, hostd.FailedPreconditionError):
        _paced(partial(grow, step_bytes), steps)
    time.sleep(AFTERWARDS_S)
    return _Span(began_s, happens_s, time.monotonic())


def _paced(call: Callable[[], object], times: int) -> None:
    due_s = time.monotonic()
    for _ in range(times):
        call()
        due_s += GROW_PACE_S
        time.sleep(max(0.0, due_s - time.monotonic()))


@contextlib.contextmanager
def _bare_grower(core: int | None) -> Iterator[Callable[[int], None]]:
    """Start a process that grows as the model does; it is killed when it is at the limit."""
    command, grown_bytes = [sys.executable, "-c", BARE_SOURCE], 0
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        if core is not None:
            os.sched_setaffinity(process.pid, {core})
        told, says = process.stdin, process.stdout
        assert told is not None
        assert says is not None

        def grow(by_bytes: int) -> None:
            nonlocal grown_bytes
            told.write(b"%d\n" % by_bytes)
            told.flush()
            says.readline()
            grown_bytes += by_bytes
            if grown_bytes >= LIMIT_BYTES:
                process.kill()

        try:
            says.readline()
            yield grow
        finally:
            process.kill()


def _compared(found: dict[str, list[_Window]], failed: int, core: int | None, others_cores: float) -> Comparison:
    windows = [window for those in found.values() for window in those]
    before_s = [latency_s for window in windows for latency_s in window.before_s]
    figures = [_figure(BEFORE, before_s)]
    figures += [_figure(name, [s for window in those for s in window.during_s]) for name, those in found.items()]
    ratios = {name: [window.ratio for window in those] for name, those in found.items()}
    notes = [f"p99 against before: {name}: {_spread(those)}" for name, those in ratios.items()]
    worst = {name: statistics.median(max(window.during_s) for window in those) for name, those in found.items()}
    worst[BEFORE] = statistics.median(max(window.before_s) for window in windows)
    notes += [f"the worst call, median: {name}: {1e3 * worst_s:.1f} ms" for name, worst_s in worst.items()]
    mine = ratios[HERE]
    middle = statistics.median(mine)
    limit = None if core is None else P99_LIMIT
    verdicts = [
        Verdict(f"p99: {HERE}", BEFORE, By.LATENCY, Against.RATIO, middle, min(mine), max(mine), limit),
        Verdict("failed calls of the others", "", By.COUNT, Against.ALONE, failed, failed, failed, 0),
    ]
    where = "all on the same cores" if core is None else "a core to the model that grows"
    title = f"{len(OTHERS)} models called every {1e3 * PACE_S:g} ms, {where}, {len(mine)} times each"
    return Comparison("limit", title, figures, verdicts, notes, others_cores)


def _figure(name: str, latencies_s: list[float]) -> Figure:
    p50_s, p99_s = (nearest_rank(latencies_s, share) for share in (0.5, 0.99))
    return Figure(name, By.LATENCY, p50_s, p99_s, len(latencies_s), is_ours=name == HERE)


def _spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f}x ({min(ratios):.2f}x to {max(ratios):.2f}x)"
