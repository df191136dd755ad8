"""The host's side of loads, unloads, starts and idling, through the public API only."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

import hostd
from benchmarks.runner import Round, timed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MODEL_ID = "model"

# Programs for a fresh interpreter that print the seconds from the entry of the block to the first answer.
_START_SOURCE = """
import sys, time
import hostd
start = time.perf_counter()
with hostd.Host() as host:
    client = host.client()
    {ask}
    print(time.perf_counter() - start, flush=True)
"""
READY_SOURCE = _START_SOURCE.format(ask="pass")
INFO_SOURCE = _START_SOURCE.format(ask="client.host_info()")
MODEL_SOURCE = _START_SOURCE.format(ask="client.load_model('first', sys.argv[1]).echo(b'first')")


@contextmanager
def plain_host() -> Iterator[hostd.Client]:
    """Start a host with nothing loaded, of which every worker is started afresh; gives its client."""
    with hostd.Host(workers={"templates": "off"}) as host, host.client() as client:
        yield client


def cold_load(client: hostd.Client, model_id: str, path: Path) -> Round:
    """Time a load; the unload after it is not timed."""
    result = timed(lambda: client.load_model(model_id, str(path)))
    client.unload_model(model_id)
    return result


def load_and_unload(client: hostd.Client, path: Path) -> Round:
    """Load a model and time its unload."""
    client.load_model(MODEL_ID, str(path))
    return timed(lambda: client.unload_model(MODEL_ID))


@dataclass(frozen=True)
class Idle:
    """CPU in percent of one core and RSS in bytes, of the supervisor and of its workers, while nothing is asked."""

    cpu_percent: float
    rss_bytes: int
    workers_cpu_percent: float
    worker_rss_bytes: int


def watch_idle(path: Path, models: int, duration_s: float) -> Idle:
    """Load `models` models, ask nothing for `duration_s` seconds, and say what that cost."""
    with plain_host() as client:
        handles = [client.load_model(f"model-{number}", str(path), wait=False) for number in range(models)]
        for handle in handles:
            handle.wait()
        supervisor = supervisor_of(client)
        workers = supervisor.children(recursive=True)
        cpu_percent, workers_cpu_percent = idle_percents([[supervisor], workers], duration_s)
        worker_rss = sum(worker.memory_info().rss for worker in workers) // max(1, len(workers))
        rss = supervisor.memory_info().rss
    return Idle(cpu_percent, rss, workers_cpu_percent, worker_rss)


def supervisor_of(client: hostd.Client) -> psutil.Process:
    """Return the process of a host."""
    return psutil.Process(client.host_info().pid)


def idle_percents(groups: Sequence[Sequence[psutil.Process]], duration_s: float) -> list[float]:
    """Wait for so long, and return what part of a core each group of processes has used meanwhile, in percent."""
    before_s = [sum(map(cpu_s, group)) for group in groups]
    # The one sleep of the benchmarks: the absence of work is what is measured.
    time.sleep(duration_s)
    after_s = [sum(map(cpu_s, group)) for group in groups]
    return [100 * (after - before) / duration_s for before, after in zip(before_s, after_s, strict=True)]


def cpu_s(process: psutil.Process) -> float:
    """Return the processor time that a process has used."""
    times = process.cpu_times()
    return times.user + times.system
