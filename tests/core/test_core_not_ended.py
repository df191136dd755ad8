"""Processes that are still there after a kill: told to callers that wait, named by the model, tried again, and never waited for
by others.
"""

from __future__ import annotations

from driver import BOB, LAZY, Driver

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd_workers.wire.errors import AbortedError, FailedPreconditionError, ModelError

FIRST, SECOND = ev.WorkerId(1), ev.WorkerId(2)
WHY = "process 7 runs as root"


def test_a_caller_of_an_unload_that_may_never_end_is_told_why(host: Driver) -> None:
    host.up_to("READY")
    early = host.unload()
    host.not_ended()
    error = host.error(early, FailedPreconditionError)
    assert error.message == f"'m' is not unloaded: {WHY}. It stays UNLOADING, and is unloaded when they are gone"
    assert (host.state(), host.worker_state()) == ("UNLOADING", "KILLING")
    late = host.unload(client=BOB)
    assert host.is_waiting(late)
    host.not_ended()  # it is tried again
    assert isinstance(host.error(late), FailedPreconditionError)


def test_the_model_says_what_is_not_gone_and_tells_it_once(host: Driver) -> None:
    host.up_to("READY")
    host.unload()
    for _ in range(3):
        host.not_ended()
    assert WHY in host.queries.explain("m", host.now)["reason"]
    assert [event.reason for event in host.announced if event.cause == "NOT_ENDED"] == [WHY]
    host.not_ended(reason="process 8 runs as root")
    assert len([event for event in host.announced if event.cause == "NOT_ENDED"]) == 2


def test_what_is_only_slow_is_waited_for(host: Driver) -> None:
    host.up_to("READY")
    caller = host.unload()
    host.not_ended(is_beyond_reach=False)
    assert host.is_waiting(caller)
    host.gone()
    assert host.answer(caller).processes == 1


def test_calls_of_what_may_never_be_gone_end(host: Driver) -> None:
    host.up_to("READY")
    call = host.call()
    host.unload(at_once=True)
    assert host.is_waiting(call)
    host.not_ended()
    assert isinstance(host.error(call), AbortedError)


def test_calls_that_wait_for_its_next_load_end() -> None:
    host = Driver(LAZY)
    host.up_to("READY")
    host.unload()
    call = host.call()
    assert host.is_waiting(call)
    host.not_ended()
    assert isinstance(host.error(call), FailedPreconditionError)


def test_when_it_is_gone_after_all_the_model_is_unloaded(host: Driver) -> None:
    host.up_to("READY")
    host.unload()
    host.not_ended()
    caller = host.unload(client=BOB)
    host.gone()
    assert host.answer(caller).processes == 1
    assert host.state() is None


def test_an_unload_of_all_waits_for_the_others_and_names_what_is_left(host: Driver) -> None:
    host.up_to("READY", "a")
    host.up_to("READY", "b")
    caller = host.unload_all()
    host.not_ended(FIRST)
    assert host.is_waiting(caller)
    host.gone(SECOND)
    host.not_ended(FIRST)
    assert host.error(caller).details == {"model_ids": ["a"]}


def test_the_error_of_a_load_is_told_although_what_it_started_is_not_gone(host: Driver) -> None:
    caller = host.up_to("LOADING")
    host.feed(ev.WorkerRefusedLoad(FIRST, ModelError("no weights")))
    assert host.is_waiting(caller)
    host.not_ended()
    assert host.error(caller).message == "no weights"


def test_c34_a_host_ends_without_what_it_may_not_end_and_says_so(host: Driver) -> None:
    host.up_to("READY", "a")
    host.up_to("READY", "b")
    caller = host.shut_down()
    host.not_ended(FIRST)
    assert not host.has_stopped
    host.gone(SECOND)
    assert host.has_stopped
    assert host.error(caller).message == f"the host has ended, and this goes on: {WHY}"
    assert fx.Stop() in host.effects


def test_c34_callers_are_told_when_a_host_ends_without_what_it_may_not_end(host: Driver) -> None:
    host.up_to("READY")
    host.unload()
    host.not_ended()
    caller = host.unload(client=BOB)
    host.signal()
    assert isinstance(host.error(caller), FailedPreconditionError)
    assert host.has_stopped


def test_c34_a_host_waits_for_what_will_end(host: Driver) -> None:
    host.up_to("READY")
    host.signal()
    host.not_ended(is_beyond_reach=False)
    assert not host.has_stopped
    host.gone()
    assert host.has_stopped


def test_late_news_of_what_is_gone_change_nothing(host: Driver) -> None:
    host.up_to("READY")
    assert host.feed(ev.WorkerNotEnded(FIRST, WHY, True)) == [], "nobody has killed it"
    host.unload()
    host.gone()
    assert host.feed(ev.WorkerNotEnded(FIRST, WHY, True)) == []
