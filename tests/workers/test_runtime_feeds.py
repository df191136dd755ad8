"""Calls with a feed: items are asked for when the model wants them, others go on meanwhile, and each call has one end."""

import asyncio
import threading
import time

import numpy as np
import pytest
from runtime_rig import Rig, cancelled, items, on_a_loop, too_late, until

from hostd_workers.calls import fibers
from hostd_workers.calls.fed import TURN_S
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import encode, encode_call
from hostd_workers.wire.errors import (
    AbortedError,
    FailedPreconditionError,
    HostError,
    InvalidArgumentError,
    ModelError,
)
from hostd_workers.wire.feeds import FEED_WINDOW

ABORTED = AbortedError("the caller's input failed: ValueError: no")


class Model:
    """Methods of both kinds; `log` says what they went through."""

    def __init__(self):
        self.log = []

    def ready(self):
        return "ready"

    def total(self, items, start=0):
        return start + sum(items)

    async def async_total(self, items, start=0):
        async for item in items:
            start += item
        return start

    def double(self, items):
        try:
            for item in items:
                yield 2 * item
        finally:
            self.log.append("closed")

    async def async_double(self, items):
        try:
            async for item in items:
                yield 2 * item
        finally:
            self.log.append("closed")

    def insists(self, items):
        try:
            yield from items
        finally:
            until_s = time.monotonic() + 2 * TURN_S
            while time.monotonic() < until_s:
                pass
            try:
                next(items)
            except HostError as error:
                self.log.append(error.status.name)

    def first(self, items):
        return next(items)

    async def async_first(self, items):
        return await items.__anext__()

    def catching(self, items):
        try:
            return sum(items)
        except Exception as error:
            self.log.append(repr(error))
            raise

    async def async_catching(self, items):
        try:
            async for _ in items:
                pass
        except Exception as error:
            self.log.append(repr(error))
            raise

    def forgiving(self, items):
        try:
            return sum(items)
        except HostError:
            return "never mind"

    def keep(self, items):
        self.kept = items

    def take_kept(self):
        return next(self.kept)

    def elsewhere(self, items):
        found = []

        def take():
            try:
                next(items)
            except FailedPreconditionError as error:
                found.append(str(error))

        thread = threading.Thread(target=take)
        thread.start()
        thread.join()
        return found[0]

    def sums(self, items):
        return [float(array.sum()) for array in items]

    def generates(self, items):
        yield from items

    def exits(self, items):
        next(items)
        raise SystemExit(4)


class FedRig(Rig):
    def feed(
        self,
        id,
        method,
        kind=msg.CALL,
        args=(None,),
        kwargs=None,
        place=0,
        ahead=FEED_WINDOW,
        window=0,
        deadline_ms=wire.MAX_DEADLINE_MS,
    ):
        body, buffers = encode_call(args, kwargs or {})
        header = msg.pack_target(msg.Target("m", method, None, window, place, ahead))
        self.accept(wire.pack(kind, id, header, body, buffers, deadline_ms))
        return self

    def item(self, id, *values):
        for value in values:
            body, buffers = encode(value)
            self.accept(wire.pack(msg.ITEM, id, body=body, buffers=buffers))
        return self

    def end(self, id):
        self.accept(wire.pack(msg.END, id, body=encode(None)[0]))
        return self

    def fail(self, id):
        self.accept(msg.pack_error(id, ABORTED))
        return self

    def credits(self):
        """Return the credits that were sent since the last time, when nothing else was."""
        taken, self.sent[:] = list(self.sent), []
        assert {envelope.kind for envelope in taken} <= {msg.CREDIT}
        return [(envelope.id, msg.unpack_credit(envelope.header)) for envelope in taken]


@pytest.fixture
def rig():
    return FedRig(Model())


METHODS = pytest.mark.parametrize("prefix", ["", "async_"])


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
async def test_a_cancel_ends_a_call_that_waits_for_its_feed(prefix):
    rig = FedRig(Model())
    await rig.feed(1, f"{prefix}total").settle()
    await rig.feed(2, f"{prefix}double", kind=msg.STREAM, window=9).settle()
    rig.credits()
    rig.cancel(1)
    rig.cancel(2)
    await rig.settle()
    assert sorted(rig.brief()) == [cancelled(1), cancelled(2)]
    assert rig.runtime._methods["double"].function.__self__.log == ["closed"]


@METHODS
@on_a_loop
async def test_a_cancel_ends_a_stream_that_has_no_credit(prefix):
    rig = FedRig(Model())
    await rig.feed(1, f"{prefix}double", kind=msg.STREAM, window=1).settle()
    await rig.item(1, 1, 2).settle()
    assert [envelope.kind for envelope in rig.sent] == [msg.CREDIT, msg.ITEM]
    rig.sent.clear()
    rig.cancel(1)
    await rig.settle()
    assert rig.brief() == [cancelled(1)]
    assert rig.runtime._methods["double"].function.__self__.log == ["closed"]


@METHODS
@on_a_loop
async def test_a_model_sees_that_the_input_has_failed_where_it_waits_for_it(prefix):
    model = Model()
    rig = FedRig(model)
    await rig.feed(1, f"{prefix}catching").settle()
    rig.credits()
    rig.item(1, 1).fail(1)
    rig.cancel(1)  # as clients do then
    await rig.settle()
    assert model.log == [repr(ABORTED)]
    error = rig.error()
    assert (type(error), error.message) == (AbortedError, ABORTED.message)


def test_the_reason_is_the_answer_whatever_a_plain_method_makes_of_it(rig):
    rig.feed(1, "forgiving").run()
    rig.credits()
    rig.cancel(1)
    assert rig.run().brief() == [cancelled(1)]


@METHODS
@on_a_loop
async def test_a_flood_ends_its_own_call_and_no_other(prefix):
    rig = FedRig(Model())
    await rig.feed(1, f"{prefix}total", ahead=2).feed(2, f"{prefix}total").settle()
    rig.credits()
    await rig.item(1, 1, 2, 3).settle()
    assert rig.brief() == [(1, "ERROR", "INVALID_ARGUMENT")]
    await rig.item(2, 1).end(2).settle()
    assert rig.brief() == [(2, "RESULT", 1)]


@METHODS
@on_a_loop
async def test_garbage_ends_its_own_call(prefix):
    rig = FedRig(Model())
    await rig.feed(1, f"{prefix}total").settle()
    rig.credits()
    rig.accept(wire.pack(msg.ITEM, 1, body=b"\xc1"))
    await rig.settle()
    assert rig.brief() == [(1, "ERROR", "INVALID_ARGUMENT")]


@METHODS
@on_a_loop
async def test_a_call_that_has_not_begun_takes_nothing_of_its_feed(prefix):
    rig = FedRig(Model())
    rig.feed(1, f"{prefix}total").item(1, 1).end(1)
    await rig.settle()
    assert rig.credits() == [(1, FEED_WINDOW)]
    await rig.item(1, 2).end(1).settle()
    assert rig.brief() == [(1, "RESULT", 2)]


@METHODS
@on_a_loop
async def test_a_deadline_ends_a_call_that_gets_items(prefix):
    rig = FedRig(Model())
    rig.feed(1, f"{prefix}total", deadline_ms=30)
    answers = []
    while not answers:
        await rig.settle()
        rig.item(1, 1) if rig.runtime._beside(1) else None
        await asyncio.sleep(0.001)
        answers = [envelope for envelope in rig.sent if envelope.kind != msg.CREDIT]
    rig.sent[:] = answers
    assert rig.brief() == [too_late(1)]


@METHODS
@on_a_loop
async def test_the_end_of_a_connection_ends_its_calls(prefix):
    rig = FedRig(Model())
    await rig.feed(1, f"{prefix}double", kind=msg.STREAM, window=9).settle()
    rig.runtime.drop()
    await rig.settle()
    assert rig.runtime._methods["double"].function.__self__.log == ["closed"]


def test_a_generator_that_asks_for_more_while_it_is_closed_is_closed_all_the_same(rig):
    model = rig.runtime._methods["insists"].function.__self__
    rig.feed(1, "insists", kind=msg.STREAM, window=1).run()
    rig.item(1, 5).run()
    rig.sent.clear()
    rig.cancel(1)
    assert model.log == ["CANCELLED"]
    assert rig.brief() == [cancelled(1)]


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


def test_what_a_model_raises_is_told_with_its_own_lines_alone(rig):
    rig.feed(1, "sums").run()
    rig.credits()
    error = rig.item(1, 5).run().error()
    assert isinstance(error, ModelError)
    assert "array.sum()" in error.traceback
    assert "fibers.py" not in error.traceback


def test_what_ends_a_process_ends_the_worker(rig):
    rig.feed(1, "exits").run()
    with pytest.raises(SystemExit):
        rig.item(1, 1).run()


def test_where_there_is_no_thread_the_call_is_refused(rig, monkeypatch):
    def start(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(fibers.threading.Thread, "start", start)
    rig.feed(1, "total").run()
    assert rig.brief() == [(1, "ERROR", "RESOURCE_EXHAUSTED")]


def test_threads_end_with_their_calls(rig):
    before = set(threading.enumerate())
    rig.feed(1, "first").feed(2, "total").feed(3, "double", kind=msg.STREAM, window=3).run()
    threads = set(threading.enumerate()) - before
    assert len(threads) == 3
    rig.item(1, 1).run()
    rig.cancel(2)
    rig.cancel(3)
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


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
