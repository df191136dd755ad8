"""Loads that end when nobody waits for them any more, and those that go on."""

from __future__ import annotations

import pytest
from driver import ALICE, BOB, LAZY, Driver
from memory_driver import MemoryDriver

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.models import LoadStep
from hostd_workers.wire.errors import (
    AbortedError,
    CancelledError,
    DeadlineExceededError,
    HostError,
    InvalidArgumentError,
    ModelError,
)

STAGES = ("FINDING", "SPAWNING", "STARTED", "LOADING", "MEASURING")


def tied(host: Driver, *, client: ev.ClientId = ALICE, timeout_s: float | None = 5) -> ev.Caller:
    return host.load(timeout_s=timeout_s, client=client, cancel_on_timeout=True)


def is_loading(host: Driver) -> bool:
    return host.state() == "LOADING"


def leave(host: Driver, how: str, caller: ev.Caller) -> None:
    if how == "deadline":
        host.pass_time(5)
    elif how == "cancel":
        host.feed(ev.CallCancelled(caller))
    else:
        host.feed(ev.ClientVanished(caller.client))


@pytest.mark.parametrize("how", ["deadline", "cancel", "client"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_load_ends_with_its_only_caller_and_nothing_of_it_is_left(host, stage, how):
    caller = tied(host)
    for step in (host.found, host.spawned, host.greeted, host.loaded)[: STAGES.index(stage)]:
        step()
    leave(host, how, caller)
    if stage != "FINDING":
        assert host.state() == "UNLOADING"
        assert host.model().reason == "nobody waits for its load any more (cancel_on_timeout)"
        assert host.killed() == [host.worker]
        if stage == "SPAWNING":
            host.spawned()
        host.gone()
    assert host.state() is None
    assert list(host.queries.each_of_all_models([])) == [], "it has not failed"
    if how != "client":
        kind = DeadlineExceededError if how == "deadline" else CancelledError
        assert host.error(caller, kind).message.endswith("; the load ends, unless somebody else waits for it")
    host.load(client=BOB)
    assert is_loading(host)


def test_a_load_that_waits_for_memory_leaves_the_line():
    host = MemoryDriver()
    host.in_use("busy", 9000)
    tied(host)
    host.found()
    host.predicted(5000)
    assert host.queries.memory().waiting == ("m",)
    host.pass_time(5)
    assert (host.state(), host.queries.memory().waiting) == (None, ())


def test_a_load_between_two_tries_is_not_tried_again(host):
    host.load(timeout_s=5, retries=3, cancel_on_timeout=True)
    host.down(ModelError("no weights"))
    assert host.registry.models[ev.ModelId("m")].load.step is LoadStep.BACKOFF
    host.feed(ev.ClientVanished(ALICE))
    assert host.state() is None
    assert host.core.next_deadline() is None


@pytest.mark.parametrize("is_first", [True, False])
def test_a_load_that_somebody_has_asked_for_without_this_goes_on(host, is_first):
    callers = [tied(host) if (number == 0) == is_first else host.load(client=BOB) for number in (1, 0)]
    host.pass_time(5)
    host.feed(ev.ClientVanished(BOB))
    assert is_loading(host)
    host.up()
    assert host.state() == "READY"
    assert sorted(host.is_waiting(caller) for caller in callers) == [False, False]


def test_a_load_without_a_wait_has_it_go_on(host):
    tied(host)
    host.load(wait=False, client=BOB)
    host.pass_time(5)
    assert is_loading(host)


def test_a_load_ends_when_the_last_of_those_has_left_who_want_it_so(host):
    first, second = tied(host), tied(host, client=BOB, timeout_s=9)
    host.pass_time(5)
    assert isinstance(host.error(first), DeadlineExceededError)
    assert is_loading(host)
    host.pass_time(4)
    assert isinstance(host.error(second), DeadlineExceededError)
    assert host.state() is None


def test_who_waits_for_a_handle_or_with_a_call_counts():
    host = Driver(LAZY)
    tied(host)
    retrieving = host.retrieve(client=BOB)
    call = host.call(client=BOB)
    host.pass_time(5)
    host.feed(ev.CallCancelled(retrieving))
    assert is_loading(host)
    host.feed(ev.CallCancelled(call))
    assert host.state() is None


def test_a_load_that_others_have_begun_goes_on(host):
    host.sync(wait=False)
    host.scanned(("m",))
    caller = tied(host)
    host.pass_time(5)
    assert host.error(caller, DeadlineExceededError).message.endswith("what was asked for goes on")
    assert is_loading(host)


def test_a_model_that_is_loaded_stays_whoever_leaves(host):
    tied(host)
    host.up()
    host.feed(ev.ClientVanished(ALICE))
    assert host.state() == "READY"
    caller = tied(host, client=BOB)
    assert host.answer(caller).already_loaded
    host.feed(ev.ClientVanished(BOB))
    assert host.state() == "READY"


def test_what_was_evicted_is_loaded_on_use_as_before():
    host = MemoryDriver()
    host.evict_to_the_end()
    tied(host)
    host.pass_time(5)
    assert host.state() is None
    assert [model.state for model in host.queries.each_of_all_models([])] == ["EVICTED"]
    host.retrieve()
    assert is_loading(host)


def test_a_reload_or_an_unload_that_overtakes_it_is_what_counts(host):
    first = tied(host)
    host.found()
    host.load(reload=True, client=BOB)
    host.pass_time(5)
    host.gone()
    assert isinstance(host.error(first), DeadlineExceededError)
    assert is_loading(host)
    host.up()
    assert host.state() == "READY"
    host.unload()
    host.gone(host.killed()[0])
    second = tied(host)
    host.unload(client=BOB)
    assert isinstance(host.error(second), AbortedError)
    assert host.effects_of(fx.KillWorker) == []


@pytest.mark.parametrize(("how", "words"), [({"reload": True}, "a reload"), ({"wait": False}, "is not waited for")])
def test_what_cannot_end_with_its_caller_is_refused(host, how, words):
    error = host.error(host.load(cancel_on_timeout=True, **how))
    assert isinstance(error, InvalidArgumentError)
    assert isinstance(error, HostError)
    assert words in error.message
    assert host.state() is None
