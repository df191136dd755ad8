"""`sampling`: what it costs to know the memory of many workers that are idle: CPU of one core.

The processes are real and small: interpreters with what every worker imports, asleep. The floor is the same figures
without a schedule: every worker read in full every `sample_period_s`.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from benchmarks.verdicts import By, Comparison, alone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.runner import Effort

WORKERS = 200
QUICK_WORKERS = 20
PERIOD_S = 5.0
MAX_PERIOD_S = 60.0
WATCH_PERIOD_S = 0.1
CPU_LIMIT_PERCENT = 1.0
LIMIT_BYTES = 1 << 30

_SOURCE = """
import signal
import msgpack, zmq
context = zmq.Context()
context.socket(zmq.DEALER)
print(flush=True)
signal.pause()
"""
_STARTED_AT_ONCE = 10


def sampling(effort: Effort, *, with_host: bool) -> Iterator[Comparison]:
    """Sample idle processes as the host does, with and without limits to watch, and naively."""
    if not with_host:
        return
    count = QUICK_WORKERS if effort.is_quick else WORKERS
    with _processes(count) as pids:
        idle = _ours(pids, effort.idle_s, is_watched=False)
        watched = _ours(pids, effort.idle_s, is_watched=True)
        naive = _naive(pids)
    yield alone(
        "sampling",
        f"{count} idle workers, {effort.idle_s:g} s",
        [
            ("sampler's CPU, of a core", By.PERCENT, idle, CPU_LIMIT_PERCENT),
            ("the same, all of them with a limit", By.PERCENT, watched, None),
            (f"naively: all in full every {PERIOD_S:g} s", By.PERCENT, naive, None),
        ],
    )


def _ours(pids: list[int], duration_s: float, *, is_watched: bool) -> float:
    from hostd.core.values import WorkerId  # noqa: PLC0415 - the floors can be measured without the host
    from hostd.shell.memory.sampler import Sampler  # noqa: PLC0415 - as above
    from hostd.shell.memory.schedule import Schedule, Watched  # noqa: PLC0415 - as above

    limit_bytes = LIMIT_BYTES if is_watched else None
    workers = [Watched(WorkerId(pid), pid, False, is_watched, limit_bytes) for pid in pids]

    async def run() -> float:
        sampler = Sampler(Schedule(PERIOD_S, MAX_PERIOD_S, WATCH_PERIOD_S), lambda: list(workers), lambda _: None)
        began_s, began_cpu_s = time.monotonic(), time.process_time()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(sampler.run(), duration_s)
        return 100 * (time.process_time() - began_cpu_s) / (time.monotonic() - began_s)

    return asyncio.run(run())


def _naive(pids: list[int]) -> float:
    from hostd.shell.memory.tree import sample_tree  # noqa: PLC0415 - as above

    began_s = time.process_time()
    for pid in pids:
        sample_tree(pid)
    return 100 * (time.process_time() - began_s) / PERIOD_S


@contextlib.contextmanager
def _processes(count: int) -> Iterator[list[int]]:
    with contextlib.ExitStack() as stack:
        started: list[subprocess.Popen[bytes]] = []
        for number in range(count):
            started.append(stack.enter_context(_asleep()))
            if number >= _STARTED_AT_ONCE:
                _await_word(started[number - _STARTED_AT_ONCE])
        for process in started[-_STARTED_AT_ONCE:]:
            _await_word(process)
        yield [process.pid for process in started]


@contextlib.contextmanager
def _asleep() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", _SOURCE], stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def _await_word(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    if not process.stdout.readline():
        raise RuntimeError(f"a process that should sleep has ended with {process.wait()}")
