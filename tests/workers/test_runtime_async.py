"""Coroutine methods: many at a time on one loop, cancelled for real, and answered whatever happens inside."""

import asyncio
import gc
import time
import weakref

import numpy as np
import pytest
from runtime_models import AsyncModel
from runtime_rig import Rig, cancelled, items, on_a_loop, too_late, until

from hostd_workers.wire.errors import InvalidArgumentError, ModelError


@pytest.fixture
def model():
    return AsyncModel()


@pytest.fixture
def rig(model):
    return Rig(model)


@on_a_loop
async def test_coroutines_run_many_at_a_time(rig, model):
    for id in range(1, 101):
        rig.call(id, "wait", id)
    await rig.settle()
    assert rig.take() == []
    assert model.most_inside == 100
    model.gate.set()
    await until(lambda: len(rig.sent) == 100)
    assert sorted(rig.take()) == [(id, "RESULT", id) for id in range(1, 101)]
    await until(lambda: len(asyncio.all_tasks()) == 1)


@on_a_loop
async def test_a_call_that_has_ended_is_forgotten_with_its_arguments():
    class Holding(AsyncModel):
        async def hold(self, x):
            self.seen = weakref.ref(x)

    model = Holding()
    rig = Rig(model)
    rig.call(1, "hold", np.zeros(9))
    assert (await rig.settle()).take() == [(1, "RESULT", None)]
    gc.collect()
    assert model.seen() is None


@pytest.mark.parametrize("steps", [0, 1], ids=["before its first step", "while it waits"])
@on_a_loop
async def test_a_call_that_was_cancelled_holds_its_arguments_in_no_cycle(rig, steps):
    x = np.zeros(1 << 16)
    told = weakref.ref(x)
    gc.disable()
    try:
        rig.call(1, "wait", x)
        del x
        rig.run()
        for _ in range(steps):
            await asyncio.sleep(0)
        assert told() is not None
        rig.cancel(1)
        await until(lambda: rig.sent)
        await asyncio.sleep(0)
        assert told() is None
    finally:
        gc.enable()
    assert rig.brief() == [cancelled(1)]


@on_a_loop
async def test_plain_methods_and_generators_of_the_same_model_still_work(rig, model):
    rig.call(1, "wait", 1)
    rig.call(2, "plain", 2)
    rig.stream(3, "numbers", 2, window=9)
    assert (await rig.settle()).take() == [(2, "RESULT", 2), *items(0, 1, id=3), (3, "END", None)]
    model.gate.set()
    assert (await rig.settle()).take() == [(1, "RESULT", 1)]


@on_a_loop
async def test_a_cancel_reaches_the_coroutine_which_ends(rig, model):
    rig.call(1, "wait", 1)
    rig.call(2, "wait", 2)
    await rig.settle()
    rig.cancel(1)
    rig.cancel(1)
    await rig.settle()
    assert model.log == ["cancelled 1"]
    model.gate.set()
    assert (await rig.settle()).brief() == [cancelled(1), (2, "RESULT", 2)]


@on_a_loop
async def test_a_cancel_before_the_first_step_of_the_task_leaves_no_coroutine_behind(rig, model):
    rig.call(1, "wait", 1)
    rig.runtime.step()
    rig.cancel(1)
    assert (await rig.settle()).brief() == [cancelled(1)]
    assert model.log == []


@on_a_loop
async def test_a_deadline_cancels_the_coroutine(rig, model):
    rig.call(1, "wait", 1, deadline_ms=1)
    rig.call(2, "wait", 2, deadline_ms=60_000)
    rig.run()
    await until(lambda: len(rig.sent) == 1)
    model.gate.set()
    assert (await rig.settle()).brief() == [too_late(1), (2, "RESULT", 2)]


@on_a_loop
async def test_a_coroutine_that_shrugs_off_its_cancel_is_late_and_the_host_drops_it(rig):
    rig.call(1, "shrugs_off_cancels")
    await rig.settle()
    rig.cancel(1)
    assert (await rig.settle()).take() == [(1, "RESULT", "late")]


@on_a_loop
async def test_a_deadline_that_is_over_when_a_cancelled_thing_is_awaited_is_the_end(rig):
    rig.call(1, "wait", 1, deadline_ms=5)
    rig.run()
    began_s = time.monotonic()
    await until(lambda: time.monotonic() - began_s > 0.02 and rig.sent)
    assert rig.brief() == [too_late(1)]


@pytest.mark.parametrize(
    ("method", "cls", "message"),
    [
        ("fail", ModelError, "ValueError: failed"),
        ("time_out", ModelError, "TimeoutError: the model's own timeout"),
        ("wait", InvalidArgumentError, "wait(x: 'Any')"),
        ("unsendable", ModelError, "returned what cannot be sent"),
        ("awaits_what_was_cancelled", ModelError, "CancelledError"),
        ("generate", InvalidArgumentError, "model.stream.generate(...)"),
    ],
)
@pytest.mark.parametrize("deadline_ms", [60_000, None])
@on_a_loop
async def test_what_goes_wrong_is_answered_as_in_a_plain_method(rig, model, method, cls, message, deadline_ms):
    rig.call(1, method, *([3] if method == "generate" else []), deadline_ms=deadline_ms)
    error = (await rig.settle()).error()
    assert type(error) is cls
    assert message in error.message
    assert model.log == []
    if method in ("fail", "time_out"):
        assert error.traceback.count("File ") == 1


def test_a_coroutine_that_ends_the_process_is_not_held_back(rig):
    @on_a_loop
    async def body():
        rig.call(1, "exits")
        await rig.settle()

    with pytest.raises(SystemExit):
        body()


@on_a_loop
async def test_every_call_has_its_own_trace(rig):
    for id, trace in ((1, "one"), (2, None), (3, "three")):
        rig.call(id, "trace", trace=trace)
    seen = {id: value for id, _, value in (await rig.settle()).take()}
    assert seen == {1: ("one", "one"), 2: (None, None), 3: ("three", "three")}


# Streams of asynchronous generators


@on_a_loop
async def test_an_async_generator_sends_items_as_far_as_its_credit_reaches(rig, model):
    rig.stream(1, "generate", 4)
    rig.credit(1, 2)  # while it is queued
    assert (await rig.settle()).take() == items(0, 1)
    rig.credit(1, 1)
    assert (await rig.settle()).take() == items(2)
    for _ in range(1000):
        rig.credit(1, 1 << 20)
    assert (await rig.settle()).take() == [*items(3), (1, "END", None)]
    assert model.log[-1] == "closed"


@pytest.mark.parametrize("waits_for", ["credit", "the model"])
@on_a_loop
async def test_a_cancel_closes_an_async_generator(rig, model, waits_for):
    rig.stream(1, "generate", 10**6, window=1 if waits_for == "credit" else 10**6)
    rig.runtime.step()
    await until(lambda: bool(rig.sent))
    rig.cancel(1)
    await until(lambda: model.log[-1] == "closed")
    *sent, end = (await rig.settle()).brief()
    assert end == cancelled(1)
    assert (await rig.settle()).take() == []
    assert len(sent) == 1 or waits_for != "credit"


@pytest.mark.parametrize(
    ("fails", "message"),
    [("raise", "ValueError: failed at the end"), ("unsendable", "method 'generate' returned what cannot be sent")],
)
@on_a_loop
async def test_an_async_generator_that_fails_answers_once(rig, model, fails, message):
    rig.stream(1, "generate", 1, fails, window=9)
    item, (_, kind, error) = (await rig.settle()).take()
    assert ([item], kind) == (items(0), "ERROR")
    assert error.message.startswith(message)
    assert model.log == ["0", "closed"]
    if fails == "raise":
        assert error.traceback.count("File ") == 1


@on_a_loop
async def test_a_coroutine_cannot_be_streamed_and_leaves_nothing_unawaited(rig):
    rig.stream(1, "wait", 1, window=9)
    error = (await rig.settle()).error()
    assert type(error) is InvalidArgumentError
    assert "returned a coroutine, not an iterator: call it as model.wait(...)" in error.message


@on_a_loop
async def test_an_async_iterator_of_its_own_class_streams_if_its_method_says_it_is_one():
    class Own(AsyncModel):
        async def stream(self):
            async for item in self.iterator():
                yield item

    rig = Rig(Own())
    rig.stream(1, "stream", window=9)
    assert (await rig.settle()).take() == [*items(1, 2), (1, "END", None)]
