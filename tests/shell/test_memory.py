"""Measured memory: of a whole tree, against what another witness measures."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest
from helpers import line_of, program, rss_of_tree, stop, uss_of_tree

from hostd.core.events import Memory
from hostd.shell import memory

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


def test_the_figures_are_those_of_the_whole_tree(tree: int) -> None:
    sample = memory.sample_tree(tree)
    assert sample is not None
    assert sample.processes == 2
    assert sample.rss_bytes == pytest.approx(rss_of_tree(tree), abs=MIB)
    assert sample.uss_bytes == pytest.approx(uss_of_tree(tree), abs=MIB)
    assert sample.rss_bytes > 160 * MIB, "shared pages count for each process"
    assert sample.uss_bytes < 60 * MIB, "shared pages are nobody's own"
    assert sample.uss_bytes < sample.pss_bytes < sample.rss_bytes
    assert sample.peak_bytes >= sample.rss_bytes


def test_private_bytes_are_what_a_kill_gives_back(tree: int) -> None:
    pids = [process.pid for process in psutil.Process(tree).children(recursive=True)]
    assert memory.private_bytes_of([tree, *pids]) == pytest.approx(uss_of_tree(tree), abs=MIB)
    assert memory.private_bytes_of([]) == 0


def test_a_sample_that_has_not_changed_is_not_taken_again(tree: int, monkeypatch: pytest.MonkeyPatch) -> None:
    last = memory.sample_tree(tree)

    def walk(pid: int) -> tuple[int, int]:
        raise AssertionError("the page tables were walked for nothing")

    monkeypatch.setattr(memory, "_full_of", walk)
    assert memory.sample_tree(tree, last) is last


@pytest.mark.parametrize("change", [{"processes": 1}, {"rss_bytes": 0}])
def test_a_sample_that_has_changed_is_taken_again(tree: int, change: dict[str, int]) -> None:
    last = memory.sample_tree(tree)
    again = memory.sample_tree(tree, last._replace(uss_bytes=7, **change))
    assert again is not None
    assert again.uss_bytes != 7


def test_nothing_is_measured_of_who_is_gone() -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as child:
        child.wait()
    assert memory.sample_tree(child.pid) is None
    assert memory.sample_tree(child.pid, Memory(1, 1, 1, 1, 1)) is None
    assert memory.private_bytes_of([child.pid, 2**22]) == 0


def test_a_zombie_holds_nothing() -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        sample = memory.sample_tree(child.pid)
        assert sample is None or sample.rss_bytes == 0
        assert memory.private_bytes_of([child.pid]) == 0
