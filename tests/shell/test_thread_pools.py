"""Pools where the system gives no more threads."""

import threading

import pytest

from hostd.shell.threads import Threads, may_start


@pytest.fixture
def no_more(monkeypatch):
    """Have the system give no thread from now on."""

    def start(_thread):
        raise RuntimeError("can't start new thread")

    return lambda: monkeypatch.setattr(threading.Thread, "start", start)


def test_a_pool_does_all_its_work_with_the_threads_that_it_has(no_more):
    held = threading.Event()
    with Threads(4, "few") as pool:
        no_more()
        work = [pool.submit(held.wait), *(pool.submit(abs, -number) for number in range(5))]
        held.set()
        assert [done.result() for done in work] == [True, 0, 1, 2, 3, 4]


def test_a_pool_without_a_thread_is_none(no_more):
    no_more()
    with pytest.raises(RuntimeError, match="new thread"):
        Threads(4, "none")
    assert not may_start(1)


def test_threads_that_were_tried_are_gone_again():
    before = threading.active_count()
    assert may_start(10)
    assert threading.active_count() == before
