"""Calls with a feed: items are asked for when the model wants them, others go on meanwhile, and each call has one end."""

import asyncio

import numpy as np
import pytest
from fed_runtime import METHODS, FedRig, Model
from runtime_rig import items, on_a_loop, until

from hostd_workers.wire import messages as msg
from hostd_workers.wire.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
)
from hostd_workers.wire.feeds import FEED_WINDOW


@pytest.fixture
def rig():
    return FedRig(Model())


@METHODS
@on_a_loop
async def test_a_method_takes_the_items_that_it_asks_for(prefix):
    rig = FedRig(Model())
    rig.feed(1, f"{prefix}total", args=(None, 10))
    assert rig.credits() == [], "it has not begun"
    await rig.settle()
    assert rig.credits() == [(1, FEED_WINDOW)]
    await rig.item(1, 1, 2).settle()
    await rig.item(1, 3).end(1).settle()
    assert rig.brief() == [(1, "RESULT", 16)]
    assert not rig.runtime.has_work


@METHODS
@on_a_loop
async def test_a_feed_may_be_a_keyword(prefix):
    rig = FedRig(Model())
    await rig.feed(1, f"{prefix}total", args=(), kwargs={"start": 1, "items": None}, place="items").settle()
    assert rig.credits() == [(1, FEED_WINDOW)]
    await rig.item(1, 4).end(1).settle()
    assert rig.brief() == [(1, "RESULT", 5)]


@METHODS
@on_a_loop
async def test_both_directions_may_stream(prefix):
    rig = FedRig(Model())
    await rig.feed(1, f"{prefix}double", kind=msg.STREAM, window=2, ahead=1).settle()
    assert rig.credits() == [(1, 1)]
    await rig.item(1, 1).settle()
    assert rig.sent.pop().kind == msg.CREDIT
    assert rig.brief() == items(2)
    await rig.item(1, 2).settle()
    assert rig.brief() == items(4), "it has no credit for another, so it does not ask"
    rig.credit(1, 2)
    await rig.settle()
    assert rig.credits() == [(1, 1)]
    await rig.end(1).settle()
    assert rig.brief() == [(1, "END", None)]
    assert rig.runtime._methods["double"].function.__self__.log == ["closed"]


@on_a_loop
async def test_other_calls_go_on_while_one_waits_for_its_feed():
    rig = FedRig(Model())
    for id in (1, 2):
        rig.feed(id, "total")
    rig.feed(3, "async_total")
    await rig.settle()
    assert sorted(rig.credits()) == [(1, FEED_WINDOW), (2, FEED_WINDOW), (3, FEED_WINDOW)]
    rig.call(4, "ready")
    await rig.settle()
    assert rig.brief() == [(4, "RESULT", "ready")]
    await rig.item(2, 5).end(2).settle()
    assert rig.brief() == [(2, "RESULT", 5)]
    await rig.item(1, 6).end(1).item(3, 7).end(3).settle()
    assert sorted(rig.brief()) == [(1, "RESULT", 6), (3, "RESULT", 7)]


@METHODS
@on_a_loop
async def test_a_method_may_return_before_its_feed_ends_and_what_comes_then_is_dropped(prefix):
    rig = FedRig(Model())
    await rig.feed(1, f"{prefix}first").settle()
    rig.credits()
    await rig.item(1, 1, 2, 3).settle()
    assert rig.brief() == [(1, "RESULT", 1)]
    await rig.item(1, 4).end(1).fail(1).settle()
    assert rig.take() == []


@METHODS
@on_a_loop
async def test_a_call_that_has_not_begun_takes_nothing_of_its_feed(prefix):
    rig = FedRig(Model())
    rig.feed(1, f"{prefix}total").item(1, 1).end(1)
    await rig.settle()
    assert rig.credits() == [(1, FEED_WINDOW)]
    await rig.item(1, 2).end(1).settle()
    assert rig.brief() == [(1, "RESULT", 2)]


def test_many_items_are_asked_for_in_halves_of_a_window(rig):
    rig.feed(1, "total").run()
    credits, sent = rig.credits(), 0
    assert credits == [(1, FEED_WINDOW)]
    while sent < 1000:
        count = sum(count for _, count in credits)
        rig.item(1, *[1] * count).run()
        sent += count
        credits = rig.credits()
        assert credits == [(1, FEED_WINDOW // 2)] * 2
    assert rig.end(1).run().brief() == [(1, "RESULT", sent)]


def test_arrays_travel_in_items_as_in_arguments(rig):
    rig.feed(1, "sums").run()
    rig.credits()
    assert rig.item(1, np.ones(3), np.ones(9000)).end(1).run().brief() == [(1, "RESULT", [3.0, 9000.0])]


def test_a_feed_of_a_call_that_is_over_gives_nothing(rig):
    rig.feed(1, "keep").call(2, "take_kept")
    rig.run()
    (_, kind, result), (_, _, error) = rig.take()
    assert (kind, result) == ("RESULT", None)
    assert isinstance(error, FailedPreconditionError)


def test_a_feed_says_that_it_is_of_one_thread(rig):
    rig.feed(1, "elsewhere").run()
    ((_, kind, said),) = rig.take()
    assert (kind, "thread" in said) == ("RESULT", True)


@METHODS
@on_a_loop
async def test_a_feed_that_is_no_argument_of_the_call_is_refused(prefix):
    rig = FedRig(Model())
    await rig.feed(1, f"{prefix}total", place=1).settle()
    error = rig.error()
    assert isinstance(error, InvalidArgumentError)
    assert "argument 1" in error.message


def test_wrong_arguments_and_wrong_ways_to_call_are_told_as_without_a_feed(rig):
    rig.feed(1, "total", args=(None, 1, 2)).feed(2, "generates").feed(3, "first", kind=msg.STREAM, window=3).run()
    rig.item(3, 1).end(3).run()
    rig.sent[:] = [envelope for envelope in rig.sent if envelope.kind != msg.CREDIT]
    assert rig.brief() == [(id, "ERROR", "INVALID_ARGUMENT") for id in (1, 2, 3)]


@on_a_loop
async def test_the_items_of_a_feed_may_be_waited_for_by_what_a_coroutine_has_begun():
    class Gathering:
        async def both(self, items):
            return sorted(await asyncio.gather(items.__anext__(), items.__anext__()))

    rig = FedRig(Gathering())
    await rig.feed(1, "both").settle()
    rig.credits()
    await rig.item(1, 1).settle()
    await rig.item(1, 2).settle()
    await until(lambda: rig.sent)
    assert rig.brief() == [(1, "RESULT", [1, 2])]
