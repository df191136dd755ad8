"""Every end that a call with a feed may have, by both ways and both clients: both sides hear of it."""

import asyncio
import signal
import subprocess
import sys
import threading

import pytest
from feed_rig import KINDS, Noted, asynchronously, later, started
from helpers import PATIENCE_S, eventually

import hostd
from hostd_workers.wire.feeds import FEED_WINDOW

pytestmark = pytest.mark.usefixtures("way")


@pytest.fixture(params=KINDS)
def worker(request, shared, model_dir):
    return started(shared, model_dir, request.param)


@pytest.fixture
def model(shared, model_dir):
    return started(shared, model_dir, "coroutines").model


def test_what_the_iterable_raises_is_raised_and_the_model_hears_of_it(worker, tmp_path):
    class MyError(Exception):
        pass

    mine = MyError("no more tape")

    def breaking():
        yield from range(3)
        raise mine

    path = tmp_path / "seen"
    with pytest.raises(MyError) as caught:
        worker.note(hostd.Feed(breaking()), str(path))
    assert caught.value is mine
    seen = "AbortedError: the caller's input failed: MyError: no more tape left"
    eventually(lambda: path.exists() and path.read_text() == seen, "the model has seen it")
    with pytest.raises(MyError):
        list(worker.stream("double")(hostd.Feed(breaking())))
    assert worker.total(hostd.Feed(range(3))) == 3


def test_what_the_iterable_raises_is_raised_by_an_asyncio_client(shared_host, worker):
    mine = KeyError("mine")

    async def breaking():
        yield 1
        raise mine

    async def do(model):
        with pytest.raises(KeyError) as caught:
            await getattr(model, f"{worker.prefix}total")(hostd.Feed(breaking()))
        assert caught.value is mine
        with pytest.raises(KeyError):
            async for _ in getattr(model.stream, f"{worker.prefix}double")(hostd.Feed(breaking())):
                pass

    asynchronously(shared_host, do)


def test_an_item_that_cannot_travel_ends_the_call_with_what_is_wrong(worker):
    with pytest.raises(hostd.InvalidArgumentError, match="set"):
        worker.total(hostd.Feed([1, {2}]))


def test_a_model_may_stop_early_and_the_iterable_is_closed_not_drained(worker):
    noted = Noted(range(10**9))
    assert worker.first(hostd.Feed(noted.items)) == 0
    assert noted.closed.is_set()
    assert len(noted.taken) <= FEED_WINDOW


def test_a_model_may_stop_early_with_an_asyncio_client(shared_host, worker):
    closed = []

    async def endless():
        try:
            n = 0
            while True:
                yield n
                n += 1
                if n > 3:
                    await asyncio.Event().wait()
        finally:
            closed.append(True)

    async def ready():
        try:
            async for item in later(range(10**9)):
                yield item
        finally:
            closed.append("too")

    async def do(model):
        first = getattr(model, f"{worker.prefix}first")
        assert await first(hostd.Feed(endless())) == 0
        assert closed == [True]
        assert await first(hostd.Feed(ready())) == 0
        assert closed == [True, "too"]

    asynchronously(shared_host, do)


def test_a_consumer_that_leaves_closes_its_feed(worker):
    noted = Noted(range(10**9))
    with worker.stream("double")(hostd.Feed(noted.items)) as items:
        assert next(items) == 0
    assert noted.closed.is_set()
    assert worker.total(hostd.Feed([1])) == 1


def test_a_cancel_ends_both_sides(shared_host, worker, tmp_path):
    path, closed = tmp_path / "seen", []

    async def do(model):
        asked = asyncio.Event()

        async def waiting():
            try:
                yield 1
                asked.set()
                await asyncio.Event().wait()
            finally:
                closed.append(True)

        call = asyncio.ensure_future(getattr(model, f"{worker.prefix}note")(hostd.Feed(waiting()), str(path)))
        await asyncio.wait_for(asked.wait(), PATIENCE_S)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert closed == [True]

    asynchronously(shared_host, do)
    eventually(lambda: path.exists() and path.read_text().endswith(" left"), "the method has ended, too")


def test_an_interrupt_of_the_wait_ends_both_sides(model, tmp_path):
    path, noted = tmp_path / "seen", Noted([1, 2])

    class InterruptedByTestError(Exception):
        pass

    def interrupt(*_):
        raise InterruptedByTestError

    def when_it_waits():
        eventually(path.exists, "the method waits for something else")
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    thread = threading.Thread(target=when_it_waits)
    thread.start()
    try:
        with pytest.raises(InterruptedByTestError):
            model.linger(hostd.Feed(noted.items, window=1), str(path))
    finally:
        thread.join(PATIENCE_S)
        signal.signal(signal.SIGUSR1, before)
    assert noted.closed.is_set()
    eventually(lambda: path.read_text().endswith(" left"), "the method has ended, too")


def test_a_deadline_ends_a_call_whose_input_does_not_come(worker, tmp_path):
    path = tmp_path / "seen"
    halted = threading.Event()

    def halting():
        yield 1
        halted.wait(0.3)
        yield 2

    model = worker.model.options(timeout_s=0.1)
    with pytest.raises(hostd.DeadlineExceededError):
        getattr(model, f"{worker.prefix}note")(hostd.Feed(halting()), str(path))
    eventually(lambda: path.exists() and path.read_text().endswith(" left"), "the method has ended, too")


def test_the_death_of_a_worker_ends_the_call_and_closes_the_iterable(worker):
    noted = Noted(range(10**9))
    with pytest.raises(hostd.UnavailableError, match="SIGKILL"):
        worker.die(hostd.Feed(noted.items))
    assert noted.closed.is_set()


def test_the_death_of_a_client_ends_its_calls(shared_host, worker, tmp_path):
    path = tmp_path / "seen"
    program = f"""
import hostd, os
def halting():
    yield 1
    os.kill(os.getpid(), {int(signal.SIGKILL)})
model = hostd.connect({shared_host.endpoint!r}).retrieve_model("fed")
model.{worker.prefix}note(hostd.Feed(halting()), {str(path)!r})
"""
    died = subprocess.run([sys.executable, "-c", program], timeout=PATIENCE_S, check=False)
    assert died.returncode == -signal.SIGKILL
    eventually(lambda: path.exists() and path.read_text().endswith(" left"), "the method has ended, too")


def test_an_unload_waits_for_a_call_that_is_being_fed(shared, worker, pool):
    begun, go_on = threading.Event(), threading.Event()

    def chunks():
        yield 1
        begun.set()
        assert go_on.wait(PATIENCE_S)
        yield from range(1000)

    call = pool.submit(lambda: worker.total(hostd.Feed(chunks())))
    assert begun.wait(PATIENCE_S)
    with hostd.connect(shared.endpoint) as other:
        unload = pool.submit(other.unload_model, "fed")
        eventually(lambda: other.get_model("fed").state == "UNLOADING", "the model drains")
        go_on.set()
        assert call.result(PATIENCE_S) == 1 + sum(range(1000))
        assert unload.result(PATIENCE_S).processes >= 1


def test_an_unload_at_once_ends_a_call_that_is_being_fed(shared, worker, pool):
    noted = Noted([1])

    def chunks():
        yield from noted.items
        with hostd.connect(shared.endpoint) as other:
            other.unload_model("fed", now=True)
        yield from range(10**9)

    call = pool.submit(lambda: worker.total(hostd.Feed(chunks())))
    with pytest.raises((hostd.AbortedError, hostd.UnavailableError)):
        call.result(PATIENCE_S)
    assert noted.closed.is_set()
