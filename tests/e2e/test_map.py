"""`model.map`: many inputs through one model, in order, a window of calls in flight."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from helpers import eventually

import hostd

SOURCE = """
    class Model:
        def __init__(self):
            self.seen = 0

        def double(self, x, plus=0):
            self.seen += 1
            if x == "bad":
                raise ValueError("a bad input")
            return 2 * x + plus if not isinstance(x, bytes) else x

        def count(self):
            return self.seen

    def load(path):
        return Model()
"""


@pytest.fixture
def model(client, model_dir):
    return client.load_model("doubler", model_dir(SOURCE))


def test_results_come_in_the_order_of_the_inputs(model):
    assert list(model.map.double(range(1000))) == [2 * n for n in range(1000)]


def test_keywords_are_the_same_for_each_call(model):
    assert list(model.map.double([1, 2], plus=5)) == [7, 9]


def test_no_inputs_are_no_calls(model):
    assert list(model.map.double([])) == []
    assert model.count() == 0


def test_an_endless_iterable_is_taken_no_further_than_the_window(model):
    inputs = itertools.count()
    results = model.map.double(inputs)

    assert list(itertools.islice(results, 10)) == [2 * n for n in range(10)]
    results.close()
    assert next(inputs) <= 10 + hostd.client._sync.client.MAP_WINDOW


def test_the_first_error_ends_it_and_the_model_goes_on(model):
    results = model.map.double([1, 2, "bad", 4])

    assert [next(results), next(results)] == [2, 4]
    with pytest.raises(hostd.ModelError, match="a bad input"):
        next(results)
    assert list(results) == []
    assert model.double(4) == 8


def test_what_is_left_early_is_cancelled(model):
    results = model.map.double(range(100))
    next(results)
    results.close()

    eventually(lambda: model.info.workers[0].in_flight == 0, "the calls that were begun are withdrawn")
    assert model.double(1) == 2


def test_big_and_small_inputs_mix(model):
    inputs = [b"x" * size for size in (1, 5000, 100_000, 2, 2_000_000, 3, 4)]

    assert list(model.map.double(inputs)) == inputs


@pytest.mark.parametrize("arguments", [(), (1,), ([1], [2])])
def test_anything_but_one_iterable_is_refused(model, arguments):
    with pytest.raises(hostd.InvalidArgumentError, match="one iterable"):
        list(model.map.double(*arguments))


def test_asyncio_has_it_too(model, host):
    async def use():
        async with hostd.AsyncClient(host.endpoint) as client:
            handle = await client.retrieve_model("doubler")
            doubled = [x async for x in handle.map.double(range(300))]
            with pytest.raises(hostd.ModelError):
                [x async for x in handle.map.double([1, "bad", 3])]
            return doubled

    assert asyncio.run(use()) == [2 * n for n in range(300)]
