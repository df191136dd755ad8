"""Every end of a call with a feed: its caller gets one answer, and nothing of it is left."""

import asyncio
import threading

import pytest
from fed_runtime import ABORTED, METHODS, FedRig, Model
from runtime_rig import cancelled, on_a_loop, too_late

from hostd_workers.calls import fibers
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.errors import (
    AbortedError,
    ModelError,
)


@pytest.fixture
def rig():
    return FedRig(Model())


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
