"""Feeds: what a caller sends to a method while that runs, by both ways and both clients."""

import asyncio
import threading

import numpy as np
import psutil
import pytest
from feed_rig import KINDS, Noted, asynchronously, later, started
from helpers import PATIENCE_S, eventually
from models_rig import GATED

import hostd
from hostd_workers.wire.feeds import FEED_WINDOW

pytestmark = pytest.mark.usefixtures("way")


@pytest.fixture(params=KINDS)
def worker(request, shared, model_dir):
    return started(shared, model_dir, request.param)


@pytest.fixture
def model(shared, model_dir):
    return started(shared, model_dir, "coroutines").model


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
