"""Calls: one at a time, each answered once, whatever the model does."""

from __future__ import annotations

import numpy as np
import pytest
from runtime_models import Model
from runtime_rig import Rig, cancelled, too_late

from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
)


@pytest.fixture
def rig() -> Rig:
    return Rig(Model())


def test_a_call_is_answered_with_what_the_method_returned(rig: Rig) -> None:
    rig.call(7, "predict", 3, kwargs={"bias": 1})
    assert rig.take() == []
    assert rig.runtime.has_work
    rig.runtime.step()
    assert rig.take() == [(7, "RESULT", 4)]
    assert not rig.runtime.has_work


def test_arrays_go_in_and_come_out(rig: Rig) -> None:
    rig.call(1, "predict", np.arange(5000.0), 2)
    ((_, kind, result),) = rig.run().take()
    assert kind == "RESULT"
    np.testing.assert_array_equal(result, np.arange(5000.0) * 2)


def test_calls_run_one_at_a_time_in_the_order_of_their_arrival(rig: Rig) -> None:
    for id in range(1, 5):
        rig.call(id, "echo", id)
    for id in range(1, 5):
        rig.runtime.step()
        assert rig.take() == [(id, "RESULT", id)]


def test_a_step_without_work_does_nothing(rig: Rig) -> None:
    rig.runtime.step()
    assert rig.take() == []


def test_messages_of_other_kinds_are_no_work(rig: Rig) -> None:
    rig.accept(wire.pack(msg.HELLO, 1))
    rig.accept(wire.pack(99, 1))
    assert not rig.runtime.has_work


# Generators where a value was wanted


def test_a_generator_that_is_called_is_refused_and_never_begun(rig: Rig) -> None:
    rig.call(1, "generate", 3)
    error = rig.run().error()
    assert type(error) is InvalidArgumentError
    assert "call it as model.stream.generate(...)" in error.message


def test_a_generator_that_fails_when_it_is_closed_is_answered_all_the_same(rig: Rig) -> None:
    rig.call(1, "half_used")
    assert rig.run().error().message == "ValueError: raised when it was closed"


# Deadlines and cancels


def test_a_call_whose_deadline_has_passed_is_ended_and_not_begun(rig: Rig) -> None:
    rig.call(1, "echo", 1, deadline_ms=0)
    rig.call(2, "echo", 2, deadline_ms=60_000)
    assert rig.run().brief() == [too_late(1), (2, "RESULT", 2)]


def test_a_cancelled_call_is_not_begun_and_its_id_is_forgotten(rig: Rig) -> None:
    rig.call(1, "echo", 1)
    rig.call(2, "echo", 2)
    rig.cancel(1)
    assert rig.run().brief() == [cancelled(1), (2, "RESULT", 2)]
    rig.call(1, "echo", 1)
    assert rig.run().take() == [(1, "RESULT", 1)]


def test_a_cancel_of_what_is_not_there_is_forgotten(rig: Rig) -> None:
    rig.cancel(1)
    rig.credit(1, 5)
    rig.call(1, "echo", 1)
    assert rig.run().take() == [(1, "RESULT", 1)]


def test_a_model_may_raise_the_errors_of_a_deadline() -> None:
    class Slow:
        def wait(self) -> None:
            raise DeadlineExceededError("the model's own backend was too slow")

    rig = Rig(Slow())
    rig.call(1, "wait")
    assert type(rig.run().error()) is DeadlineExceededError


# Trace context


def test_the_trace_of_a_call_is_there_while_it_runs_and_not_after(rig: Rig) -> None:
    for trace in ("00-aaaa-01", None, "00-bbbb-01"):
        rig.call(1, "trace", trace=trace)
        assert rig.run().take() == [(1, "RESULT", trace)]


def test_headers_with_traces_are_not_remembered(rig: Rig) -> None:
    for number in range(2000):
        rig.call(1, "trace", trace=f"00-{number}-01")
    rig.call(1, "trace")
    rig.run()
    assert len(rig.runtime._targets) == 1


def test_the_memory_of_headers_is_bounded(rig: Rig) -> None:
    for number in range(1500):
        header = msg.pack_target(msg.Target(f"m{number}", "echo"))
        rig.accept(wire.pack(msg.CALL, 1, header, b"\x92\x91\x01\x80"))
    rig.run()
    assert len(rig.runtime._targets) == 1024
    assert len(rig.take()) == 1500
