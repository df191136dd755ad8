"""What each kind of page is charged, and what a kill gives back of it: real processes, and what the system has then."""

from __future__ import annotations

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
from typing import TYPE_CHECKING, NamedTuple

import psutil
import pytest
from helpers import PATIENCE_S, REPOSITORY, Told, descendants, eventually, stop
from strangers import needs_root

from hostd.core.events import Memory, WorkerId
from hostd.shell.memory import process as process_memory
from hostd.shell.memory import shared as shared_memory
from hostd.shell.memory import tree as memory
from hostd.shell.processes.spawner import Processes, WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
HELD = 64 * MIB
SLACK = 4 * MIB
"""What an interpreter takes for a command, and loses again."""

SHM = Path("/dev/shm")

HOLDER = """
    import ctypes, mmap, os, signal, sys, threading
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    libc.mmap.restype = ctypes.c_void_p
    libc.mlock.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    SIZE, CHUNK = 64 << 20, b"x" * (1 << 20)
    FILE, SHM = os.environ["FILES"].split(":")
    READ, WRITE, PRIVATE, SHARED = mmap.PROT_READ, mmap.PROT_WRITE, mmap.MAP_PRIVATE, mmap.MAP_SHARED
    held = []

    def mapped(fd, flags=SHARED, access=READ | WRITE):
        held.append(mmap.mmap(fd, SIZE, flags, access))
        return held[-1]

    def filled(fd):
        for _ in range(SIZE // len(CHUNK)):
            os.write(fd, CHUNK)
        return fd

    def write(pages):
        for at in range(0, SIZE, len(CHUNK)):
            pages[at : at + len(CHUNK)] = CHUNK

    def read(pages):
        pages[::4096]

    def memfd():
        return os.memfd_create("held")

    def unlinked():
        fd = os.open(SHM, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        os.unlink(SHM)
        return fd

    def named():
        return os.open(SHM, os.O_RDWR | os.O_CREAT)

    def sized(fd):
        os.ftruncate(fd, SIZE)
        return fd

    def segment(is_destroyed, is_attached=True):
        number = libc.shmget(0, SIZE, 0o1600)
        address = libc.shmat(number, None, 0)
        ctypes.memset(address, 1, SIZE)
        if is_destroyed:
            libc.shmctl(number, 0, None)
        if not is_attached:
            libc.shmdt(ctypes.c_void_p(address))

    def anonymous():
        write(mapped(-1, PRIVATE | mmap.MAP_ANONYMOUS))

    def untouched():
        read(mapped(-1, PRIVATE | mmap.MAP_ANONYMOUS))

    def sparse():  # a page of tables for each page that is read, and none of memory
        far = mmap.mmap(-1, 32 << 30, PRIVATE | mmap.MAP_ANONYMOUS | 0x4000, READ)  # MAP_NORESERVE
        held.append(far)
        far[:: 2 << 20]

    def file_read():
        read(mapped(os.open(FILE, os.O_RDONLY), PRIVATE, READ))

    def file_read_shared():
        read(mapped(os.open(FILE, os.O_RDONLY), SHARED, READ))

    def file_copied():
        write(mapped(os.open(FILE, os.O_RDWR), PRIVATE))

    def file_written():
        write(mapped(os.open(FILE, os.O_RDWR)))

    def file_locked():
        fd = os.open(FILE, os.O_RDONLY)
        address = libc.mmap(None, SIZE, READ, SHARED, fd, 0)
        assert libc.mlock(address, SIZE) == 0

    def shared_anonymous():
        write(mapped(-1, SHARED | mmap.MAP_ANONYMOUS))

    def shared_with_children():
        pages = mapped(-1, SHARED | mmap.MAP_ANONYMOUS)
        write(pages)
        for _ in range(2):
            ready, done = os.pipe()
            if os.fork() == 0:
                write(pages)
                os.write(done, b"1")
                signal.pause()
            os.read(ready, 1)

    def memfd_mapped():
        write(mapped(sized(memfd())))

    def memfd_mapped_and_closed():
        fd = sized(memfd())
        address = libc.mmap(None, SIZE, READ | WRITE, SHARED, fd, 0)
        ctypes.memset(address, 1, SIZE)
        os.close(fd)

    def memfd_written():
        filled(memfd())

    def unlinked_mapped():
        write(mapped(sized(unlinked())))

    def unlinked_written():
        filled(unlinked())

    def named_mapped():
        write(mapped(sized(named())))

    def named_written():
        filled(named())

    def named_read():
        read(mapped(os.open(SHM, os.O_RDONLY), SHARED, READ))

    def segment_attached():
        segment(is_destroyed=False)

    def segment_detached():
        segment(is_destroyed=False, is_attached=False)

    def segment_destroyed():
        segment(is_destroyed=True)

    def by_another_thread():
        is_done = threading.Event()

        def work():
            anonymous()
            for thread in os.listdir("/proc/self/task"):
                while thread == str(os.getpid()) and "zombie" not in open(f"/proc/self/task/{thread}/status").read():
                    pass
            print("done", flush=True)
            threading.Event().wait()

        threading.Thread(target=work).start()
        libc.syscall(60, 0)  # exit(2), of this thread alone

    print("up", flush=True)
    for line in sys.stdin:
        globals()[line.strip()]()
        print("done", flush=True)
"""


class Holder(Told):
    """A process that holds memory of the kind that it is told."""

    def __init__(self, file: Path, shm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FILES", f"{file}:{shm}")
        super().__init__(HOLDER)
        self.before = self.sample()

    def sample(self, last: Memory | None = None) -> Memory:
        sample = memory.sample_tree(self.pid, last)
        assert sample is not None
        return sample.memory

    def most_bytes(self) -> int:
        """Return what a look at it finds."""
        return memory.most_bytes_of([self.pid]) + shared_memory.system_bytes()

    def charged_bytes(self) -> int:
        return self.sample().charge_bytes - self.before.charge_bytes

    def kill(self) -> int:
        """Have it killed as a worker is, and return what that is said to give back."""
        assert set(descendants()) <= {self.pid, *(child.pid for child in psutil.Process(self.pid).children())}
        freed_bytes, _ = Processes().end(WorkerProcess(WorkerId(1), self.pid, os.pidfd_open(self.pid), -1))
        return freed_bytes - self.before.charge_bytes

    def end(self) -> None:
        if psutil.pid_exists(self.pid):
            super().end()
        else:
            stop(self._process)


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    """These tests come one after the other, in several processes too: all shared memory of the system is added up."""
    with Path(tempfile.gettempdir(), f"hostd-test-of-shared-memory-{os.getuid()}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def shm() -> Iterator[Path]:
    """Where a file in /dev/shm may be; it is removed."""
    path = SHM / f"hostd-test-{uuid.uuid4()}"
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture
def holder(tmp_path: Path, shm: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Holder]:
    file = tmp_path / "weights"
    file.write_bytes(b"x" * HELD)
    made = Holder(file, shm, monkeypatch)
    yield made
    made.end()


@pytest.fixture
def segments(holder: Holder) -> Iterator[None]:
    """The holder's segments of System V are removed afterwards, and nobody else's."""
    yield
    for segment in shared_memory._segments():
        if segment.creator == holder.pid:
            ctypes.CDLL(None).shmctl(segment.number, 0, None)


class Kind(NamedTuple):
    """A kind of memory, and what it is in bytes: charged, and given back."""

    name: str
    charged_bytes: int
    freed_bytes: int
    is_shared: bool = False


KINDS = [
    Kind("anonymous", HELD, HELD),
    Kind("untouched", 0, 0),
    Kind("sparse", HELD, HELD),
    Kind("file_read", 0, 0),
    Kind("file_read_shared", 0, 0),
    Kind("file_copied", HELD, HELD),
    Kind("file_written", 0, 0),
    Kind("shared_anonymous", HELD, HELD, is_shared=True),
    Kind("memfd_mapped", HELD, HELD, is_shared=True),
    Kind("memfd_mapped_and_closed", HELD, HELD, is_shared=True),
    Kind("memfd_written", HELD, HELD, is_shared=True),
    Kind("unlinked_mapped", HELD, HELD, is_shared=True),
    Kind("unlinked_written", HELD, HELD, is_shared=True),
    Kind("named_mapped", HELD, 0, is_shared=True),
    Kind("named_written", HELD, 0, is_shared=True),
    Kind("segment_attached", HELD, 0, is_shared=True),
    Kind("segment_detached", HELD, 0, is_shared=True),
    Kind("segment_destroyed", HELD, HELD, is_shared=True),
]


@pytest.mark.usefixtures("segments")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_kind_of_memory_is_noticed_charged_and_given_back_as_it_is(holder: Holder, kind: Kind) -> None:
    before_bytes = holder.most_bytes()
    holder.tell(kind.name)
    assert holder.most_bytes() - before_bytes >= kind.charged_bytes - SLACK
    estimated = holder.sample(holder.before)
    assert estimated.charge_bytes - holder.before.charge_bytes == pytest.approx(kind.charged_bytes, abs=SLACK)
    assert holder.charged_bytes() == pytest.approx(kind.charged_bytes, abs=SLACK)
    around_bytes = psutil.virtual_memory().shared
    assert holder.kill() == pytest.approx(kind.freed_bytes, abs=SLACK)
    if kind.is_shared and kind.freed_bytes:
        eventually(lambda: psutil.virtual_memory().shared < around_bytes - HELD + SLACK, "the system has it again")


def test_a_file_that_stays_is_still_there(holder: Holder, shm: Path) -> None:
    holder.tell("named_mapped")
    assert holder.kill() == pytest.approx(0, abs=SLACK)
    assert shm.stat().st_blocks * 512 == HELD


def test_the_files_that_a_model_was_loaded_from_are_not_its_own_on_a_tmpfs(holder: Holder, shm: Path) -> None:
    shm.write_bytes(b"x" * HELD)
    holder.tell("named_read")
    assert holder.charged_bytes() == pytest.approx(0, abs=SLACK)
    assert holder.kill() == pytest.approx(0, abs=SLACK)


def test_shared_memory_counts_once_for_a_tree(holder: Holder) -> None:
    holder.tell("shared_with_children")
    assert holder.sample().shared_bytes == HELD
    assert holder.charged_bytes() == pytest.approx(HELD, abs=6 * SLACK), "but for what its children have written"
    assert holder.kill() == pytest.approx(HELD, abs=6 * SLACK)


@needs_root
def test_a_segment_of_a_process_that_has_ended_is_not_charged_to_the_next_of_its_number() -> None:
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


@pytest.mark.parametrize("name", ["memfd_written", "memfd_mapped", "unlinked_written"])
def test_what_somebody_else_holds_too_is_charged_and_not_given_back(holder: Holder, name: str) -> None:
    holder.tell(name)
    (file,) = shared_memory.files_of([holder.pid]).values()
    fd = os.open(file.path, os.O_RDONLY)
    try:
        assert holder.charged_bytes() == pytest.approx(HELD, abs=SLACK)
        assert holder.kill() == pytest.approx(0, abs=SLACK)
        assert os.fstat(fd).st_blocks * 512 == HELD
    finally:
        os.close(fd)


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] < HELD and os.geteuid() != 0, reason="it may not lock so much"
)
def test_a_file_that_is_locked_is_charged(holder: Holder) -> None:
    holder.tell("file_locked")
    assert holder.charged_bytes() == pytest.approx(HELD, abs=2 * SLACK), "less what it has of other memory"


def test_a_process_whose_first_thread_has_ended_is_seen_all_the_same(holder: Holder) -> None:
    holder.tell("by_another_thread")
    assert process_memory.rss_of(holder.pid) == 0
    assert memory.most_bytes_of([holder.pid]) > HELD
    assert holder.charged_bytes() == pytest.approx(HELD, abs=SLACK)
    assert holder.kill() == pytest.approx(HELD, abs=SLACK)


def test_shared_memory_that_may_not_be_looked_at_counts_as_far_as_it_is_mapped(
    holder: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without CAP_CHECKPOINT_RESTORE nobody may look at what is behind a mapping."""
    look = shared_memory._look_at

    def refused(path: str, *directory: int) -> object:
        return None if "map_files" in path else look(path, *directory)

    monkeypatch.setattr(shared_memory, "_look_at", refused)
    holder.tell("memfd_written")
    holder.tell("shared_with_children")
    holder.tell("memfd_mapped_and_closed")
    assert holder.sample().shared_bytes == pytest.approx(3 * HELD, abs=MIB), "parts of pages are rounded"
    assert holder.kill() == pytest.approx(3 * HELD, abs=6 * SLACK)


def test_only_some_files_are_opened_to_learn_who_holds_them(holder: Holder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory, "_MOST_OPENED", 1)
    for _ in range(3):
        holder.tell("memfd_written")
    with shared_memory.Held([holder.pid]) as held:
        assert len(held._open) == 1
        assert held.let_go() == 2 * HELD, "of the one that was opened it is known that it is held"
    assert holder.kill() == pytest.approx(3 * HELD, abs=SLACK)


def test_nothing_is_held_by_whoever_is_gone() -> None:
    assert shared_memory.shared_bytes_of([2**22]) == 0
    with shared_memory.Held([2**22]) as held:
        assert held.let_go() == 0
