"""Memory of processes whose pages this user may not look at: who has changed its user, or is not to be dumped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from helpers import line_of
from strangers import needs_root, new_user, program_of

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
HELD_MIB = 64

SOURCE = """
    import ctypes, os, signal, sys
    from hostd.shell.memory.tree import private_bytes_of, sample_tree

    held_mib, is_alone = int(sys.argv[1]), sys.argv[2] == "alone"
    PR_SET_DUMPABLE = 4

    def hold(ready):
        held = bytearray(os.urandom(1 << 20) * held_mib)
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
        os.write(ready, b".")
        signal.pause()

    def start(work):
        read, write = os.pipe()
        if (pid := os.fork()) == 0:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
            work(write)
        os.read(read, 1)
        return pid

    def parent(ready):
        start(hold)
        os.write(ready, b".")
        signal.pause()

    pid = start(hold if is_alone else parent)
    memory = sample_tree(pid).memory
    pids = [pid, *map(int, open(f"/proc/{pid}/task/{pid}/children").read().split())]
    print(memory.charge_bytes, private_bytes_of(pids), memory.uss_bytes, flush=True)
    signal.pause()
"""


@pytest.fixture(params=["alone", "child"])
def told(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """What is charged, what a kill would give back, and USS, by the word of a user who is not root."""
    with program_of(new_user(), SOURCE, HELD_MIB, request.param) as program:
        yield line_of(program).split()


@needs_root
def test_it_is_charged_by_what_anybody_may_know(told: list[str]) -> None:
    charged_bytes, freed_bytes = map(int, told[:2])
    assert HELD_MIB * MIB < charged_bytes < (HELD_MIB + 40) * MIB
    assert freed_bytes == pytest.approx(charged_bytes, abs=2 * MIB)
    assert told[2] == "None", "which takes a walk"
