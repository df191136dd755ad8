"""Callers that wait for the control plane: one answer each; one that leaves early changes nothing about what was asked for."""

from __future__ import annotations

import dataclasses

import pytest
from driver import ALICE, BOB, CONFIG, LAZY, Driver
from endings import finish
from outside import Asked

from hostd.core import events as ev
from hostd.core.deadlines import WaiterTimer
from hostd_workers.wire.errors import (
    AbortedError,
    CancelledError,
    DeadlineExceededError,
    InvalidArgumentError,
    ResourceExhaustedError,
)


def waiting_for_load(host: Driver) -> ev.Caller:
    return host.load("new", timeout_s=50)


def waiting_for_unload(host: Driver) -> ev.Caller:
    return host.unload(timeout_s=50)


def waiting_for_all(host: Driver) -> ev.Caller:
    return host.unload_all(timeout_s=50)


def waiting_for_retrieve(host: Driver) -> ev.Caller:
    host.load("new", client=BOB)
    return host.retrieve("new", timeout_s=50)


def waiting_for_commit(host: Driver) -> ev.Caller:
    host.deploy("new")
    host.done()
    return host.commit(timeout_s=50)


def waiting_for_undeploy(host: Driver) -> ev.Caller:
    return host.undeploy(timeout_s=50)


def waiting_for_sync(host: Driver) -> ev.Caller:
    return host.sync(timeout_s=50)


WAYS = {
    function.__name__.removeprefix("waiting_for_"): function
    for function in (
        waiting_for_load,
        waiting_for_retrieve,
        waiting_for_unload,
        waiting_for_all,
        waiting_for_commit,
        waiting_for_undeploy,
        waiting_for_sync,
    )
}


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


@pytest.fixture
def host() -> Driver:
    """A host with a model that serves."""
    host = Driver()
    host.up_to("READY")
    return host


def go_on(host: Driver) -> None:
    """Let what was asked for come to its end."""
    if host.files.scan is not None:
        host.scanned()
    finish(host)
    if host.finds:
        host.up()
        finish(host)


def test_c18_a_request_that_waits_may_be_cancelled_and_what_it_asked_for_goes_on(host, way):
    caller = way(host)
    host.feed(ev.CallCancelled(caller))
    error = host.error(caller, CancelledError)
    assert error.message == "the request was cancelled by its caller; what was asked for goes on"
    assert WaiterTimer(caller) not in host.registry.timers
    go_on(host)
    assert len(host.answers[caller]) == 1
    assert host.state("new") in (None, "READY")


def test_a_request_that_waits_is_answered_at_its_deadline_and_what_it_asked_for_goes_on(host, way):
    caller = way(host)
    if host.finds:
        host.found()
        host.started()
    host.pass_time(49)
    assert host.is_waiting(caller)
    host.pass_time(1)
    error = host.error(caller, DeadlineExceededError)
    assert error.message == "the deadline passed while waiting; what was asked for goes on"
    go_on(host)
    assert len(host.answers[caller]) == 1


def test_a_client_that_vanishes_is_not_answered_and_what_it_asked_for_goes_on(host, way):
    caller = way(host)
    host.feed(ev.ClientVanished(ALICE))
    assert len(host.registry.waiting) == sum(host.open.values())
    go_on(host)
    assert caller not in host.answers
    assert host.registry.files_in_work == set()


def test_every_request_that_waits_is_answered_at_its_end_once_and_its_deadline_is_forgotten(host, way):
    caller = way(host)
    go_on(host)
    assert not isinstance(host.answer(caller), Exception)
    host.pass_time(100)
    assert len(host.registry.waiting) == 0


def test_the_id_of_a_request_that_waits_may_not_be_used_again(host, way):
    caller = way(host)
    host.feed(ev.UnloadAllRequested(caller, None))
    assert [type(answer) for answer in host.answers[caller]] == [InvalidArgumentError]
    assert host.answers[caller][0].message == (
        f"request id {caller.request_id} is in use by another request of this client"
    )
    assert host.is_waiting(caller)
    go_on(host)
    assert len(host.answers[caller]) == 2


def test_the_id_of_a_request_that_waits_may_not_be_used_for_a_shutdown(host, way):
    caller = way(host)
    host.feed(ev.ShutdownRequested(caller))
    assert isinstance(host.answers[caller][0], InvalidArgumentError)
    go_on(host)
    assert len(host.answers[caller]) == 2


def test_the_same_id_of_another_client_is_another_request(host, way):
    caller = way(host)
    other = ev.Caller(BOB, caller.request_id)
    host.feed(ev.UnloadRequested(other, ev.ModelId("nobody"), None))
    assert host.answer(other).model_id == "nobody"
    assert host.is_waiting(caller)


def test_no_more_than_so_many_wait():
    host = Driver(dataclasses.replace(CONFIG, max_waiting=2))
    first = host.load("a")
    host.load("b")
    for ask in (lambda: host.load("c"), lambda: host.unload("a"), host.sync, host.deploy, host.undeploy):
        error = host.error(ask(), ResourceExhaustedError)
        assert error.message == (
            "2 requests of this client and 0 of others wait for loads and unloads; a client may have 2, and fewer if "
            "others wait too: wait for answers before asking for more"
        )
    assert [find.model_id for find in host.finds] == ["a", "b"]
    host.up("a")
    assert host.answer(first).state == "READY"
    assert host.is_waiting(host.load("c"))


def test_a_full_host_can_still_be_shut_down():
    host = Driver(dataclasses.replace(CONFIG, max_waiting=1))
    waiting = host.load()
    stop = host.shut_down(client=BOB)
    assert isinstance(host.error(waiting), AbortedError)
    assert host.answer(stop) is None


def test_cancelling_what_nobody_waits_for_changes_nothing(host):
    for caller in (host.caller(), host.load()):
        assert host.feed(ev.CallCancelled(caller)) == []


@pytest.mark.parametrize("is_call_first", [False, True])
def test_a_call_and_a_request_of_one_id_keep_their_own_deadlines(is_call_first):
    host = Driver(LAZY)
    host.load("x", wait=False)
    caller = host.caller()

    def call(timeout_s):
        at_s = host.now + timeout_s
        host.feed(ev.CallReceived(*caller, ev.ModelId("x"), "predict", at_s, 1, Asked(caller, 1)))

    def request(timeout_s):
        host.feed(ev.RetrieveRequested(caller, ev.ModelId("x"), host.now + timeout_s))

    first, second = (call, request) if is_call_first else (request, call)
    first(5)
    second(50)
    host.oversleep(6)
    assert len(host.answers[caller]) == 1
    host.oversleep(50)
    assert [type(answer) for answer in host.answers[caller]] == [DeadlineExceededError] * 2
