"""`budget`: 40 models of 50 to 400 MB under a budget of 2 GB, which holds a quarter of them, and their callers.

Four clients call one model after the other, some models much more often than others (Zipf); every model is loaded when
it is called and evicted when others need the memory. A process of its own reads the private memory (USS) of all worker
trees from outside, every 50 ms. It must stay below the budget and the largest step in which a model takes memory, no
call may fail, and the loads are held against an offline simulation of the same policy that is given the same accesses.
Loads are counted by the models themselves.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.machine import Neighbours
from benchmarks.memory_models import MB, STEP_BYTES, loads_of, write_sized
from benchmarks.models import model_directory
from benchmarks.outside import watching
from benchmarks.verdicts import Against, By, Comparison, Verdict, alone, nearest_rank

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.clients import Call
    from benchmarks.outside import Series
    from benchmarks.policy import Outcome
    from benchmarks.runner import Effort
    from hostd.records import Event, MemoryInfo

SEED = 4
MODELS = 40
SMALLEST_BYTES = 50 * MB
LARGEST_BYTES = 400 * MB
BUDGET_BYTES = 2000 * MB
CLIENTS = 4
SKEW = 1.3
"""The exponent of Zipf's law: the n-th favourite is called as often as the first divided by n to this."""

DURATION_S = 60.0
QUICK_DURATION_S = 10.0
SAMPLE_PERIOD_S = 0.05
RELOADS_LIMIT = 1.1

RELOADS = "reloads"
OFFLINE = "reloads, same policy, offline"


def budget(effort: Effort, *, with_host: bool) -> Iterator[Comparison]:
    """Call for a while, and watch from outside."""
    if not with_host:
        return
    duration_s = QUICK_DURATION_S if effort.is_quick else DURATION_S
    with model_directory() as directory:
        sizes = model_sizes()
        for model_id, size_bytes in sizes.items():
            write_sized(directory / "models" / model_id, size_bytes, directory / "loads")
        neighbours = Neighbours()
        run = _run(directory, sizes, duration_s)
        yield _comparison(run, sizes, duration_s, neighbours.cores())


def model_sizes() -> dict[str, int]:
    """Return what the models hold in bytes, by id; the same in every run."""
    rng = random.Random(SEED)
    return {f"model-{number:02}": rng.randint(SMALLEST_BYTES, LARGEST_BYTES) for number in range(MODELS)}


def accesses(ids: list[str], client: int) -> Iterator[str]:
    """Yield the models that a client calls, without end; every client has the same favourites."""
    favourites = random.Random(SEED).sample(ids, len(ids))
    shares = [1 / rank**SKEW for rank in range(1, len(ids) + 1)]
    rng = random.Random(f"{SEED}-{client}")
    while True:
        yield rng.choices(favourites, shares)[0]


@dataclass(frozen=True)
class _Run:
    """What was seen of a run: the calls, the loads in their order, the samples, and the host's own account."""

    calls: list[Call]
    loads: list[str]
    series: Series
    events: list[Event]
    base_bytes: int
    memory: MemoryInfo


def _run(directory: Path, sizes: dict[str, int], duration_s: float) -> _Run:
    import hostd  # noqa: PLC0415 - the floors can be measured without the host
    from benchmarks.clients import call_all, lazily  # noqa: PLC0415 - as above

    models = lazily(directory / "models")
    with (
        hostd.Host(models=models, memory={"budget": BUDGET_BYTES}) as host,
        ThreadPoolExecutor(1) as thread,
        host.client() as client,
    ):
        collected = thread.submit(_collect, client.events())
        with watching(host.pid, SAMPLE_PERIOD_S) as watch:
            end_s = time.monotonic() + duration_s
            calls = call_all(host, [_until(end_s, accesses(list(sizes), number)) for number in range(CLIENTS)])
        memory, resident = client.memory_info(), client.list_models()
    base_bytes = statistics.median(model.charge_bytes - sizes[model.id] for model in resident if model.ready_s)
    loads = loads_of(directory / "loads")
    return _Run(calls, loads, watch.series, collected.result(), int(base_bytes), memory)


def _until(end_s: float, ids: Iterator[str]) -> Iterator[str]:
    return itertools.takewhile(lambda _: time.monotonic() < end_s, ids)


def _collect(stream: Iterator[Event]) -> list[Event]:
    """Return all events until the client is closed."""
    import hostd  # noqa: PLC0415 - as above

    events = []
    with contextlib.suppress(hostd.HostError):
        for event in stream:
            events.append(event)  # noqa: PERF402 - those before the end are wanted
    return events


def _offline(run: _Run, sizes: dict[str, int]) -> Outcome:
    """Return what the host's policy makes of the same calls at the same times."""
    from benchmarks.policy import Request, Size, host_loads  # noqa: PLC0415 - as above

    loads_s = _load_seconds(run.events)
    usual_s = statistics.median(itertools.chain.from_iterable(loads_s.values()))
    held = {
        model_id: Size(
            size_bytes + run.base_bytes,
            size_bytes + run.base_bytes,
            statistics.median(loads_s.get(model_id, [usual_s])),
        )
        for model_id, size_bytes in sizes.items()
    }
    began_s = run.calls[0].sent_s
    trace = [Request(call.sent_s - began_s, call.model_id) for call in run.calls]
    return host_loads(trace, held, BUDGET_BYTES)


def _load_seconds(events: list[Event]) -> dict[str, list[float]]:
    """Return how long each load took, by model, from the decision to start its worker until it served."""
    started_s: dict[int | None, float] = {}
    loads_s: dict[str, list[float]] = {}
    for event in events:
        if event.subject == "worker" and event.new == "SPAWNING":
            started_s[event.worker_id] = event.time_s
        elif event.subject == "worker" and event.new == "READY":
            loads_s.setdefault(event.model_id, []).append(event.time_s - started_s[event.worker_id])
    return loads_s


def _comparison(run: _Run, sizes: dict[str, int], duration_s: float, others_cores: float) -> Comparison:
    latencies_s = [call.latency_s for call in run.calls]
    failed = [call for call in run.calls if call.error]
    offline = _offline(run, sizes)
    first_loads = len(set(run.loads))
    reloads, offline_reloads = len(run.loads) - first_loads, offline.loads - first_loads
    observed: list[tuple[str, By, float, float | None]] = [
        ("highest sum of USS", By.BYTES, run.series.highest.uss_bytes, BUDGET_BYTES + STEP_BYTES),
        ("failed calls", By.COUNT, len(failed), 0),
        ("calls served", By.COUNT, len(run.calls) - len(failed), None),
        ("first loads", By.COUNT, first_loads, None),
        (RELOADS, By.COUNT, reloads, None),
        (OFFLINE, By.COUNT, offline_reloads, None),
        ("a call, p50", By.LATENCY, nearest_rank(latencies_s, 0.5), None),
        ("a call, p99", By.LATENCY, nearest_rank(latencies_s, 0.99), None),
    ]
    evictions, freed = sum(run.memory.evictions.values()), run.memory.freed_bytes
    notes = [
        run.series.describe(),
        f"the host counts {evictions} evictions that freed {freed / 1e9:.1f} GB, {run.memory.waits} loads that waited",
        *(f"failed: {call.model_id}: {call.error}" for call in failed[:3]),
    ]
    title = f"{MODELS} models of 50 to 400 MB under 2 GB, {CLIENTS} clients, {duration_s:g} s"
    table = alone("budget", title, observed, notes, others_cores)
    ratio = reloads / max(1, offline_reloads)
    table.verdicts.append(Verdict(RELOADS, OFFLINE, By.COUNT, Against.RATIO, ratio, ratio, ratio, RELOADS_LIMIT))
    return table
