"""Threads: owners take turns in them, pools take what threads the system gives, and the host's yield for others."""

import _thread
import ctypes
import os
import platform
import struct
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from contextlib import ExitStack

import pytest
from helpers import eventually

from hostd.shell.linux import scheduling
from hostd.shell.linux.scheduling import give_way
from hostd.shell.repository.fingerprint import digesting
from hostd.shell.work import turns as module
from hostd.shell.work.threads import Threads, may_start
from hostd.shell.work.turns import MAX_WAITING, Turns
from hostd_workers.wire.errors import FailedPreconditionError, ResourceExhaustedError

PATIENCE_S = 60.0


@pytest.fixture
def pool_of():
    """Make a pool of so many threads."""
    with ExitStack() as stack:

        def make(count):
            turns = Turns(count, "turns")
            stack.callback(turns.shutdown, wait=True)
            return turns

        yield make


@pytest.fixture
def one(pool_of):
    return pool_of(1)


@pytest.fixture
def short(monkeypatch):
    """Every step is a slice."""
    monkeypatch.setattr(module, "SLICE_S", 1e-9)


class Endless:
    """Work that goes on until it is told to end, and counts its steps."""

    def __init__(self):
        self.steps = 0
        self.begun = threading.Event()
        self.end = threading.Event()
        self.is_closed = False

    def __call__(self):
        try:
            while not self.end.wait(0.001):
                self.steps += 1
                self.begun.set()
                yield
        finally:
            self.is_closed = True
        return self.steps


def test_small_work_does_not_wait_for_the_end_of_big_work(one):
    big = [Endless() for _ in range(3)]
    unfinished = [one.submit(f"big {number}", work) for number, work in enumerate(big)]
    for work in big:
        assert work.begun.wait(PATIENCE_S), "all that is big goes on"
    assert one.submit("small", lambda: 7).result(PATIENCE_S) == 7
    assert one.submit("big 0", lambda: 8).result(PATIENCE_S) == 8, "also for one that has big work as well"
    assert not any(future.done() for future in unfinished)
    for work in big:
        work.end.set()
    assert [future.result(PATIENCE_S) for future in unfinished] == [work.steps for work in big]


@pytest.mark.usefixtures("short")
def test_what_asks_for_much_is_served_no_more_than_what_asks_for_little(one):
    hog, other = [Endless() for _ in range(8)], Endless()
    futures = [one.submit(b"hog", work) for work in hog]
    futures.append(one.submit(b"other", other))
    while other.steps < 50:
        assert other.begun.wait(PATIENCE_S)
    steps = sum(work.steps for work in hog)
    for work in (*hog, other):
        work.end.set()
    wait(futures, PATIENCE_S)
    assert steps < 200, "a thread that takes turns by piece has 8 times as much"


def test_what_hangs_for_one_owner_leaves_threads_for_others(pool_of):
    release, running, four = threading.Event(), threading.Semaphore(0), pool_of(4)

    def hang():
        running.release()
        release.wait(PATIENCE_S)

    hung = [four.submit(b"hog", hang) for _ in range(10)]
    assert all(running.acquire(timeout=PATIENCE_S) for _ in range(2))
    for number in range(3):
        assert four.submit(b"client %d" % number, lambda: "done").result(PATIENCE_S) == "done"
    assert repr(four) == "<Turns of 1 owners, 2 running>"
    release.set()
    assert len(wait(hung, PATIENCE_S).done) == 10


def test_a_client_may_have_only_so_much_waiting_and_the_host_any_number(one):
    release, begun = threading.Event(), threading.Event()
    one.submit("host", lambda: begun.set() or release.wait(PATIENCE_S))
    assert begun.wait(PATIENCE_S)
    kept = [one.submit(b"client", int) for _ in range(MAX_WAITING)]
    with pytest.raises(ResourceExhaustedError, match="1024 requests of this client wait for a thread"):
        one.submit(b"client", int).result(0)
    others = [one.submit(b"another", int), *(one.submit("host", int) for _ in range(MAX_WAITING + 1))]
    release.set()
    assert len(wait([*kept, *others], PATIENCE_S).not_done) == 0


def test_what_nobody_waits_for_is_dropped(one):
    begun, waiting = Endless(), Endless()
    futures = [one.submit("a", begun)]
    assert begun.begun.wait(PATIENCE_S)
    futures.append(one.submit("b", threading.Event))
    for future in futures:
        future.cancel()
    with pytest.raises(TimeoutError, match="nobody waits"):
        futures[0].result(PATIENCE_S)
    assert begun.is_closed
    assert (waiting.steps, one.submit("c", int).result(PATIENCE_S)) == (0, 0)


def raise_stop():
    raise StopIteration("a finder's own")


def raise_late():
    yield
    raise OSError("the disk")


@pytest.mark.parametrize(
    ("work", "error", "match"),
    [(raise_stop, RuntimeError, "StopIteration"), (raise_late, OSError, "the disk")],
    ids=["at once", "in a step"],
)
def test_an_error_is_the_result_and_the_thread_goes_on(one, work, error, match):
    with pytest.raises(error, match=match):
        one.submit("a", work).result(PATIENCE_S)
    assert one.of("a").submit(abs, -3).result(PATIENCE_S) == 3


def test_the_end_drops_what_has_not_begun():
    turns, release, begun = Turns(1, "ends"), threading.Event(), threading.Event()
    running = turns.submit("a", lambda: begun.set() or release.wait(PATIENCE_S))
    assert begun.wait(PATIENCE_S)
    waiting = turns.submit("b", int)
    turns.shutdown()
    with pytest.raises(CancelledError):
        waiting.result(PATIENCE_S)
    release.set()
    assert running.result(PATIENCE_S)


def test_a_digest_pauses_between_pieces_and_keeps_no_file_open(tmp_path):
    import os

    def opened():
        links = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
        return [path for link in links if os.path.lexists(link) and str(tmp_path) in (path := os.readlink(link))]

    with (tmp_path / "big").open("wb") as file:
        file.truncate(40 << 20)
    for number in range(300):
        (tmp_path / str(number)).touch()
    pauses = 0
    for _ in digesting(tmp_path):
        pauses += 1
        assert opened() == []
    assert pauses >= 10 + 300 + 4


@pytest.fixture
def no_more(monkeypatch):
    """Have the system give no thread from now on."""

    def start(*_):
        raise RuntimeError("can't start new thread")

    def have_none():
        monkeypatch.setattr(threading.Thread, "start", start)
        monkeypatch.setattr(_thread, "start_new_thread", start)

    return have_none


def test_a_pool_does_all_its_work_with_the_threads_that_it_has_and_without_one_it_is_none(no_more):
    held, before = threading.Event(), len(os.listdir("/proc/self/task"))
    assert may_start(10)
    eventually(lambda: len(os.listdir("/proc/self/task")) == before, "the end of those that were tried")
    with Threads(4, "few") as pool:
        no_more()
        work = [pool.submit(held.wait), *(pool.submit(abs, -number) for number in range(5))]
        held.set()
        assert [done.result() for done in work] == [True, 0, 1, 2, 3, 4]
    with pytest.raises(FailedPreconditionError, match="24 threads"):
        Threads(4, "none")
    assert not may_start(1)


SCHED_GETATTR = {"x86_64": 315, "aarch64": 275}
SIZE = 48


def slice_ns():
    """Return the slice of the calling thread, 0 for the kernel's own."""
    buffer = ctypes.create_string_buffer(SIZE)
    ctypes.CDLL(None).syscall(SCHED_GETATTR[platform.machine()], 0, buffer, SIZE, 0)
    return int(struct.unpack("=IIQiIQQQ", buffer.raw)[5])


@pytest.mark.skipif(platform.machine() not in SCHED_GETATTR, reason="the number of the system call is not known here")
def test_a_thread_yields_alone_and_keeps_its_share(monkeypatch):
    def seen():
        return slice_ns(), os.getpriority(os.PRIO_PROCESS, 0)

    before = seen()
    with ThreadPoolExecutor(1) as executor:
        assert executor.submit(give_way).result()
        new_slice_ns, nice = executor.submit(seen).result()
    assert nice == before[1]
    if not new_slice_ns:
        pytest.skip("this kernel has no slices of single tasks")
    assert new_slice_ns > 10_000_000
    assert seen() == before, "the other threads are as they were"
    monkeypatch.setattr(scheduling, "_SCHED_SETATTR", {})
    assert give_way() is False, "where the call is not known nothing happens"
