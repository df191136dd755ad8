"""`model.map`: many inputs through one model, in order, a window of calls in flight."""

import asyncio
import itertools

import pytest
from helpers import eventually

import hostd
from hostd.client.arguments import MAP_WINDOW

pytestmark = pytest.mark.usefixtures("way")

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


def test_results_come_in_the_order_of_the_inputs_and_no_more_than_a_window_is_begun(shared, model_dir):
    model = shared.load_model("doubler", model_dir(SOURCE))
    inputs = itertools.count()
    results = model.map.double(inputs)
    assert list(itertools.islice(results, 10)) == [2 * n for n in range(10)]
    results.close()
    assert next(inputs) <= 10 + MAP_WINDOW
    eventually(lambda: model.info.workers[0].in_flight == 0, "the calls that were begun are withdrawn")
    before = model.count()
    assert list(model.map.double([])) == []
    assert model.count() == before
    assert list(model.map.double(range(1000))) == [2 * n for n in range(1000)]
    assert list(model.map.double([1, 2], plus=5)) == [7, 9]
    mixed = [b"x" * size for size in (1, 5000, 100_000, 2, 2_000_000, 3, 4)]
    assert list(model.map.double(mixed)) == mixed


def test_the_first_error_ends_it_and_the_model_goes_on_in_asyncio_too(shared, model_dir):
    model = shared.load_model("doubler", model_dir(SOURCE))
    results = model.map.double([1, 2, "bad", 4])
    assert [next(results), next(results)] == [2, 4]
    with pytest.raises(hostd.ModelError, match="a bad input"):
        next(results)
    assert list(results) == []
    for arguments in ((), (1,), ([1], [2])):
        with pytest.raises(hostd.InvalidArgumentError, match="one iterable"):
            list(model.map.double(*arguments))

    async def use():
        async with hostd.AsyncClient(shared.endpoint) as client:
            handle = await client.retrieve_model("doubler")
            doubled = [x async for x in handle.map.double(range(300))]
            with pytest.raises(hostd.ModelError):
                [x async for x in handle.map.double([1, "bad", 3])]
            return doubled

    assert asyncio.run(use()) == [2 * n for n in range(300)]
