"""Measured memory: of a whole tree, against what another witness measures."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest
from helpers import line_of, program, rss_of_tree, stop, tree_of, uss_of_tree

from hostd.core.events import Memory
from hostd.shell.linux.proc import descendants_of
from hostd.shell.memory import process as process_memory
from hostd.shell.memory import tree as memory
from hostd.shell.memory.process import brief_of

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
HOLDER = """
    import os, sys, time
    data = bytearray(b"x" * int(sys.argv[1]))
    if os.fork() == 0:
        own = bytearray(b"y" * int(sys.argv[2]))
        print("up", flush=True)
        time.sleep(3600)
    time.sleep(3600)
"""


@pytest.fixture
def tree() -> Iterator[int]:
    """A process that holds 64 MiB and a fork of it that shares them and holds 32 MiB more."""
    holder = program(HOLDER, 64 * MIB, 32 * MIB)
    assert line_of(holder) == "up"
    yield holder.pid
    for process in psutil.Process(holder.pid).children(recursive=True):
        process.kill()
    stop(holder)


def walked(pid: int) -> Memory:
    sample = memory.sample_tree(pid)
    assert sample is not None
    assert sample.is_walked
    return sample.memory


def test_the_figures_are_those_of_the_whole_tree(tree: int) -> None:
    sample = walked(tree)
    assert sample.processes == 2
    assert sample.rss_bytes == pytest.approx(rss_of_tree(tree), abs=MIB)
    assert sample.uss_bytes == pytest.approx(uss_of_tree(tree), abs=MIB)
    assert sample.rss_bytes > 160 * MIB, "shared pages count for each process"
    assert sample.uss_bytes < 60 * MIB, "shared pages are nobody's own"
    assert sample.uss_bytes < sample.pss_bytes < sample.rss_bytes
    assert sample.peak_bytes >= sample.rss_bytes
    assert sample.swap_bytes == sum(process.memory_full_info().swap for process in tree_of(tree))
    assert sample.gpu_bytes is None, "nobody was asked"


def test_where_the_kernel_sums_nothing_up_psutil_does(tree: int, monkeypatch: pytest.MonkeyPatch) -> None:
    direct = walked(tree)
    monkeypatch.setattr(process_memory, "_HAS_ROLLUP", False)
    by_psutil = walked(tree)
    for name in ("uss_bytes", "pss_bytes", "swap_bytes"):
        assert getattr(by_psutil, name) == pytest.approx(getattr(direct, name), abs=MIB), name
    assert process_memory.full_of(2**22) is None


def test_a_look_sees_every_process_it_is_asked_for(tree: int) -> None:
    whole = [process.pid for process in tree_of(tree)]
    own_bytes = sum(brief_of(pid).anon_bytes for pid in whole)
    assert memory.most_bytes_of(whole) == pytest.approx(own_bytes, abs=MIB), "what is shared counts for each process"
    assert memory.most_bytes_of([tree]) < memory.most_bytes_of(whole)
    assert memory.most_bytes_of([2**22]) == 0


def test_what_the_processes_of_a_tree_hold_on_devices_is_summed(tree: int) -> None:
    (child,) = [process.pid for process in psutil.Process(tree).children(recursive=True)]
    sample, _ = memory.sample_tree(tree, None, {tree: 5 * MIB, child: 7 * MIB, 1: MIB})
    assert sample.gpu_bytes == 12 * MIB
    assert memory.sample_tree(tree, sample, {tree: 5 * MIB, child: 7 * MIB}) == (sample, False)
    assert memory.sample_tree(tree, sample, {}) == (sample._replace(gpu_bytes=0), False), "the rest is not read again"
    assert memory.sample_tree(tree, sample, None).memory.gpu_bytes is None
    assert memory.sample_tree(tree, sample, {tree: 5 * MIB, child: None}).memory.gpu_bytes is None, "not all is known"


def test_what_a_kill_gives_back_includes_what_only_the_tree_itself_shares(tree: int) -> None:
    pids = [tree, *(process.pid for process in psutil.Process(tree).children(recursive=True))]
    own = [process.memory_full_info() for process in tree_of(tree)]
    shared_bytes = sum(info.pss - info.uss for info in own)
    held_bytes = memory.private_bytes_of(pids)
    assert held_bytes == pytest.approx(uss_of_tree(tree) + shared_bytes, abs=20 * MIB), "but for pages of libraries"
    assert held_bytes > uss_of_tree(tree) + 50 * MIB
    sample = walked(tree)
    assert sample.charge_bytes == pytest.approx(held_bytes + sample.swap_bytes, abs=MIB)
    assert memory.private_bytes_of([]) == 0


def test_what_a_kill_gives_back_of_a_process_alone_is_its_own(tree: int) -> None:
    (child,) = [process.pid for process in psutil.Process(tree).children(recursive=True)]
    uss_bytes = psutil.Process(child).memory_full_info().uss
    assert process_memory.full_of(child).uss_bytes == pytest.approx(uss_bytes, abs=MIB)


def test_a_sample_that_has_not_changed_is_not_taken_again(tree: int, monkeypatch: pytest.MonkeyPatch) -> None:
    last = walked(tree)

    def walk(pid: int) -> object:
        raise AssertionError("the page tables were walked for nothing")

    monkeypatch.setattr(memory, "full_of", walk)
    assert memory.sample_tree(tree, last) == (last, False)


def test_what_a_tree_would_give_back_is_known_from_a_sample_unless_it_has_changed(tree: int) -> None:
    last = walked(tree)
    pids = [tree, *descendants_of(tree)]
    told = last._replace(held_bytes=7)
    assert memory.private_bytes_of(pids, told) == 7
    measured = pytest.approx(last.held_bytes, abs=MIB)
    for other in (None, told._replace(processes=1), told._replace(rss_bytes=0), last._replace(held_bytes=None)):
        assert memory.private_bytes_of(pids, other) == measured


@pytest.mark.parametrize("change", [{"processes": 1}, {"rss_bytes": 0}])
def test_a_sample_that_has_changed_is_taken_again(tree: int, change: dict[str, int]) -> None:
    last = walked(tree)
    again = memory.sample_tree(tree, last._replace(uss_bytes=7, **change))
    assert again is not None
    assert again.is_walked
    assert again.memory.uss_bytes != 7


def test_nothing_is_measured_of_who_is_gone() -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as child:
        child.wait()
    assert memory.sample_tree(child.pid) is None
    assert memory.sample_tree(child.pid, Memory(1, 1, 1, 1, 1)) is None
    assert memory.most_bytes_of([child.pid]) == 0
    assert memory.private_bytes_of([child.pid, 2**22]) == 0


def test_a_zombie_holds_nothing() -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        sample = memory.sample_tree(child.pid)
        assert sample is None, "or it would be remembered that such a model needs nothing"
        assert memory.private_bytes_of([child.pid]) == 0
