"""Feeds: what a caller sends to a method while that runs, by both ways and both clients, and every end that this may have."""

import asyncio
import signal
import subprocess
import sys
import threading

import numpy as np
import psutil
import pytest
from helpers import PATIENCE_S, eventually
from models_rig import GATED

import hostd
from hostd_workers.wire.feeds import FEED_WINDOW

pytestmark = pytest.mark.usefixtures("way")

SOURCE = """
    import asyncio, os, pathlib, time

    class Model:
        def echo(self, x):
            return x
        def total(self, items, start=0):
            return start + sum(items)
        def double(self, items):
            for item in items:
                yield 2 * item
        def first(self, items):
            return next(items)
        def ask(self, questions):
            for question in questions:
                yield f"{question}?"
        def weigh(self, arrays):
            return [float(array.sum()) for array in arrays]
        def slow(self, items, gate):
            first = next(items)
            while not pathlib.Path(gate).exists():
                time.sleep(0.002)
            return first.nbytes + sum(item.nbytes for item in items)
        def die(self, items):
            next(items)
            os.kill(os.getpid(), 9)
        def note(self, items, path):
            try:
                return sum(items)
            except Exception as error:
                pathlib.Path(path).write_text(f"{type(error).__name__}: {error}")
                raise
            finally:
                with open(path, "a") as file:
                    file.write(" left")

        async def async_total(self, items, start=0):
            async for item in items:
                start += item
            return start
        async def async_double(self, items):
            async for item in items:
                yield 2 * item
        async def async_first(self, items):
            return await items.__anext__()
        async def async_note(self, items, path):
            try:
                async for item in items:
                    pass
            except Exception as error:
                pathlib.Path(path).write_text(f"{type(error).__name__}: {error}")
                raise
            finally:
                with open(path, "a") as file:
                    file.write(" left")
        async def linger(self, items, path):
            await items.__anext__()
            pathlib.Path(path).touch()
            try:
                await asyncio.Event().wait()
            finally:
                pathlib.Path(path).write_text(" left")
        async def async_die(self, items):
            await items.__anext__()
            os.kill(os.getpid(), 9)

    def load(path):
        return Model()
"""

PLAIN_SOURCE = SOURCE.split("\n        async def", 1)[0] + "\n\n    def load(path):\n        return Model()\n"
"""Without coroutine methods a worker has no asyncio loop."""


@pytest.fixture(params=["plain", "coroutines"])
def worker(request, shared, model_dir):
    """A model in a worker of each kind; the value is the model, and what its methods begin with."""
    is_plain = request.param == "plain"
    model = shared.load_model("fed", model_dir(PLAIN_SOURCE if is_plain else SOURCE))
    return Fed(known(model), "" if is_plain else "async_")


@pytest.fixture
def model(shared, model_dir):
    return known(shared.load_model("fed", model_dir(SOURCE)))


def known(model):
    """Return a model whose next call of whatever kind goes the way of the test."""
    assert model.submit.echo(1).result() == 1
    return model


class Fed:
    def __init__(self, model, prefix):
        self.model = model
        self.prefix = prefix

    def __getattr__(self, name):
        return getattr(self.model, self.prefix + name)

    def stream(self, name):
        return getattr(self.model.stream, self.prefix + name)


class Noted:
    """A generator that notes how far it went, and that it was closed."""

    def __init__(self, items):
        self.taken, self.closed = [], threading.Event()
        self.items = self._iterate(items)

    def _iterate(self, items):
        try:
            for item in items:
                self.taken.append(item)
                yield item
        finally:
            self.closed.set()


def asynchronously(host, do, model_id="fed"):
    """Run `do(model)` with a model of an asyncio client."""

    async def run():
        async with hostd.AsyncClient(host.endpoint) as client:
            return await do(await client.retrieve_model(model_id))

    return asyncio.run(run())


async def later(items):
    for item in items:
        await asyncio.sleep(0)
        yield item


def test_a_method_takes_what_its_caller_sends(worker):
    assert worker.total(hostd.Feed(range(5))) == 10
    assert worker.total(start=1, items=hostd.Feed(iter([2, 3]))) == 6
    assert worker.total(hostd.Feed([])) == 0


def test_ten_thousand_small_items_arrive_in_their_order(worker):
    assert worker.total(hostd.Feed(range(10_000))) == sum(range(10_000))
    assert list(worker.stream("double")(hostd.Feed(range(10_000)))) == list(range(0, 20_000, 2))


def test_an_asyncio_client_feeds_from_both_kinds_of_iterables(shared_host, worker):
    async def do(model):
        total, double = getattr(model, f"{worker.prefix}total"), getattr(model.stream, f"{worker.prefix}double")
        assert await total(hostd.Feed(range(10_000))) == sum(range(10_000))
        assert await total(hostd.Feed(later(range(100)))) == sum(range(100))
        assert [item async for item in double(hostd.Feed(later(range(300))))] == list(range(0, 600, 2))
        begun = getattr(model.submit, f"{worker.prefix}total")(hostd.Feed(later(range(10))))
        assert await model.echo("meanwhile") == "meanwhile"
        assert await begun == sum(range(10))

    asynchronously(shared_host, do)


def test_a_conversation_asks_for_each_item_when_the_model_does(model):
    said = []

    def questions():
        for n in range(5):
            assert len(said) == n, "the answer to the last one has come"
            yield f"why {n}"

    for answer in model.stream.ask(hostd.Feed(questions(), window=1)):
        said.append(answer)
    assert said == [f"why {n}?" for n in range(5)]


@pytest.mark.parametrize("mib", [0.5, 1.5, 16])
def test_arrays_travel_as_in_arguments_and_may_be_written_into_between(shared_host, model, mib):
    array = np.zeros(int(mib * (1 << 17)))
    expected = [float(n * array.size) for n in range(8)]

    def chunks():
        for n in range(8):
            array[:] = n
            yield array

    async def do(model):
        assert await model.weigh(hostd.Feed(chunks())) == expected

    assert model.weigh(hostd.Feed(chunks())) == expected
    asynchronously(shared_host, do)


def test_a_slow_model_holds_its_caller_back_and_memory_is_bounded(shared, model, tmp_path):
    noted = Noted(np.zeros(1 << 20, "u1") for _ in range(200))
    process = psutil.Process(shared.get_model("fed").workers[0].pid)
    before_bytes = process.memory_info().rss
    result = []
    thread = threading.Thread(target=lambda: result.append(model.slow(hostd.Feed(noted.items), str(tmp_path / "gate"))))
    thread.start()
    eventually(lambda: len(noted.taken) >= 4, "what may be ahead is")
    assert len(noted.taken) <= 6
    assert process.memory_info().rss - before_bytes < 64 << 20
    (tmp_path / "gate").touch()
    thread.join(PATIENCE_S)
    assert result == [200 << 20]


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


def test_what_a_model_yields_is_not_late_by_more_than_an_item(shared_host, model):
    with hostd.connect(shared_host.endpoint) as other:
        same = other.retrieve_model("fed")
        taken = []

        def chunks():
            for n in range(FEED_WINDOW):
                yield n
                same.echo(n)  # the worker has yielded what it made of the items before
                taken.append(n)

        with model.stream.double(hostd.Feed(chunks())) as items:
            assert next(items) == 0
            assert len(taken) <= FEED_WINDOW // 4


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


def test_other_calls_go_on_while_one_waits_for_its_input(worker):
    def asking():
        assert worker.model.echo("inside") == "inside"
        assert worker.total(hostd.Feed([1, 2])) == 3
        yield 4

    assert worker.total(hostd.Feed(asking())) == 4


def test_many_feeds_at_a_time_do_not_mix(shared_host, worker):
    async def do(model):
        total = getattr(model, f"{worker.prefix}total")
        totals = await asyncio.gather(*(total(hostd.Feed(later([n] * 200))) for n in range(20)))
        assert totals == [200 * n for n in range(20)]

    asynchronously(shared_host, do)


def test_where_nobody_would_iterate_a_feed_is_refused_and_nothing_is_consumed(shared_host, model):
    noted = Noted(range(3))
    feed = hostd.Feed(noted.items)
    for call in (
        lambda: model.submit.total(feed),
        lambda: list(model.map.total([feed])),
        lambda: list(model.map.total([[1]], start=feed)),
        lambda: model.total(feed, hostd.Feed([1])),
        lambda: model.total(hostd.Feed(later([1]))),
        lambda: hostd.Feed(1),
        lambda: hostd.Feed([], window=0),
    ):
        with pytest.raises(hostd.InvalidArgumentError):
            call()

    async def do(model):
        with pytest.raises(hostd.InvalidArgumentError):
            async for _ in model.map.total([feed]):
                pass

    asynchronously(shared_host, do)
    assert noted.taken == []
    assert model.total(feed) == 3


def test_a_refused_call_has_consumed_nothing(shared, model):
    noted = Noted(range(3))
    feed = hostd.Feed(noted.items)
    with pytest.raises(hostd.UnimplementedError):
        model.call("nothing_of_this_name", feed)
    with pytest.raises(hostd.InvalidArgumentError):
        model.total(feed, 1, 2, 3)
    shared.unload_model("fed")
    with pytest.raises(hostd.NotFoundError):
        model.total(feed)
    assert noted.taken == []
    assert hostd.Feed(noted.items).__repr__() == "<Feed of a generator, window 64>"
    noted.items.close()


def test_a_call_that_is_held_while_its_model_is_loaded_consumes_nothing_before(lazy, lazy_rig, pool):
    source = lazy_rig.source(GATED).replace(
        "def predict(self, x):", "def total(self, items):\n        return sum(items)\n\n    def predict(self, x):"
    )
    lazy_rig.add("held", GATED, files={"model.py": source})
    lazy.sync_local_models(load=False)
    noted = Noted(range(100))
    call = pool.submit(lambda: lazy.call("held", "total", (hostd.Feed(noted.items),), {}, PATIENCE_S))
    eventually(lambda: lazy_rig.loads("held"), "the call has its model loaded")
    assert noted.taken == []
    lazy_rig.let_go("held")
    assert call.result(PATIENCE_S) == sum(range(100))


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
