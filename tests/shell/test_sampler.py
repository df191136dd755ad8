"""The sampler with real processes that grow, fork and go."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from helpers import PATIENCE_S, Told, never, uss_of_tree

from hostd.core.values import Memory, WorkerId
from hostd.shell.memory import sampler as sampling
from hostd.shell.memory import schedule as looks
from hostd.shell.memory.sampler import Sampler
from hostd.shell.memory.schedule import Look, Schedule, Watched
from hostd.shell.memory.tree import Sample, sample_tree

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from hostd.core import events as ev

MIB = 1 << 20
NO_PERIOD_S = 1000.0
"""A period that no test lives to see."""


def a_worker(
    number: int = 1, *, pid: int, busy: bool = False, watched: bool = False, limit: int | None = None
) -> Watched:
    return Watched(WorkerId(number), pid, busy, watched or limit is not None, limit)


class Rig:
    """A sampler in a task, the workers that it is told of, and what it emitted."""

    def __init__(self, **periods: float) -> None:
        settings = {"period_s": NO_PERIOD_S, "max_period_s": NO_PERIOD_S, "watch_period_s": 0.005, **periods}
        self.workers: list[Watched] = []
        self.asked = 0
        self.events: asyncio.Queue[ev.WorkerMeasured] = asyncio.Queue()
        self.sampler = Sampler(Schedule(**settings), self._watched, self.events.put_nowait)

    def _watched(self) -> list[Watched]:
        self.asked += 1
        return list(self.workers)

    def add(self, pid: int, **settings: Any) -> None:
        self.workers.append(a_worker(len(self.workers) + 1, pid=pid, **settings))
        self.sampler.wake()

    async def next(self) -> ev.WorkerMeasured:
        return await asyncio.wait_for(self.events.get(), PATIENCE_S)


def on_a_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        asyncio.run(test(**fixtures))

    return run


@asynccontextmanager
async def running(rig: Rig) -> AsyncIterator[Rig]:
    task = asyncio.create_task(rig.sampler.run())
    try:
        yield rig
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


GROWER = """
    import os, sys

    held = []
    print("up", flush=True)
    for line in sys.stdin:
        what, size_bytes = line.split()
        if what == "share":
            held.append(os.memfd_create("held"))
            os.write(held[-1], b"x" * int(size_bytes))
            print("done", flush=True)
        elif what == "grow" or os.fork() == 0:
            held.append(b"x" * int(size_bytes))
            print("done", flush=True)
"""


class Grower(Told):
    """A process that takes as much memory as it is told, itself or in a fork of it."""

    def __init__(self) -> None:
        super().__init__(GROWER)

    def grow(self, size_bytes: int) -> None:
        self.tell(f"grow {size_bytes}")

    def share(self, size_bytes: int) -> None:
        self.tell(f"share {size_bytes}")

    def fork(self, size_bytes: int) -> None:
        self.tell(f"fork {size_bytes}")


@pytest.fixture
def grower() -> Iterator[Grower]:
    made = Grower()
    yield made
    made.end()


@on_a_loop
async def test_growth_of_a_watched_worker_is_seen_soon(grower: Grower) -> None:
    async with running(Rig()) as rig:
        rig.add(grower.pid, watched=True)
        first = await rig.next()
        assert first.worker_id == 1
        grower.grow(32 * MIB)
        second = await rig.next()
        while second.memory.charge_bytes < first.memory.charge_bytes + 31 * MIB:
            second = await rig.next()
        assert second.memory.uss_bytes == pytest.approx(uss_of_tree(grower.pid), abs=MIB)


@on_a_loop
async def test_a_walk_that_others_hold_up_does_not_put_off_the_next(
    grower: Grower, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts is the processor time of a walk; on a busy machine growth would not be seen for long otherwise."""
    sample = sampling._sample

    read_s: list[float] = []

    def held_up(*of_what: Any) -> Sample | None:
        read_s.append(time.monotonic())
        time.sleep(0.5)
        return sample(*of_what)

    monkeypatch.setattr(sampling, "_sample", held_up)
    monkeypatch.setattr(looks, "GROWTH_SHARE", 0.01)
    async with running(Rig()) as rig:
        rig.add(grower.pid, watched=True)
        first = await rig.next()
        assert first.asked_s <= read_s[0], "it would count as later than it is"
        grower.grow(32 * MIB)
        assert (await rig.next()).memory.charge_bytes > first.memory.charge_bytes


@on_a_loop
async def test_a_worker_that_passes_its_limit_is_seen_although_growth_has_to_wait(
    grower: Grower, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "GROWTH_SHARE", 1e-9)
    charge_bytes = sample_tree(grower.pid).memory.charge_bytes
    async with running(Rig()) as rig:
        rig.add(grower.pid, limit=charge_bytes + 16 * MIB)
        await rig.next()
        grower.grow(24 * MIB)
        assert (await rig.next()).memory.charge_bytes > charge_bytes + 16 * MIB


@on_a_loop
async def test_shared_memory_that_a_worker_has_not_mapped_is_seen_soon(grower: Grower) -> None:
    charge_bytes = sample_tree(grower.pid).memory.charge_bytes
    async with running(Rig()) as rig:
        rig.add(grower.pid, limit=charge_bytes + 16 * MIB)
        await rig.next()
        grower.share(24 * MIB)
        measured = await rig.next()
        while measured.memory.charge_bytes < charge_bytes + 24 * MIB:  # others may have shared memory just then
            measured = await rig.next()
        assert measured.memory.shared_bytes == 24 * MIB


@on_a_loop
async def test_who_cannot_be_measured_is_in_nobodys_way(grower: Grower, monkeypatch: pytest.MonkeyPatch) -> None:
    real = sampling.sample_tree

    def sample(pid: int, *others: Any) -> Sample | None:
        if pid == 1:
            raise ValueError("strange")
        return real(pid, *others)

    monkeypatch.setattr(sampling, "sample_tree", sample)
    async with running(Rig(period_s=0.01, max_period_s=0.01)) as rig:
        rig.add(1)
        rig.add(grower.pid)
        assert {(await rig.next()).worker_id for _ in range(3)} == {2}


@on_a_loop
async def test_measuring_goes_on_after_a_failure(grower: Grower, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_AFTER_FAILURE_S", 0.01)
    failures = iter([RuntimeError("once")])

    class Devices:
        def bytes_by_pid(self) -> None:
            for error in failures:
                raise error

    rig = Rig(period_s=0.01, max_period_s=0.01)
    rig.sampler._gpu = Devices()
    async with running(rig):
        rig.add(grower.pid)
        assert (await rig.next()).worker_id == 1


@on_a_loop
async def test_a_helper_that_a_watched_worker_starts_later_counts(grower: Grower) -> None:
    async with running(Rig()) as rig:
        rig.add(grower.pid, watched=True)
        assert (await rig.next()).memory.processes == 1
        grower.fork(64 * MIB)
        measured = await rig.next()
        while measured.memory.charge_bytes < 64 * MIB:
            measured = await rig.next()
        assert measured.memory.processes == 2


@on_a_loop
async def test_who_is_due_is_sampled_and_told_of_even_unchanged(grower: Grower) -> None:
    async with running(Rig(period_s=0.01, max_period_s=0.01)) as rig:
        rig.add(grower.pid, busy=True)
        measured = [await rig.next() for _ in range(3)]
        assert {event.worker_id for event in measured} == {1}


@on_a_loop
async def test_all_that_is_due_is_read_in_one_thread_that_is_not_the_loops(
    grower: Grower, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set()
    real = sampling.sample_tree

    def sample(*arguments: Any) -> Sample | None:
        threads.add(threading.current_thread().name)
        return real(*arguments)

    monkeypatch.setattr(sampling, "sample_tree", sample)
    rig = Rig(period_s=0.01, max_period_s=0.01)
    for _ in range(3):
        rig.add(grower.pid)
    async with running(rig):
        assert {(await rig.next()).worker_id for _ in range(3)} == {1, 2, 3}
    assert threads == {"hostd-sample_0"}


@on_a_loop
async def test_without_workers_nothing_at_all_is_done() -> None:
    rig = Rig(period_s=0.001, max_period_s=0.001, watch_period_s=0.001)
    async with running(rig):
        await asyncio.sleep(0)
        assert rig.asked == 1
        await asyncio.get_running_loop().run_in_executor(
            None, lambda: never(lambda: rig.asked > 1, "it looked without being woken", for_s=0.05)
        )
    assert rig.events.empty()


@on_a_loop
async def test_a_worker_that_is_gone_is_nothing_to_tell_of(grower: Grower) -> None:
    async with running(Rig(period_s=0.01, max_period_s=0.01)) as rig:
        rig.add(2**22, watched=True)  # more than any process id
        rig.add(grower.pid)
        assert {(await rig.next()).worker_id for _ in range(3)} == {2}


class Devices:
    """Devices on which one process holds something, and who counts how often they are asked."""

    def __init__(self, held: dict[int, int]) -> None:
        self.held = held
        self.asked = 0

    def bytes_by_pid(self) -> dict[int, int]:
        self.asked += 1
        return self.held


@on_a_loop
async def test_what_the_kernel_counts_for_a_worker_is_in_its_sample(grower: Grower) -> None:
    rig = Rig(period_s=0.01, max_period_s=0.01)
    rig.sampler._complete = lambda worker_id, memory: memory._replace(group_bytes=500 * MIB + worker_id)
    async with running(rig):
        rig.add(2**22)
        rig.add(grower.pid)
        assert (await rig.next()).memory.charge_bytes == 500 * MIB + 2


@on_a_loop
async def test_devices_are_asked_once_a_pass_for_all_workers(grower: Grower) -> None:
    rig = Rig(period_s=0.01, max_period_s=NO_PERIOD_S)
    devices = Devices({grower.pid: 7})
    rig.sampler._gpu = devices
    rig.sampler._watched = lambda: [] if devices.asked else list(rig.workers)  # one pass only
    for _ in range(3):
        rig.add(grower.pid)
    async with running(rig):
        first = [(await rig.next()).memory.gpu_bytes for _ in range(3)]
    assert first == [7, 7, 7]
    assert devices.asked == 1


@pytest.mark.parametrize("content", [None, "0.00 0.00 0.00 0/0 0\n", "nonsense\n"])
def test_where_the_system_does_not_number_its_processes_trees_are_read_at_every_look(
    content: str | None, grower: Grower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "_LOADAVG", tmp_path / "loadavg")
    if content is not None:
        (tmp_path / "loadavg").write_text(content)
    reads = []
    monkeypatch.setattr(sampling, "descendants_of", lambda pid: reads.append(pid) or [])
    trees = sampling._Trees()
    for _ in range(3):
        trees.begin_pass({WorkerId(1)})
        trees.most_bytes_of(a_worker(pid=grower.pid))
    assert len(reads) == 3


def test_a_tree_is_read_again_when_the_system_has_made_a_process(
    grower: Grower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "_LOADAVG", tmp_path / "loadavg")
    reads = []
    monkeypatch.setattr(sampling, "descendants_of", lambda pid: reads.append(pid) or [])
    trees, worker = sampling._Trees(), a_worker(pid=grower.pid)
    for last_pid in (41, 41, 41, 41, 42, 42, 42):
        (tmp_path / "loadavg").write_text(f"0.00 0.00 0.00 1/99 {last_pid}\n")
        trees.begin_pass({worker.worker_id})
        assert trees.most_bytes_of(worker) > MIB
    assert len(reads) == 4, "twice for each, because a number is given a moment before its process is to be seen"
    trees.begin_pass(set())
    assert trees._trees == {}


def test_a_tree_stays_known_while_others_are_looked_at(
    grower: Grower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "_LOADAVG", tmp_path / "loadavg")
    (tmp_path / "loadavg").write_text("0.00 0.00 0.00 1/99 41\n")
    reads = []
    monkeypatch.setattr(sampling, "descendants_of", lambda pid: reads.append(pid) or [])
    sampler = Sampler(Schedule(NO_PERIOD_S, NO_PERIOD_S, 1.0), list, lambda _: None)
    workers = [a_worker(number, pid=grower.pid, limit=1 << 40) for number in (1, 2)]
    looks = [Look(worker, False, None, None, False) for worker in workers]
    monkeypatch.setattr(sampling, "sample_tree", lambda *_: None)
    for _ in range(4):
        for look in looks:
            sampler._work([look], workers)
    assert len(reads) <= 4


def test_who_would_be_over_the_limit_by_reckoned_figures_is_walked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    estimated = Memory(
        1, 130 * MIB, 110 * MIB, None, None, held_bytes=110 * MIB, anon_bytes=90 * MIB, file_bytes=40 * MIB
    )
    asked = []

    def sample(pid: int, last: Memory | None, gpu: object) -> Sample:
        asked.append(last)
        return Sample(estimated._replace(held_bytes=95 * MIB), True) if last is None else Sample(estimated, False)

    monkeypatch.setattr(sampling, "sample_tree", sample)
    look = Look(a_worker(pid=1, limit=100 * MIB), True, estimated, estimated, False)
    assert sampling._sample(look, None).memory.charge_bytes == 95 * MIB
    assert asked == [estimated, None]


def test_a_tree_that_cannot_be_read_is_looked_at_again_soon(grower: Grower, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int) -> list[int]:
        raise psutil.AccessDenied(pid)

    monkeypatch.setattr(sampling, "descendants_of", refuse)
    assert sampling._Trees().most_bytes_of(a_worker(pid=grower.pid)) == 0
