"""Shutdown: everything unloaded, everybody answered, and only then the stop."""

from __future__ import annotations

import pytest
from driver import BOB, Driver

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd_workers.wire.errors import AbortedError, UnavailableError


def test_an_empty_host_stops_at_once(host):
    caller = host.shut_down()
    assert host.answer(caller) is None
    assert host.effects == [fx.Answer(caller, None), fx.Stop()]


def test_a_signal_stops_an_empty_host_at_once(host):
    host.signal()
    assert host.effects == [fx.Stop()]


def test_c34_shutdown_drains_unloads_answers_and_stops_in_this_order(host):
    waiting = host.up_to("LOADING", "loading")
    host.up_to("READY", "busy")
    call = host.call("busy")
    caller = host.shut_down()
    assert isinstance(host.error(waiting), AbortedError)
    assert "the host is shutting down" in host.error(waiting).message
    assert host.worker_state(ev.WorkerId(2)) == "DRAINING"
    host.gone(ev.WorkerId(1))
    host.answered(host.sent(call), "still served")
    assert host.answer(call) == "still served"
    assert host.is_waiting(caller)
    host.gone(ev.WorkerId(2))
    assert host.effects[-2:] == [fx.Answer(caller, None), fx.Stop()]


def test_a_host_that_shuts_down_loads_nothing_more(host):
    host.up_to("READY")
    host.signal()
    error = host.error(host.load("other"), UnavailableError)
    assert error.message == "the host is shutting down"
    assert host.finds == []
    host.gone()
    assert host.has_stopped
    assert isinstance(host.error(host.load("other")), UnavailableError)


def test_shutdown_at_once_kills_what_still_drains_and_aborts_its_calls(host):
    host.up_to("READY")
    call, caller = host.call(), host.shut_down(at_once=True)
    assert host.killed() == [1]
    assert host.core.next_deadline() is None
    host.exited("killed by SIGKILL")
    assert host.is_waiting(call)
    host.gone()
    assert isinstance(host.error(call), AbortedError)
    assert host.error(call).message == "model 'm' was unloaded"
    assert host.answer(caller) is None
    assert host.has_stopped


def test_a_call_of_a_killed_worker_may_still_be_answered_before_the_proof(host):
    host.up_to("READY")
    call = host.call()
    host.signal(at_once=True)
    host.feed(ev.CreditGranted(call, 1))
    host.answered(host.sent(call), "in time")
    host.gone()
    assert host.answer(call) == "in time"


def test_c34_a_second_signal_does_not_wait_for_the_drain(host):
    host.up_to("READY", "busy")
    host.up_to("READY", "idle")
    call = host.call("busy")
    host.signal()
    assert host.worker_state(ev.WorkerId(1)) == "DRAINING"
    host.signal()
    assert host.killed() == [1]
    host.gone(ev.WorkerId(1))
    assert isinstance(host.error(call), AbortedError)
    assert not host.has_stopped
    host.gone(ev.WorkerId(2))
    assert host.has_stopped


def test_a_second_client_that_wants_a_shutdown_waits_with_the_first_and_the_drain_goes_on(host):
    host.up_to("READY")
    call, first = host.call(), host.shut_down()
    second = host.shut_down(client=BOB)
    assert host.worker_state() == "DRAINING"
    host.answered(host.sent(call))
    host.gone()
    assert host.answer(first) is host.answer(second) is None


def test_a_shutdown_that_comes_after_the_stop_is_answered_too(host):
    host.shut_down()
    assert host.has_stopped
    caller = host.shut_down(client=BOB)
    assert host.answer(caller) is None
    assert host.effects_of(fx.Stop) == []
    host.signal()
    assert host.effects == []


@pytest.mark.parametrize("stage", ["FINDING", "SPAWNING", "STARTED", "LOADING", "MEASURING", "READY"])
@pytest.mark.parametrize("at_once", [False, True])
def test_a_host_can_be_shut_down_in_every_stage_of_a_load(stage, at_once):
    host = Driver()
    host.up_to(stage)
    caller = host.shut_down(at_once=at_once)
    if stage != "FINDING":
        assert not host.has_stopped
        host.gone()
    assert host.answer(caller) is None
    assert host.has_stopped
    assert host.queries.list_models() == []
    assert host.queries.worker_count() == 0
