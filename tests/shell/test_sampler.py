"""The sampler with real processes that grow, fork and go."""

import asyncio
import contextlib
import threading
import time

import psutil
import pytest
from helpers import PATIENCE_S, never, uss_of_tree
from holding_rig import MIB, Holder
from loops import on_a_loop

from hostd.core.values import Memory, WorkerId
from hostd.shell.linux import proc
from hostd.shell.memory import sampler as sampling
from hostd.shell.memory import schedule as looks
from hostd.shell.memory.sampler import Sampler
from hostd.shell.memory.schedule import Look, Schedule, Watched
from hostd.shell.memory.tree import Sample, sample_tree

NO_PERIOD_S = 1000.0
"""A period that no test lives to see."""

OFTEN = {"period_s": 0.01, "max_period_s": 0.01}
NOBODY = 2**22
"""More than any process id."""


def a_worker(number=1, *, pid, busy=False, watched=False, limit=None):
    return Watched(WorkerId(number), pid, busy, watched or limit is not None, limit)


class Rig:
    """A sampler in a task, the workers that it is told of, and what it emitted."""

    def __init__(self, gpu=None, complete=lambda _, memory: memory, **periods):
        settings = {"period_s": NO_PERIOD_S, "max_period_s": NO_PERIOD_S, "watch_period_s": 0.005, **periods}
        self.workers, self.asked = [], 0
        self.events = asyncio.Queue()
        self.sampler = Sampler(Schedule(**settings), self.watched, self.events.put_nowait, gpu, complete)

    def watched(self):
        self.asked += 1
        return list(self.workers)

    def add(self, pid, **settings):
        self.workers.append(a_worker(len(self.workers) + 1, pid=pid, **settings))
        self.sampler.wake()

    async def next(self):
        return await asyncio.wait_for(self.events.get(), PATIENCE_S)

    async def next_above(self, charge_bytes):
        """Return the memory of the first sample with so much."""
        while (memory := (await self.next()).memory).charge_bytes < charge_bytes:
            pass
        return memory


@contextlib.asynccontextmanager
async def running(rig):
    task = asyncio.create_task(rig.sampler.run())
    try:
        yield rig
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def grower():
    made = Holder()
    yield made
    made.end()


@on_a_loop
async def test_growth_of_a_watched_worker_and_of_its_helpers_is_seen_soon(grower):
    async with running(Rig()) as rig:
        rig.add(grower.pid, watched=True)
        first = await rig.next()
        assert (first.worker_id, first.memory.processes) == (1, 1)
        grower.grow(32)
        grown = await rig.next_above(first.memory.charge_bytes + 31 * MIB)
        assert grown.uss_bytes == pytest.approx(uss_of_tree(grower.pid), abs=MIB)
        grower.tell("fork(lambda: grow(64))")
        assert (await rig.next_above(grown.charge_bytes + 60 * MIB)).processes == 2


@on_a_loop
async def test_a_walk_that_others_hold_up_does_not_put_off_the_next(grower, monkeypatch):
    """What counts is the processor time of a walk; on a busy machine growth would not be seen for long otherwise."""
    sample, read_s = sampling._sample, []

    def held_up(*of_what):
        read_s.append(time.monotonic())
        time.sleep(0.5)
        return sample(*of_what)

    monkeypatch.setattr(sampling, "_sample", held_up)
    monkeypatch.setattr(looks, "GROWTH_SHARE", 0.01)
    async with running(Rig()) as rig:
        rig.add(grower.pid, watched=True)
        first = await rig.next()
        assert first.asked_s <= read_s[0], "it would count as later than it is"
        grower.grow(32)
        assert (await rig.next()).memory.charge_bytes > first.memory.charge_bytes


@pytest.mark.parametrize("how", ["grow(24)", "filled(memfd(), 24 * MIB)"], ids=["its own", "shared and not mapped"])
@on_a_loop
async def test_a_worker_that_passes_its_limit_is_seen_although_growth_has_to_wait(grower, monkeypatch, how):
    monkeypatch.setattr(looks, "GROWTH_SHARE", 1e-9)
    charge_bytes = sample_tree(grower.pid).memory.charge_bytes
    async with running(Rig()) as rig:
        rig.add(grower.pid, limit=charge_bytes + 16 * MIB)
        await rig.next()
        grower.tell(how)
        # Others may have shared memory just then.
        grown = await rig.next_above(charge_bytes + 16 * MIB)
        assert grown.shared_bytes == ("filled" in how) * 24 * MIB


@on_a_loop
async def test_workers_that_cannot_be_measured_or_are_gone_keep_no_other_from_it_again_and_again(grower, monkeypatch):
    real = sampling.sample_tree

    def sample(pid, *others):
        if pid == 1:
            raise ValueError("strange")
        return real(pid, *others)

    monkeypatch.setattr(sampling, "sample_tree", sample)
    async with running(Rig(**OFTEN)) as rig:
        for pid in (1, NOBODY, grower.pid):
            rig.add(pid, watched=pid == NOBODY, busy=pid == grower.pid)
        assert {(await rig.next()).worker_id for _ in range(3)} == {3}, "also when it has not changed"


@on_a_loop
async def test_measuring_goes_on_after_a_failure(grower, monkeypatch):
    monkeypatch.setattr(sampling, "_AFTER_FAILURE_S", 0.01)
    failures = iter([RuntimeError("once")])

    class Failing:
        def bytes_by_pid(self):
            for error in failures:
                raise error

    async with running(Rig(Failing(), **OFTEN)) as rig:
        rig.add(grower.pid)
        assert (await rig.next()).worker_id == 1


@on_a_loop
async def test_all_that_is_due_is_read_in_one_thread_that_is_not_the_loops(grower, monkeypatch):
    threads, real = set(), sampling.sample_tree

    def sample(*arguments):
        threads.add(threading.current_thread().name)
        return real(*arguments)

    monkeypatch.setattr(sampling, "sample_tree", sample)
    rig = Rig(**OFTEN)
    for _ in range(3):
        rig.add(grower.pid)
    async with running(rig):
        assert {(await rig.next()).worker_id for _ in range(3)} == {1, 2, 3}
    assert threads == {"hostd-sample_0"}


@on_a_loop
async def test_without_workers_nothing_at_all_is_done():
    rig = Rig(period_s=0.001, max_period_s=0.001, watch_period_s=0.001)
    async with running(rig):
        await asyncio.sleep(0)
        assert rig.asked == 1
        await asyncio.get_running_loop().run_in_executor(
            None, lambda: never(lambda: rig.asked > 1, "it looked without being woken", for_s=0.05)
        )
    assert rig.events.empty()


@on_a_loop
async def test_what_the_kernel_counts_for_a_worker_is_in_its_sample(grower):
    async with running(
        Rig(complete=lambda name, memory: memory._replace(group_bytes=500 * MIB + name), **OFTEN)
    ) as rig:
        rig.add(NOBODY)
        rig.add(grower.pid)
        assert (await rig.next()).memory.charge_bytes == 500 * MIB + 2


@on_a_loop
async def test_devices_are_asked_once_a_pass_for_all_workers(grower):
    class Devices:
        asked = 0

        def bytes_by_pid(self):
            self.asked += 1
            rig.workers.clear()  # one pass only
            return {grower.pid: 7}

    devices = Devices()
    rig = Rig(devices, period_s=0.01)
    for _ in range(3):
        rig.add(grower.pid)
    async with running(rig):
        assert [(await rig.next()).memory.gpu_bytes for _ in range(3)] == [7, 7, 7]
    assert devices.asked == 1


class Trees:
    """Looks at a tree, on a system that says which number it gave last; `reads` are the lists of its members."""

    def __init__(self, worker, file, monkeypatch):
        self.worker, self.file, self.reads = worker, file, []
        monkeypatch.setattr(sampling, "_LOADAVG", file)
        monkeypatch.setattr(sampling, "descendants_of", lambda pid: self.reads.append(pid) or [])
        self.trees = sampling._Trees()

    def look(self, content):
        if content is not None:
            self.file.write_text(content)
        self.trees.begin_pass({self.worker.worker_id})
        return self.trees.most_bytes_of(self.worker)


@pytest.fixture
def trees(grower, tmp_path, monkeypatch):
    return Trees(a_worker(pid=grower.pid), tmp_path / "loadavg", monkeypatch)


@pytest.mark.parametrize("content", [None, "0.00 0.00 0.00 0/0 0\n", "nonsense\n"])
def test_where_the_system_does_not_number_its_processes_trees_are_read_at_every_look(trees, content):
    for _ in range(3):
        trees.look(content)
    assert len(trees.reads) == 3


def test_a_tree_is_read_again_when_the_system_has_made_a_process(trees):
    for last_pid in (41, 41, 41, 41, 42, 42, 42):
        assert trees.look(f"0.00 0.00 0.00 1/99 {last_pid}\n") > MIB
    assert len(trees.reads) == 4, "twice for each, because a number is given a moment before its process is to be seen"
    trees.trees.begin_pass(set())
    assert trees.trees._trees == {}


def test_a_tree_stays_known_while_others_are_looked_at(trees, grower, monkeypatch):
    trees.file.write_text("0.00 0.00 0.00 1/99 41\n")
    sampler = Sampler(Schedule(NO_PERIOD_S, NO_PERIOD_S, 1.0), list, lambda _: None)
    workers = [a_worker(number, pid=grower.pid, limit=1 << 40) for number in (1, 2)]
    monkeypatch.setattr(sampling, "sample_tree", lambda *_: None)
    for _ in range(4):
        for worker in workers:
            sampler._work([Look(worker, False, None, None, False)], workers)
    assert len(trees.reads) <= 4


def test_a_tree_that_cannot_be_read_is_looked_at_again_soon(trees, monkeypatch):
    def refuse(pid):
        raise psutil.AccessDenied(pid)

    # By way of the process table, as on a kernel without the files.
    monkeypatch.setattr(sampling, "descendants_of", proc.descendants_of)
    monkeypatch.setattr(proc, "_HAS_CHILDREN_FILES", False)
    monkeypatch.setattr(psutil, "Process", refuse)
    assert trees.trees.most_bytes_of(trees.worker) == 0


def test_a_worker_that_would_be_over_the_limit_by_estimated_figures_is_walked_first(monkeypatch):
    figures = {"held_bytes": 110 * MIB, "anon_bytes": 90 * MIB, "file_bytes": 40 * MIB}
    estimated, asked = Memory(1, 130 * MIB, 110 * MIB, None, None, **figures), []

    def sample(pid, last, gpu, sharers):
        asked.append(last)
        return Sample(estimated._replace(held_bytes=95 * MIB), True) if last is None else Sample(estimated, False)

    monkeypatch.setattr(sampling, "sample_tree", sample)
    look = Look(a_worker(pid=1, limit=100 * MIB), True, estimated, estimated, False)
    assert sampling._sample(look, None).memory.charge_bytes == 95 * MIB
    assert asked == [estimated, None]
