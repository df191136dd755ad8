"""Loads that fail: every way, the error that all that wait get, and the fresh start after it."""

from __future__ import annotations

import pytest
from driver import BOB, Driver, source_of

from hostd_workers.wire.errors import (
    AlreadyExistsError,
    DeadlineExceededError,
    ModelError,
    NotFoundError,
    UnavailableError,
)

REFUSAL = ModelError("loading failed: ValueError: no weights", details={"traceback": "File model.py, line 3"})


def test_a_load_that_the_worker_refuses_fails_when_the_worker_is_gone(host):
    caller = host.up_to("LOADING")
    host.not_loaded(REFUSAL)
    assert host.killed() == [1]
    assert host.is_waiting(caller)
    host.exited("killed by SIGKILL")
    assert host.is_waiting(caller)
    host.gone()
    assert host.answer(caller) is REFUSAL
    assert (host.state(), host.worker_state()) == (None, None)
    assert host.core.next_deadline() is None


def test_a_model_that_was_loaded_but_not_measured_may_still_be_refused(host):
    caller = host.up_to("MEASURING")
    host.not_loaded(REFUSAL)
    host.measured()
    host.gone()
    assert host.answer(caller) is REFUSAL


@pytest.mark.parametrize("stage", ["SPAWNING", "STARTED", "LOADING", "MEASURING"])
def test_a_load_fails_with_how_its_worker_died(host, stage):
    caller = host.up_to(stage)
    host.exited("killed by SIGSEGV")
    assert host.killed() == [1]
    assert host.is_waiting(caller)
    host.gone()
    error = host.error(caller, UnavailableError)
    assert error.message == "the worker of model 'm' died: killed by SIGSEGV"
    pid = None if stage == "SPAWNING" else 5001
    assert error.details == {"exit": "killed by SIGSEGV", "pid": pid, "model_id": "m"}
    assert host.state() is None


def test_the_last_words_of_a_worker_are_part_of_the_error(host):
    caller = host.up_to("LOADING")
    host.said_last_words(ModelError("SystemExit: 3", details={"traceback": "File model.py", "pid": "a lie"}))
    assert host.effects == []
    host.exited("exit code 3")
    host.gone()
    error = host.error(caller)
    assert error.message == "the worker of model 'm' died: exit code 3; its last words: SystemExit: 3"
    died = {"exit": "exit code 3", "pid": 5001, "model_id": "m", "last_words": "SystemExit: 3"}
    assert error.details == {"traceback": "File model.py", **died}


def test_last_words_that_are_heard_after_the_exit_are_part_of_the_error_too(host):
    caller = host.up_to("LOADING")
    host.exited("exit code 3")
    host.said_last_words(ModelError("SystemExit: 3"))
    host.gone()
    assert "its last words: SystemExit: 3" in host.error(caller).message


def test_what_a_silent_worker_printed_last_is_part_of_the_error(host):
    caller = host.up_to("STARTED")
    host.exited("exit code 1")
    host.gone(output="\n".join(["\tcut", *"abcd", "No module named 'zmq'"]) + "\n\n")
    error = host.error(caller)
    assert error.message == ("the worker of model 'm' died: exit code 1; it printed: a\nb\nc\nd\nNo module named 'zmq'")
    assert host.queries.story("m")[-1].reason == error.message


def test_what_a_silent_worker_printed_does_not_hide_why_its_load_failed(host):
    caller = host.up_to("STARTED")
    host.pass_time(31)
    host.gone(output="starting")
    assert isinstance(host.error(caller), DeadlineExceededError)


def test_a_worker_that_says_nothing_is_killed_when_its_time_is_over(host):
    caller = host.up_to("STARTED")
    host.pass_time(29.9)
    assert host.worker_state() == "SPAWNING"
    host.pass_time(0.2)
    assert host.worker_state() == "KILLING"
    assert host.processes[host.worker].is_killed
    assert host.is_waiting(caller)
    host.greeted()
    assert host.effects == []
    host.gone()
    error = host.error(caller, DeadlineExceededError)
    assert error.message == (
        "the worker said nothing within 30 s (workers.spawn_timeout_s). hostd logs m has what it printed; its "
        "interpreter is the host's own"
    )


def test_a_load_whose_process_is_not_known_for_too_long_is_ended(host):
    caller = host.up_to("SPAWNING")
    host.greeted()
    host.pass_time(601)
    assert host.killed() == [1]
    host.not_spawned(REFUSAL)
    assert "the load took longer than 600 s" in host.error(caller, DeadlineExceededError).message


@pytest.mark.parametrize("stage", ["LOADING", "MEASURING"])
def test_a_load_that_takes_too_long_is_ended(host, stage):
    host.load(wait=False)
    host.found()
    host.pass_time(20)
    host.started()
    caller = host.load()
    if stage == "MEASURING":
        host.loaded()
    host.pass_time(599.9)
    assert host.worker_state() == "LOADING"
    host.pass_time(0.2)
    assert host.worker_state() == "KILLING"
    host.loaded()
    assert host.effects == []
    host.measured()
    assert host.effects == []
    host.gone()
    error = host.error(caller, DeadlineExceededError)
    assert error.message == (
        "the load took longer than 600 s (workers.load_timeout_s). hostd logs m has what it printed; hostd stack says "
        "during a load where it is"
    )


def test_c08_a_load_that_comes_while_the_worker_of_a_failed_one_dies_gets_the_same_error(host):
    first = host.up_to("LOADING")
    host.not_loaded(REFUSAL)
    loads, retrieves, at_once = host.load(client=BOB), host.retrieve(client=BOB), host.load(wait=False)
    other = host.load("m", source_of("/elsewhere"))
    assert host.answer(at_once).state == "LOADING"
    assert isinstance(host.error(other), AlreadyExistsError)
    host.gone()
    assert host.answer(first) is host.answer(loads) is host.answer(retrieves) is REFUSAL
    assert len(host.processes) == 1


FAILURES = {
    "refused by the finder": ("FINDING", lambda host: host.not_found(NotFoundError("no such path"))),
    "never spawned": ("SPAWNING", lambda host: host.not_spawned(UnavailableError("no processes"))),
    "not kept after its hello": ("SPAWNING", lambda host: (host.greeted(), host.not_spawned(REFUSAL))),
    "silent": ("STARTED", lambda host: (host.pass_time(31), host.gone())),
    "refused by the worker": ("LOADING", lambda host: (host.not_loaded(REFUSAL), host.gone())),
    "died": ("LOADING", lambda host: (host.exited(), host.gone())),
    "endless": ("LOADING", lambda host: (host.pass_time(601), host.gone())),
}


@pytest.mark.parametrize("name", FAILURES)
def test_c10_after_a_failed_load_the_model_is_not_there_and_a_new_load_starts_afresh(name):
    stage, fail = FAILURES[name]
    host = Driver()
    first = host.up_to(stage)
    fail(host)
    error = host.error(first)
    assert host.queries.list_models() == []
    assert isinstance(host.error(host.call()), NotFoundError)
    assert isinstance(host.error(host.retrieve()), NotFoundError)
    assert host.answer(host.unload()).processes == 0
    assert host.queries.story("m")[-1].new == "FAILED"
    assert host.queries.story("m")[-1].reason == error.message

    again = host.up_to("READY")
    assert host.answer(again).generation == 2
    assert host.answer(again).reason.startswith("loaded in ")


@pytest.mark.parametrize("name", FAILURES)
def test_a_failed_load_that_nobody_waits_for_ends_the_same_way(name):
    stage, fail = FAILURES[name]
    host = Driver()
    caller = host.up_to(stage, timeout_s=0.001)
    host.pass_time(0.001)
    assert isinstance(host.error(caller), DeadlineExceededError)
    fail(host)
    assert host.queries.list_models() == []
    assert host.queries.worker_count() == 0
    assert host.core.next_deadline() is None
