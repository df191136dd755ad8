"""Retries: a failed load is tried again in a fresh process, later and later, whether or not anybody waits."""

from __future__ import annotations

import dataclasses

import pytest
from driver import BOB, CONFIG, Driver, source_of

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.standing import MAX_RETRIES
from hostd_workers.wire.errors import (
    AbortedError,
    AlreadyExistsError,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    ModelError,
    NotFoundError,
    UnavailableError,
)


def refusal(number: int) -> ModelError:
    return ModelError(f"try {number}: no weights", details={"traceback": f"model.py, line {number}"})


def test_c10_a_failed_load_is_tried_again_in_a_fresh_process_until_it_succeeds(host):
    caller = host.load(retries=2)
    host.down(refusal(1))
    assert host.state() == "LOADING"
    assert host.is_waiting(caller)
    host.pass_time(0.2)
    host.down(refusal(2))
    host.pass_time(0.4)
    host.up()
    answer = host.answer(caller)
    assert (answer.state, answer.generation) == ("READY", 1)
    assert [process.id for process in host.processes.values()] == [1, 2, 3]
    assert host.core.next_deadline() is None


def test_c10_every_waiter_gets_the_error_of_the_last_try(host):
    first = host.load(retries=1)
    host.down(refusal(1))
    second, third = host.retrieve(client=BOB), host.load(client=BOB)
    host.pass_time(0.2)
    last = refusal(2)
    host.down(last)
    assert host.answer(first) is host.answer(second) is host.answer(third) is last
    assert host.error(first).details == {"traceback": "model.py, line 2"}
    assert host.state() is None


@pytest.mark.parametrize("wait", [False, True])
def test_c10_a_load_is_retried_whether_or_not_anybody_waits(host, wait):
    caller = host.load(retries=1, wait=wait, timeout_s=0.1)
    host.down(refusal(1))
    host.pass_time(0.1)
    assert not host.is_waiting(caller)
    host.pass_time(0.1)
    host.up()
    assert host.state() == "READY"


def test_c10_the_time_before_a_try_doubles_up_to_a_limit():
    host = Driver(dataclasses.replace(CONFIG, retry_backoff_s=1.0, retry_max_backoff_s=5.0))
    host.load(retries=5)
    waits_s = []
    for number in range(5):
        host.down(refusal(number))
        waits_s.append(host.core.next_deadline() - host.now)
        host.pass_time(waits_s[-1])
    assert waits_s == [1, 2, 4, 5, 5]


def test_c10_a_try_does_not_begin_before_every_process_of_the_former_is_gone(host):
    host.load(retries=1)
    host.found()
    host.spawned()
    host.exited("killed by SIGSEGV")
    host.pass_time(100)
    assert host.finds == []
    host.gone()
    host.pass_time(0.2)
    assert [find.generation for find in host.finds] == [1]


def test_the_number_of_retries_is_that_of_the_configuration_if_nobody_names_one():
    host = Driver(dataclasses.replace(CONFIG, load_retries=1))
    configured = host.load("a")
    host.down(refusal(1))
    host.pass_time(1)
    host.down(refusal(2))
    assert host.answer(configured).message == refusal(2).message
    none = host.load("b", retries=0)
    host.down(refusal(3))
    assert host.answer(none).message == refusal(3).message


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (ModelError("no weights"), 3),
        (UnavailableError("it died"), 3),
        (NotFoundError("the file is gone"), 3),
        (InvalidArgumentError("no such option"), 1),
        (FailedPreconditionError("no such library"), 1),
        (ModelError("a pointer of Git LFS", details={"permanent": True}), 1),
        (InvalidArgumentError("the files were changed", details={"permanent": False}), 3),
    ],
    ids=str,
)
def test_what_would_fail_in_the_same_way_is_not_tried_again(host, error, tries):
    caller = host.load(retries=2)
    for _ in range(tries):
        host.down(error)
        host.pass_time(5)
    assert host.answer(caller) is error
    assert len(host.processes) == tries


@pytest.mark.parametrize("retries", [-1, MAX_RETRIES + 1])
def test_a_number_of_retries_that_makes_no_sense_is_refused(host, retries):
    error = host.error(host.load(retries=retries), InvalidArgumentError)
    assert error.message == f"retries must be from 0 to {MAX_RETRIES}, got {retries}"
    assert host.state() is None


def test_the_greatest_number_of_retries_can_be_had(host):
    assert host.is_waiting(host.load(retries=MAX_RETRIES))


def test_what_no_finder_knows_is_not_tried_again(host):
    caller = host.load(retries=3)
    error = NotFoundError("there is nothing at /models/m")
    host.not_found(error)
    assert host.answer(caller) is error
    assert host.core.next_deadline() is None


def test_a_finder_that_never_answers_is_not_asked_again_and_its_late_answer_is_ignored(host):
    caller = host.load(retries=3)
    host.pass_time(600)
    error = host.error(caller, DeadlineExceededError)
    assert error.message == "no finder could say within 600 s (workers.load_timeout_s) how to load it"
    host.found()
    assert host.effects == []
    assert host.state() is None


def test_the_source_that_was_found_is_looked_for_again(host):
    host.load(retries=1)
    host.found(path="/models/m.joblib")
    host.not_spawned(UnavailableError("no processes"))
    host.pass_time(1)
    assert host.finds[-1] == fx.FindSpec("m", 1, source_of("/models/m.joblib"), ev.Origin.REQUESTED)


def test_a_load_between_two_tries_is_joined_and_not_begun_anew(host):
    host.load(retries=1)
    host.down(refusal(1))
    same, other = host.load(client=BOB, retries=7), host.load(source=source_of("/elsewhere"))
    assert isinstance(host.error(other), AlreadyExistsError)
    host.pass_time(0.2)
    host.down(refusal(2))
    assert host.error(same).message == refusal(2).message


def test_a_try_is_told_with_what_went_wrong_and_when_the_next_comes(host):
    host.load(retries=2)
    host.down(refusal(1))
    told = host.queries.story("m")[-1]
    assert (told.old, told.new, told.cause) == ("LOADING", "LOADING", "RETRY")
    assert told.reason == "try 1 of 3 failed, the next in 0.2 s: try 1: no weights"
    assert host.model().reason == told.reason
    host.pass_time(1)
    host.down(refusal(2))
    assert host.queries.story("m")[-1].reason == "try 2 of 3 failed, the next in 0.4 s: try 2: no weights"


@pytest.mark.parametrize("end", ["unload", "unload_all", "shut_down"])
def test_an_unload_or_a_shutdown_between_two_tries_ends_the_load_at_once(host, end):
    waiting = host.load(retries=2)
    host.down(refusal(1))
    caller = getattr(host, end)()
    assert isinstance(host.error(waiting), AbortedError)
    assert not host.is_waiting(caller)
    assert (host.state(), host.core.next_deadline()) == (None, None)
    host.pass_time(100)
    assert host.finds == []


def test_c20_what_failed_tries_gave_back_is_not_part_of_an_unloads_report(host):
    host.load(retries=1)
    host.down(refusal(1))
    host.pass_time(1)
    host.up()
    caller = host.unload()
    host.gone(freed_bytes=7, processes=3)
    assert (host.answer(caller).freed_bytes, host.answer(caller).processes) == (7, 3)
