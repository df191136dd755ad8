"""What a forked worker is charged: what no other process has, whatever it shares with its template and within its tree."""

import os
import signal

import pytest
from helpers import descendants, line_of, program

from hostd.shell.memory.tree import private_bytes_of, sample_tree

MIB = 1 << 20
SLACK = 4 * MIB

FAMILY = r"""
    import mmap, os, sys, time
    inherited = bytearray(b"x") * (64 << 20)
    own, children = int(sys.argv[1]) << 20, int(sys.argv[2])
    pids = []
    for number in range(2):
        pid = os.fork()
        if not pid:
            mine = bytearray(b"y") * own
            shared = mmap.mmap(-1, 32 << 20)
            if number == 0 and len(sys.argv) > 3:
                shared.write(b"z" * (32 << 20))
            for _ in range(children):
                if not os.fork():
                    break
            os.write(1, b"ready\n")
            time.sleep(1000)
        pids.append(pid)
    os.write(1, " ".join(map(str, pids)).encode() + b"\n")
    time.sleep(1000)
"""


@pytest.fixture
def family():
    """Start a template with two workers; returns their numbers."""
    started = []

    def start(own, children, *how):
        process = program(FAMILY, own, children, *how)
        started.append(process)
        lines = [line_of(process) for _ in range(2 * (children + 1) + 1)]
        (pids,) = [line for line in lines if line != "ready"]
        return [int(pid) for pid in pids.split()]

    yield start
    for process in started:
        for pid in descendants(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait()
        process.stdout.close()


def charge_of(pid, sharers):
    return sample_tree(pid, sharers=sharers).memory.held_bytes


@pytest.mark.parametrize("own", [0, 20])
def test_a_forked_worker_is_charged_with_what_is_its_own(family, own):
    one, other = family(own, 0)
    for pid in (one, other):
        assert charge_of(pid, 2) == pytest.approx(own * MIB, abs=SLACK)
        assert private_bytes_of([pid], sharers=2) == pytest.approx(own * MIB, abs=SLACK)


def test_shared_memory_of_its_own_is_not_taken_for_its_templates(family):
    one, _ = family(10, 0, "shares")
    assert charge_of(one, 2) == pytest.approx(10 * MIB, abs=SLACK)


def test_what_its_own_children_share_with_it_is_its_own(family):
    one, _ = family(30, 2)
    memory = sample_tree(one, sharers=4).memory
    assert memory.processes == 3
    assert memory.held_bytes == pytest.approx(30 * MIB, abs=2 * SLACK)
