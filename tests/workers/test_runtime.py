"""Calls: one at a time, each answered once, whatever the model does."""

import gc

import numpy as np
import pytest
from runtime_models import Model
from runtime_rig import Rig, cancelled, too_late

from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg


@pytest.fixture
def rig():
    return Rig(Model())


def test_a_call_is_answered_with_what_the_method_returned(rig):
    rig.call(7, "predict", 3, kwargs={"bias": 1})
    assert rig.take() == []
    assert rig.runtime.has_work
    rig.runtime.step()
    assert rig.take() == [(7, "RESULT", 4)]
    assert not rig.runtime.has_work
    rig.call(1, "predict", np.arange(5000.0), 2)
    ((_, kind, result),) = rig.run().take()
    assert kind == "RESULT"
    np.testing.assert_array_equal(result, np.arange(5000.0) * 2)


def test_calls_run_one_at_a_time_in_the_order_of_their_arrival(rig):
    for id in range(1, 5):
        rig.call(id, "echo", id)
    for id in range(1, 5):
        rig.runtime.step()
        assert rig.take() == [(id, "RESULT", id)]


def test_messages_of_other_kinds_are_no_work_and_a_step_without_work_does_nothing(rig):
    rig.accept(wire.pack(msg.HELLO, 1))
    rig.accept(wire.pack(99, 1))
    assert not rig.runtime.has_work
    rig.runtime.step()
    assert rig.take() == []


# Deadlines and cancels


def test_a_call_whose_deadline_has_passed_is_ended_and_not_begun(rig):
    rig.call(1, "echo", 1, deadline_ms=0)
    rig.call(2, "echo", 2, deadline_ms=60_000)
    assert rig.run().brief() == [too_late(1), (2, "RESULT", 2)]


def test_a_cancelled_call_is_not_begun_and_its_id_is_forgotten(rig):
    rig.cancel(1)  # of what is not there
    rig.credit(1, 5)
    rig.call(1, "echo", 1)
    assert rig.run().take() == [(1, "RESULT", 1)]
    rig.call(1, "echo", 1)
    rig.call(2, "echo", 2)
    rig.cancel(1)
    assert rig.run().brief() == [cancelled(1), (2, "RESULT", 2)]
    rig.call(1, "echo", 1)
    assert rig.run().take() == [(1, "RESULT", 1)]


# What headers leave behind


def test_the_trace_of_a_call_is_there_while_it_runs_and_not_after(rig):
    for trace in ("00-aaaa-01", None, "00-bbbb-01"):
        rig.call(1, "trace", trace=trace)
        assert rig.run().take() == [(1, "RESULT", trace)]


def test_the_memory_of_headers_is_bounded_and_those_with_traces_are_not_remembered(rig):
    def remembered(method):
        gc.collect()
        return sum(isinstance(thing, msg.Target) and thing.method == method for thing in gc.get_objects())

    for number in range(2000):
        rig.call(1, "trace", trace=f"00-{number}-01")
    rig.call(1, "trace")
    rig.run()
    assert remembered("trace") == 1
    for number in range(1500):
        rig.accept(wire.pack(msg.CALL, 1, msg.pack_target(msg.Target(f"m{number}", "echo")), b"\x92\x91\x01\x80"))
    assert len(rig.run().take()) == 2001 + 1500
    assert remembered("echo") == 1023
