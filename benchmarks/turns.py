"""`turns`: two models that take turns under a budget which holds one of them: A B A B ..., and what loads it takes.

Eight clients take the requests in this order from one sequence. A host that serves one request after the other would
load a model for every one of them; this one serves all requests that wait for a model before that goes. Loads are
counted by the models themselves. First come, first served is computed, and measured with a client that has one request
in flight, for fewer requests: that takes a load and the minimum residence each.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.machine import Neighbours
from benchmarks.memory_models import MB, loads_of, write_sized
from benchmarks.models import model_directory
from benchmarks.runner import HOST, Effort
from benchmarks.verdicts import Against, By, Comparison, Verdict, alone, nearest_rank

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import hostd
    from benchmarks.clients import Call

CLIENTS = 8
REQUESTS = 200
QUICK_REQUESTS = 60
IN_ORDER = 20
QUICK_IN_ORDER = 4
MODEL_BYTES = 200 * MB
BUDGET_BYTES = 300 * MB
LOADS_LIMIT = 0.333
IDS = ("a", "b")

COMPUTED = "first come, first served, computed"


def turns(effort: Effort, *, with_host: bool) -> Iterator[Comparison]:
    """Take turns, with many clients and then with one."""
    if not with_host:
        return
    import hostd  # noqa: PLC0415 - the floors can be measured without the host
    from benchmarks.clients import lazily  # noqa: PLC0415 - as above

    requests, in_order = (QUICK_REQUESTS, QUICK_IN_ORDER) if effort.is_quick else (REQUESTS, IN_ORDER)
    with model_directory() as directory:
        log, models = directory / "loads", directory / "models"
        for model_id in IDS:
            write_sized(models / model_id, MODEL_BYTES, log)
        with hostd.Host(models=lazily(models), memory={"budget": BUDGET_BYTES}) as host, host.client() as client:
            for model_id in IDS:
                client.retrieve_model(model_id)
            neighbours = Neighbours()
            together = _measure(host, log, requests, CLIENTS)
            one_by_one = _measure(host, log, in_order, 1)
            yield _comparison(together, one_by_one, neighbours.cores())


@dataclass(frozen=True)
class _Turns:
    """What came of a sequence of requests."""

    calls: list[Call]
    loads: int
    elapsed_s: float

    @property
    def failed(self) -> list[Call]:
        """Return the calls that failed."""
        return [call for call in self.calls if call.error]


def _measure(host: hostd.Host, log: Path, requests: int, clients: int) -> _Turns:
    """Have clients take requests for one model and the other in turn; the first is for the one that is not loaded."""
    from benchmarks.clients import Shared, call_all  # noqa: PLC0415 - as above

    loads_before, start_s = len(loads_of(log)), time.perf_counter()
    sequence = Shared(IDS[number % len(IDS)] for number in range(requests))
    calls = call_all(host, [sequence] * clients)
    return _Turns(calls, len(loads_of(log)) - loads_before, time.perf_counter() - start_s)


def _comparison(together: _Turns, in_order: _Turns, others_cores: float) -> Comparison:
    requests = len(together.calls)
    waits_s = [call.latency_s for call in together.calls]
    failed = [*together.failed, *in_order.failed]
    observed: list[tuple[str, By, float, float | None]] = [
        (COMPUTED, By.COUNT, requests, None),
        (f"loads, one client, of its {len(in_order.calls)} requests", By.COUNT, in_order.loads, None),
        (HOST, By.COUNT, together.loads, None),
        ("failed calls", By.COUNT, len(failed), 0),
        ("a request, p50", By.LATENCY, nearest_rank(waits_s, 0.5), None),
        ("a request, p99", By.LATENCY, nearest_rank(waits_s, 0.99), None),
        ("all requests", By.LATENCY, together.elapsed_s, None),
        (f"one client, its {len(in_order.calls)} requests", By.LATENCY, in_order.elapsed_s, None),
    ]
    notes = [f"failed: {call.model_id}: {call.error}" for call in failed[:3]]
    table = alone("turns", f"loads for {requests} requests by turns, {CLIENTS} clients", observed, notes, others_cores)
    ratio = together.loads / requests
    verdict = Verdict(HOST, COMPUTED, By.COUNT, Against.RATIO, ratio, ratio, ratio, LOADS_LIMIT)
    table.verdicts.insert(0, verdict)
    return table
