"""What each kind of page is charged, and what a kill gives back of it: real processes, and what the system has then."""

import ctypes
import fcntl
import os
import resource
import subprocess
import sys
import tempfile
import textwrap
import uuid
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from helpers import PATIENCE_S, REPOSITORY, descendants, eventually
from holding_rig import MIB, Holder
from strangers import needs_root

from hostd.core.events import WorkerId
from hostd.shell.memory import process as process_memory
from hostd.shell.memory import shared as shared_memory
from hostd.shell.memory import tree as memory
from hostd.shell.processes.spawner import Processes, WorkerProcess

HELD = 64 * MIB
SLACK = 4 * MIB
"""What an interpreter takes for a command, and loses again."""


def most_bytes(holder, kind):
    """Return what a look at it finds; all shared memory of the system is in it, which others have and give back."""
    around_bytes = shared_memory.system_bytes() if kind.is_shared else 0
    return memory.most_bytes_of([holder.pid]) + around_bytes


def kill(holder):
    """Have it killed as a worker is, and return what that is said to give back."""
    assert set(descendants()) <= {holder.pid, *(child.pid for child in psutil.Process(holder.pid).children())}
    freed_bytes, _ = Processes().end(WorkerProcess(WorkerId(1), holder.pid, os.pidfd_open(holder.pid), -1))
    return freed_bytes - holder.before.charge_bytes


@pytest.fixture(autouse=True)
def _alone():
    """These tests come one after the other, in several processes too: all shared memory of the system is added up."""
    with Path(tempfile.gettempdir(), f"hostd-test-of-shared-memory-{os.getuid()}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def shm():
    """Where a file in /dev/shm may be; it is removed."""
    path = Path("/dev/shm", f"hostd-test-{uuid.uuid4()}")
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture
def holder(tmp_path, shm, monkeypatch):
    """A process that holds memory; its segments of System V are removed afterwards, and nobody else's."""
    file = tmp_path / "weights"
    file.write_bytes(b"x" * HELD)
    monkeypatch.setenv("FILES", f"{file}:{shm}")
    made = Holder()
    yield made
    for segment in shared_memory._segments():
        if segment.creator == made.pid:
            ctypes.CDLL(None).shmctl(segment.number, 0, None)
    made.end()


class Kind(NamedTuple):
    """A kind of memory, how it comes to be held, and what it is in bytes: charged, and given back."""

    name: str
    how: str
    charged_bytes: int = HELD
    freed_bytes: int = HELD
    is_shared: bool = True


KINDS = [
    Kind("anonymous", "write(mapped(-1, ALONE))", is_shared=False),
    Kind("untouched", "read(mapped(-1, ALONE))", 0, 0, is_shared=False),
    Kind("sparse", "sparse()", is_shared=False),
    Kind("a file read", "read(mapped(os.open(FILE, os.O_RDONLY), PRIVATE, READ))", 0, 0, is_shared=False),
    Kind("a file read, shared", "read(mapped(os.open(FILE, os.O_RDONLY), SHARED, READ))", 0, 0, is_shared=False),
    Kind("a file copied", "write(mapped(os.open(FILE, os.O_RDWR), PRIVATE))", is_shared=False),
    Kind("a file written", "write(mapped(os.open(FILE, os.O_RDWR)))", 0, 0, is_shared=False),
    Kind("shared anonymous", "write(mapped(-1, SHARED | mmap.MAP_ANONYMOUS))"),
    Kind("memfd mapped", "write(mapped(sized(memfd())))"),
    Kind("memfd mapped and closed", "fd = sized(memfd()); ctypes.memset(behind(fd), 1, SIZE); os.close(fd)"),
    Kind("memfd written", "filled(memfd())"),
    Kind("unlinked mapped", "write(mapped(sized(unlinked())))"),
    Kind("unlinked written", "filled(unlinked())"),
    Kind("named mapped", "write(mapped(sized(named())))", HELD, 0),
    Kind("named written", "filled(named())", HELD, 0),
    Kind("segment attached", "segment()", HELD, 0),
    Kind("segment detached", "segment(is_attached=False)", HELD, 0),
    Kind("segment destroyed", "segment(is_destroyed=True)"),
]
HOW = {kind.name: kind.how for kind in KINDS}
WITH_CHILDREN = "pages = mapped(-1); write(pages); fork(lambda: write(pages)); fork(lambda: write(pages))"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_kind_of_memory_is_noticed_charged_and_given_back_as_it_is(holder, shm, kind):
    before_bytes = most_bytes(holder, kind)
    holder.tell(kind.how)
    assert most_bytes(holder, kind) - before_bytes >= kind.charged_bytes - SLACK
    estimated = holder.sample(holder.before)
    assert estimated.charge_bytes - holder.before.charge_bytes == pytest.approx(kind.charged_bytes, abs=SLACK)
    assert holder.charged_bytes() == pytest.approx(kind.charged_bytes, abs=SLACK)
    around_bytes = psutil.virtual_memory().shared
    assert kill(holder) == pytest.approx(kind.freed_bytes, abs=SLACK)
    if kind.is_shared and kind.freed_bytes:
        eventually(lambda: psutil.virtual_memory().shared < around_bytes - HELD + SLACK, "the system has it again")
    if kind.name.startswith("named"):
        assert shm.stat().st_blocks * 512 == HELD, "a file that stays is still there"


def test_the_files_that_a_model_was_loaded_from_are_not_its_own_on_a_tmpfs(holder, shm):
    shm.write_bytes(b"x" * HELD)
    holder.tell("read(mapped(os.open(SHM, os.O_RDONLY), SHARED, READ))")
    assert holder.charged_bytes() == pytest.approx(0, abs=SLACK)
    assert kill(holder) == pytest.approx(0, abs=SLACK)


@pytest.mark.parametrize("how", ["named()", "read(mapped(named())), os.close(3)"], ids=["open", "mapped"])
def test_shared_memory_that_was_there_before_a_load_is_found_though_there_is_not_more_of_it(holder, shm, how):
    shm.write_bytes(b"x" * HELD)
    quiet_bytes = shared_memory.system_bytes()
    holder.tell(how)
    assert memory.sample_tree(holder.pid, None, None, 0, quiet_bytes).memory.shared_bytes == HELD


def test_mappings_are_not_read_for_a_process_that_has_no_shared_memory(holder, monkeypatch):
    def look(*_):
        raise AssertionError("its mappings were read for nothing")

    with monkeypatch.context() as patch:
        patch.setattr(shared_memory._Scan, "_add_mapped", look)
        sample = memory.sample_tree(holder.pid, None, None, 0, shared_memory.system_bytes())
        assert (sample.memory.shared_bytes, sample.is_walked) == (0, True)
        with pytest.raises(AssertionError, match="for nothing"):
            memory.sample_tree(holder.pid, None, None, 0, shared_memory.system_bytes() - MIB)


def test_shared_memory_counts_once_for_a_tree(holder):
    holder.tell(WITH_CHILDREN)
    assert holder.sample().shared_bytes == HELD
    assert holder.charged_bytes() == pytest.approx(HELD, abs=6 * SLACK), "but for what its children have written"
    assert kill(holder) == pytest.approx(HELD, abs=6 * SLACK)


@needs_root
def test_a_segment_of_a_process_that_has_ended_is_not_charged_to_the_next_of_its_number():
    """In namespaces of its own, where the next number can be chosen (proc_sys_kernel(5), ns_last_pid)."""
    source = f"""
        import ctypes, os, signal, time
        from pathlib import Path
        from hostd.shell.memory.tree import sample_tree

        def child(work):
            if (pid := os.fork()) == 0:
                work()
                os._exit(0)
            return pid

        def make():
            libc = ctypes.CDLL(None)
            libc.shmat.restype = ctypes.c_void_p
            ctypes.memset(libc.shmat(libc.shmget(0, {HELD}, 0o1600), None, 0), 1, {HELD})

        maker = child(make)
        os.waitpid(maker, 0)
        time.sleep(2.1)  # the system tells of whole seconds
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(maker - 1))
        other = child(signal.pause)
        assert other == maker
        print(sample_tree(other).memory.shared_bytes, flush=True)
        os.kill(other, signal.SIGKILL)
    """
    command = ["unshare", "--ipc", "--pid", "--fork", "--mount-proc", sys.executable, "-c", textwrap.dedent(source)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert said.stdout == "0\n", said.stderr


@pytest.mark.parametrize("name", ["memfd written", "memfd mapped", "unlinked written"])
def test_what_somebody_else_holds_too_is_charged_and_not_given_back(holder, name):
    holder.tell(HOW[name])
    (file,) = shared_memory.files_of([holder.pid]).values()
    fd = os.open(file.path, os.O_RDONLY)
    try:
        assert holder.charged_bytes() == pytest.approx(HELD, abs=SLACK)
        assert kill(holder) == pytest.approx(0, abs=SLACK)
        assert os.fstat(fd).st_blocks * 512 == HELD
    finally:
        os.close(fd)


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] < HELD and os.geteuid() != 0, reason="it may not lock so much"
)
def test_a_file_that_is_locked_is_charged(holder):
    holder.tell("assert 0 == libc.mlock(behind(os.open(FILE, os.O_RDONLY), READ), SIZE)")
    assert holder.charged_bytes() == pytest.approx(HELD, abs=2 * SLACK), "less what it has of other memory"


def test_a_process_is_seen_when_its_first_thread_has_ended(holder):
    holder.tell("by_another_thread()")
    assert process_memory.rss_of(holder.pid) == 0
    assert memory.most_bytes_of([holder.pid]) > HELD
    assert holder.charged_bytes() == pytest.approx(HELD, abs=SLACK)
    assert kill(holder) == pytest.approx(HELD, abs=SLACK)


def test_shared_memory_that_may_not_be_looked_at_counts_as_far_as_it_is_mapped(holder, monkeypatch):
    """Without CAP_CHECKPOINT_RESTORE nobody may look at what is behind a mapping."""
    look = shared_memory._look_at

    def refused(path, *directory):
        return None if "map_files" in path else look(path, *directory)

    monkeypatch.setattr(shared_memory, "_look_at", refused)
    holder.tell(HOW["memfd written"])
    holder.tell(WITH_CHILDREN)
    holder.tell(HOW["memfd mapped and closed"])
    assert holder.sample().shared_bytes == pytest.approx(3 * HELD, abs=MIB), "parts of pages are rounded"
    assert kill(holder) == pytest.approx(3 * HELD, abs=6 * SLACK)


def test_only_some_files_are_opened_to_learn_what_holds_them(holder, monkeypatch):
    monkeypatch.setattr(shared_memory, "_MOST_OPENED", 1)
    for _ in range(3):
        holder.tell(HOW["memfd written"])
    with shared_memory.Held([holder.pid]) as held:
        assert len(held._open) == 1
        assert held.let_go() == 2 * HELD, "of the one that was opened it is known that it is held"
    assert kill(holder) == pytest.approx(3 * HELD, abs=SLACK)


def test_a_process_that_is_gone_holds_nothing():
    assert shared_memory.shared_bytes_of([2**22]) == 0
    with shared_memory.Held([2**22]) as held:
        assert held.let_go() == 0
