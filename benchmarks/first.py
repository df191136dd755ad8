"""`first`: 16 models of 60 to 180 MB with files of 1 KB, loaded for the first time under a budget of 700 MiB.

Nothing is known of them: they declare nothing, no host has loaded them before, and the sizer is wrong by a factor of a
hundred thousand. They take their memory at 100 MB a second, as from a disk. Sixteen clients call one model each, all at
once; loads are paused and put back, and models evicted meanwhile. A process of its own reads the private memory (USS)
of all worker trees from outside, every 20 ms. It may get beyond the budget by what grows in one period of the host's
watch (`memory.watch_period_s`), as seen from outside, and no call may fail.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.machine import Neighbours
from benchmarks.memory_models import MB, loads_of, write_unknown
from benchmarks.models import model_directory
from benchmarks.outside import watching
from benchmarks.verdicts import By, Comparison, alone

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.clients import Call
    from benchmarks.outside import Series
    from benchmarks.runner import Effort

SEED = 11
MODELS = 16
SMALLEST_BYTES = 60 * MB
LARGEST_BYTES = 180 * MB
BUDGET_BYTES = 700 << 20
CLIENTS = 16
SAMPLE_PERIOD_S = 0.02
WATCH_PERIOD_S = 0.1
MEMORY = {"budget": BUDGET_BYTES, "watch_period_s": WATCH_PERIOD_S}


def first(effort: Effort, *, with_host: bool) -> Iterator[Comparison]:
    """Load all models for the first time, again and again with hosts that know nothing."""
    if not with_host:
        return
    neighbours = Neighbours()
    rounds = [_round(seed) for seed in range(effort.slow_rounds)]
    yield _comparison(rounds, neighbours.cores())


class _Round(NamedTuple):
    """What was seen of one host: the calls, how often models were loaded, the samples, and what it says it did."""

    calls: list[Call]
    loads: int
    series: Series
    evictions: int

    @property
    def over_bytes(self) -> int:
        """Return how far the models got beyond the budget."""
        return max(0, self.series.highest.uss_bytes - BUDGET_BYTES)


def _round(seed: int) -> _Round:
    import hostd  # noqa: PLC0415 - the floors can be measured without the host
    from benchmarks.clients import Shared, call_all, lazily  # noqa: PLC0415 - as above

    with model_directory() as directory:
        ids = _write_models(directory, seed)
        with (
            hostd.Host(models=lazily(directory / "models"), memory=MEMORY) as host,
            host.client() as client,
            watching(host.pid, SAMPLE_PERIOD_S) as watch,
        ):
            shared = Shared(ids)
            calls = call_all(host, [shared] * CLIENTS)
            evictions = sum(client.memory_info().evictions.values())
        return _Round(calls, len(loads_of(directory / "loads")), watch.series, evictions)


def _write_models(directory: Path, seed: int) -> list[str]:
    rng = random.Random(SEED + seed)
    ids = [f"model-{number:02}" for number in range(MODELS)]
    for model_id in ids:
        size_bytes = rng.randint(SMALLEST_BYTES, LARGEST_BYTES)
        write_unknown(directory / "models" / model_id, size_bytes, directory / "loads")
    return ids


def _comparison(rounds: list[_Round], others_cores: float) -> Comparison:
    failed = [call for round_ in rounds for call in round_.calls if call.error]
    growth_bytes = min(round_.series.growth_bytes(WATCH_PERIOD_S) for round_ in rounds)
    highest_bytes = sorted(round_.series.highest.uss_bytes for round_ in rounds)
    observed: list[tuple[str, By, float, float | None]] = [
        ("highest sum of USS", By.BYTES, highest_bytes[-1], None),
        ("beyond the budget, worst of the rounds", By.BYTES, max(r.over_bytes for r in rounds), growth_bytes),
        ("growth in one period of the watch", By.BYTES, growth_bytes, None),
        ("failed calls", By.COUNT, len(failed), 0),
        ("loads begun for 16 models, worst", By.COUNT, max(round_.loads for round_ in rounds), None),
        ("evictions, worst", By.COUNT, max(round_.evictions for round_ in rounds), None),
    ]
    notes = [
        f"highest of each round, MiB: {', '.join(f'{size_bytes / 2**20:.0f}' for size_bytes in highest_bytes)}",
        rounds[0].series.describe(),
        *(f"failed: {call.model_id}: {call.error}" for call in failed[:3]),
    ]
    title = f"{MODELS} first loads of 60 to 180 MB under {BUDGET_BYTES >> 20} MiB, {CLIENTS} clients"
    return alone("first", title, observed, notes, others_cores)
