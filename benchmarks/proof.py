"""`proof`: cycles of loading and unloading a model with a family, and what each left on the machine.

The model holds 500 MB, three tenths of it in a forked child, in a helper that ignores SIGTERM, and in a stopped daemon
that left its session and its parent. With the answer of the unload in hand its processes are looked for by pid and
start time, and whatever else this benchmark has started by a mark in its environment. What the host reports as freed is
held against what left the sum of private memory (USS) of all processes of the machine, read just before the unload and
just after it; what other programs gained or gave back in that moment is taken out, and told.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.machine import Neighbours
from benchmarks.memory_models import MB, write_family
from benchmarks.models import GIB, model_directory
from benchmarks.outside import TEMPLATE, Marked, is_there, name_of, tree_of, uss_of
from benchmarks.verdicts import By, Comparison, alone, nearest_rank

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import hostd
    from benchmarks.runner import Effort

MODEL_ID = "family"
MODEL_BYTES = 500 * MB
FAMILY = 4
"""Its worker, the child, the helper and the daemon."""

BASE_S = 0.050
PER_GIB_S = 0.25
DIFFERENCE_LIMIT_PERCENT = 5.0
GROWTH_LIMIT_BYTES = 5 * MB


def proof(effort: Effort, *, with_host: bool) -> Iterator[Comparison]:
    """Load and unload, `effort.cycles` times."""
    if not with_host:
        return
    import hostd  # noqa: PLC0415 - the floors can be measured without the host

    with model_directory() as directory, Marked().everything() as marked:
        path = write_family(directory / MODEL_ID, MODEL_BYTES)
        neighbours = Neighbours()
        with hostd.Host() as host, host.client() as client:
            alive_before = marked.processes()
            supervisor_bytes = [uss_of(host.pid) or 0]
            cycles = []
            for _ in range(effort.cycles):
                cycles.append(_cycle(client, host.pid, path, marked))
                supervisor_bytes.append(uss_of(host.pid) or 0)
            left = len(marked.processes() - alive_before) + sum(cycle.left for cycle in cycles)
        yield from _comparisons(cycles, left, supervisor_bytes, neighbours.cores())


@dataclass(frozen=True)
class _Cycle:
    """One load and unload; `left_bytes` is by how much the machine's sum fell, without what strangers did."""

    load_s: float
    unload_s: float
    processes: int
    freed_bytes: int
    gone_bytes: int
    strangers_bytes: int
    left: int

    @property
    def difference_percent(self) -> float:
        """Return by how much the report differs from what left the machine."""
        return 100 * abs(self.freed_bytes - self.gone_bytes) / self.gone_bytes


def _cycle(client: hostd.Client, supervisor_pid: int, path: Path, marked: Marked) -> _Cycle:
    start_s = time.perf_counter()
    client.load_model(MODEL_ID, path)
    load_s = time.perf_counter() - start_s
    family = [process for process in tree_of(supervisor_pid) if name_of(process.pid) != TEMPLATE]
    before = marked.machine_uss()
    start_s = time.perf_counter()
    report = client.unload_model(MODEL_ID)
    unload_s = time.perf_counter() - start_s
    left = sum(map(is_there, family))
    after = marked.machine_uss()
    if report.processes != len(family) or len(family) != FAMILY:
        raise RuntimeError(f"the model has {FAMILY} processes, {len(family)} were seen, {report.processes} reported")
    return _Cycle(
        load_s,
        unload_s,
        report.processes,
        report.freed_bytes,
        before.own_bytes - after.own_bytes,
        after.strangers_bytes - before.strangers_bytes,
        left,
    )


def _comparisons(
    cycles: list[_Cycle], left: int, supervisor_bytes: list[int], others_cores: float
) -> Iterator[Comparison]:
    title = f"{len(cycles)} cycles of a 500 MB model of {FAMILY} processes"
    loads_s, unloads_s = [cycle.load_s for cycle in cycles], [cycle.unload_s for cycle in cycles]
    freed = [cycle.freed_bytes for cycle in cycles]
    differences = [cycle.difference_percent for cycle in cycles]
    strangers_bytes = max((cycle.strangers_bytes for cycle in cycles), key=abs)
    settled_bytes = supervisor_bytes[1 + len(cycles) // 10]
    yield alone(
        "proof",
        title,
        [
            ("processes left", By.COUNT, left, 0),
            ("unload, p50", By.LATENCY, nearest_rank(unloads_s, 0.5), None),
            ("unload, p99", By.LATENCY, nearest_rank(unloads_s, 0.99), BASE_S + PER_GIB_S * MODEL_BYTES / GIB),
            ("unload, longest", By.LATENCY, max(unloads_s), None),
            ("load, p50", By.LATENCY, nearest_rank(loads_s, 0.5), None),
        ],
        others_cores=others_cores,
    )
    yield alone(
        "proof",
        f"memory, {title}",
        [
            ("freed as reported, least", By.BYTES, min(freed), None),
            ("freed as reported, most", By.BYTES, max(freed), None),
            ("report against what left the machine, p50", By.PERCENT, nearest_rank(differences, 0.5), None),
            ("report against what left the machine, worst", By.PERCENT, max(differences), DIFFERENCE_LIMIT_PERCENT),
            ("growth of the supervisor", By.BYTES, supervisor_bytes[-1] - supervisor_bytes[0], GROWTH_LIMIT_BYTES),
            ("of that, after a tenth of the cycles", By.BYTES, supervisor_bytes[-1] - settled_bytes, None),
        ],
        [f"taken out: what other programs gained during an unload, {strangers_bytes / MB:,.1f} MB at the extreme"],
        others_cores,
    )
