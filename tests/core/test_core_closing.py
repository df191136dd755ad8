"""Models that have something to finish: when they are told to, in which time, and what is told of it."""

from __future__ import annotations

import pytest
from driver import memory_of

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.describing import describe
from hostd.core.memory.charges import Kept
from hostd_workers.wire.errors import AbortedError, ModelError


@pytest.fixture
def ready(host):
    host.up_to("LOADING")
    host.loaded(has_close=True)
    host.measured(memory=memory_of(1000))
    return host


def told_to_close(host):
    return [effect.worker_id for effect in host.effects_of(fx.CloseModel)]


def failures(host):
    return [event.reason for event in host.announced if event.cause == "CLOSE_FAILED"]


def test_a_model_closes_before_its_worker_is_killed(ready):
    caller = ready.unload()
    assert (told_to_close(ready), ready.killed(), ready.worker_state()) == ([1], [], "CLOSING")
    ready.closed()
    assert (ready.killed(), ready.worker_state()) == ([1], "KILLING")
    ready.gone()
    assert ready.answer(caller).processes == 1
    assert failures(ready) == []
    assert ready.core.next_deadline() is None


def test_a_model_closes_after_its_last_call_and_is_told_to_after_that_was_cancelled(ready):
    first, second = ready.call(), ready.call(timeout_s=2)
    ready.unload()
    assert (told_to_close(ready), ready.worker_state()) == ([], "DRAINING")
    ready.answered(ready.sent(first))
    assert told_to_close(ready) == []
    ready.pass_time(2)
    assert isinstance(ready.error(second), Exception)
    assert [type(effect) for effect in ready.effects if isinstance(effect, (fx.ForwardCancel, fx.CloseModel))] == [
        fx.ForwardCancel,
        fx.CloseModel,
    ]


def test_what_drains_and_closes_has_the_time_of_a_drain_in_all(ready):
    call = ready.call()
    caller = ready.unload()
    ready.pass_time(9)
    ready.answered(ready.sent(call))
    assert told_to_close(ready) == [1]
    ready.pass_time(0.9)
    assert ready.killed() == []
    ready.pass_time(0.1)
    assert ready.killed() == [1]
    assert failures(ready) == ["close() did not end within 10 s (workers.drain_timeout_s)"]
    ready.gone()
    assert ready.answer(caller).processes == 1


def test_a_close_that_hangs_without_a_drain_has_that_time_too(ready):
    ready.unload()
    ready.pass_time(9.9)
    assert ready.worker_state() == "CLOSING"
    ready.pass_time(0.1)
    assert ready.killed() == [1]


def test_what_a_close_raised_is_told_and_the_model_is_unloaded(ready):
    caller = ready.unload()
    ready.closed(problem="ValueError: the disk is full")
    assert failures(ready) == ["its close() failed: ValueError: the disk is full"]
    assert ready.killed() == [1]
    ready.gone()
    assert ready.answer(caller).processes == 1


def test_a_worker_that_dies_in_its_close_is_told_of(ready):
    ready.unload()
    ready.exited("killed by SIGSEGV")
    assert failures(ready) == ["its worker ended in close(): killed by SIGSEGV"]
    assert ready.killed() == [1]


@pytest.mark.parametrize("when", ["before", "meanwhile", "after the drain began"])
def test_an_unload_at_once_calls_no_close_and_waits_for_none(ready, when):
    if when == "after the drain began":
        ready.call()
    if when != "before":
        ready.unload()
    ready.unload(at_once=True)
    assert (told_to_close(ready), ready.killed()) == ([], [1])
    ready.closed()
    assert ready.effects == []


def test_a_shutdown_closes_and_a_second_signal_does_not_wait(ready):
    ready.signal()
    assert told_to_close(ready) == [1]
    ready.signal()
    assert ready.killed() == [1]


def test_neither_a_death_nor_a_lost_connection_is_closed_after(ready):
    ready.disconnected()
    ready.unload()
    assert (told_to_close(ready), ready.killed()) == ([], [1])


def test_a_load_that_is_given_up_after_its_loader_has_returned_closes(host):
    host.up_to("LOADING")
    host.loaded(has_close=True)
    caller = host.unload()
    assert told_to_close(host) == [1]
    host.measured(memory=memory_of(1000))
    assert host.worker_state() == "CLOSING"
    host.pass_time(10)
    assert host.killed() == [1]
    host.gone()
    assert host.answer(caller).processes == 1


def test_a_replaced_generation_closes_while_the_next_one_serves(host):
    host.deploy_up_to("LOADING")
    host.loaded(has_close=True)
    host.measured(memory=memory_of(1000))
    host.done()
    host.deploy_up_to("LOADING", replace=True)
    host.loaded(has_close=True)
    host.measured(memory=memory_of(1000))
    assert told_to_close(host) == []
    host.done()
    assert told_to_close(host) == [1]
    assert host.model().state == "READY"
    host.closed(ev.WorkerId(1))
    assert host.killed() == [1]
    host.gone(ev.WorkerId(1))


def test_a_successor_that_is_given_up_closes_and_the_unload_waits_for_it(host):
    host.deployed()
    host.deploy_up_to("LOADING", replace=True)
    host.loaded(has_close=True)
    host.measured(memory=memory_of(1000))
    caller = host.unload()
    assert (told_to_close(host), host.killed()) == ([2], [1])
    host.gone(ev.WorkerId(1))
    assert host.is_waiting(caller)
    host.closed(ev.WorkerId(2), problem="ValueError: x")
    assert host.killed() == [2]
    host.gone(ev.WorkerId(2))
    assert not host.is_waiting(caller)


def test_a_model_over_its_limit_is_killed_also_while_it_closes(ready):
    model = ready.registry.models["m"]
    model.spec = model.spec._replace(memory=ev.MemoryPolicy(limit_bytes=2000))
    ready.unload()
    ready.measured(memory=memory_of(9000))
    assert ready.killed() == [1]


def test_what_closes_is_on_its_way_out_for_the_budget(ready):
    ready.unload()
    model = ready.registry.models["m"]
    assert ready.charges.kept(model) is Kept.UNLOADING
    assert ready.charges.staying_bytes(model) == 0
    assert describe(ready.registry.facts(model)).workers[0].state == "CLOSING"


def test_a_model_without_a_close_is_killed_at_once(host):
    host.up_to("READY")
    host.unload()
    assert (told_to_close(host), host.killed()) == ([], [1])


def test_what_closes_takes_no_call(ready):
    ready.unload()
    assert not isinstance(ready.error(ready.call()), (AbortedError, ModelError))


def test_a_model_whose_calls_do_not_end_in_time_does_not_close(ready):
    ready.call()
    ready.unload()
    ready.pass_time(10)
    assert (told_to_close(ready), ready.killed()) == ([], [1])
