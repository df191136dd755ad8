"""Unloads: begun at once in every state, answered when the operating system has nothing left of the model."""

from __future__ import annotations

import pytest
from driver import BOB, memory_of

from hostd.core import events as ev
from hostd.records import UnloadReport
from hostd_workers.wire.errors import (
    AbortedError,
    DeadlineExceededError,
    ModelError,
    NotFoundError,
)


def test_c20_unloading_what_is_not_loaded_reports_nothing_and_is_no_error(host):
    assert host.answer(host.unload("nobody")) == UnloadReport("nobody")


def test_c20_an_unload_is_answered_after_the_proof_and_reports_what_came_back(host):
    host.up_to("READY")
    host.measured(memory=memory_of(4096, processes=3))
    caller = host.unload()
    assert host.killed() == [1]
    assert (host.state(), host.worker_state()) == ("UNLOADING", "KILLING")
    host.pass_time(1.5)
    host.exited("killed by SIGKILL")
    assert host.is_waiting(caller)
    host.gone(freed_bytes=4000, processes=3)
    report = UnloadReport("m", size_bytes=4096, freed_bytes=4000, processes=3, duration_s=1.5)
    assert host.answer(caller) == report
    assert (host.state(), host.worker_state()) == (None, None)
    assert host.core.next_deadline() is None


def test_c21_unloading_while_finding_ends_at_once_and_a_late_finder_changes_nothing(host):
    waiting = host.up_to("FINDING")
    caller = host.unload()
    assert host.answer(caller) == UnloadReport("m")
    assert host.error(waiting, AbortedError).message == "the load of model 'm' was overtaken: unload requested"
    host.found()
    assert host.effects == []
    assert host.state() is None


@pytest.mark.parametrize("stage", ["SPAWNING", "STARTED", "LOADING", "MEASURING"])
def test_c21_unloading_while_loading_cancels_the_load_at_once(host, stage):
    waiting = host.up_to(stage)
    also_waiting = host.retrieve(timeout_s=5, client=BOB)
    caller = host.unload()
    assert isinstance(host.error(waiting), AbortedError)
    assert isinstance(host.error(also_waiting), AbortedError)
    assert host.killed() == [1]
    assert host.core.next_deadline() is None
    for late in (host.spawned, host.greeted, host.loaded, host.measured):
        late()
        assert host.effects == []
    host.not_loaded(ModelError("x"))
    assert host.effects == []
    assert host.is_waiting(caller)
    host.gone()
    assert host.answer(caller).processes == 1
    assert host.state() is None


def test_unloading_before_there_is_a_process_waits_until_it_is_sure_that_there_is_none(host):
    host.up_to("SPAWNING")
    caller = host.unload()
    assert host.is_waiting(caller)
    host.not_spawned(NotFoundError("no interpreter"))
    assert host.answer(caller) == UnloadReport("m")
    assert (host.state(), host.worker_state()) == (None, None)


def test_unloading_a_failed_model_without_processes_ends_at_once(host):
    host.up_to("READY")
    host.exited()
    host.gone(freed_bytes=7, processes=2)
    assert host.state() == "FAILED"
    report = host.answer(host.unload())
    assert (report.freed_bytes, report.processes, report.duration_s) == (7, 2, 0)
    assert host.state() is None


def test_unloading_twice_unloads_once_and_answers_both(host):
    host.up_to("READY")
    first = host.unload()
    host.pass_time(1)
    second = host.unload(client=BOB)
    assert host.effects == []
    host.gone()
    assert host.answer(first) is host.answer(second)
    assert host.answer(first).duration_s == 1


# Draining


def test_c22_calls_in_flight_finish_before_the_worker_is_killed(host):
    host.up_to("READY")
    first, second = host.call(), host.call()
    caller = host.unload()
    assert (host.state(), host.worker_state()) == ("UNLOADING", "DRAINING")
    assert host.killed() == []
    host.answered(host.sent(first), "one")
    assert host.worker_state() == "DRAINING"
    host.answered(host.sent(second), "more", final=False)
    assert host.worker_state() == "DRAINING"
    host.answered(host.sent(second), "two")
    assert host.killed() == [1]
    assert host.worker_state() == "KILLING"
    host.gone()
    assert (host.answer(first), host.answer(second)) == ("one", "two")
    assert host.answer(caller).processes == 1
    assert host.core.next_deadline() is None


def test_c22_calls_that_do_not_finish_in_time_are_aborted_and_the_worker_killed(host):
    host.up_to("READY")
    finishing, hanging = host.call(), host.call()
    host.unload()
    host.pass_time(9.9)
    host.answered(host.sent(finishing))
    host.pass_time(0.2)
    error = host.error(hanging, AbortedError)
    assert error.message == ("model 'm' was unloaded: calls did not end within 10 s (workers.drain_timeout_s)")
    assert host.worker_state() == "KILLING"
    assert host.processes[host.worker].is_killed


@pytest.mark.parametrize(
    "end",
    [
        lambda host, call: host.pass_time(5),
        lambda host, call: host.feed(ev.CallCancelled(call)),
        lambda host, call: host.feed(ev.ClientVanished(call.client)),
        lambda host, call: host.feed(ev.WorkerUnreachable(host.worker, host.sent(call).call_id, is_full=False)),
        lambda host, call: host.answered(host.sent(call), failed=True),
    ],
    ids=["deadline", "cancelled", "client vanished", "not sent", "the model raised"],
)
def test_draining_ends_with_the_last_call_however_that_ends(host, end):
    host.up_to("READY")
    call = host.call(timeout_s=5)
    caller = host.unload(client=BOB)
    end(host, call)
    assert host.worker_state() == "KILLING"
    assert host.processes[host.worker].is_killed
    host.gone()
    assert host.answer(caller).processes == 1


def test_a_worker_that_dies_while_draining_ends_its_calls_and_the_unload(host):
    host.up_to("READY")
    call, caller = host.call(), host.unload()
    host.exited("killed by SIGSEGV")
    assert "killed by SIGSEGV" in host.error(call).message
    assert host.state() == "UNLOADING"
    host.gone()
    assert host.answer(caller).processes == 1


def test_a_deadline_that_comes_with_the_end_of_the_drain_is_answered_once(host):
    host.up_to("READY")
    host.pass_time(1)
    call = host.call(timeout_s=10)
    host.unload()
    host.pass_time(10)
    assert isinstance(host.error(call), DeadlineExceededError)
    assert host.worker_state() == "KILLING"


# All of them


def test_c23_unloading_all_of_nothing_is_answered_at_once(host):
    assert host.answer(host.unload_all()) == []


def test_c23_unloading_all_goes_on_in_parallel_and_reports_each(host):
    waiting = host.up_to("FINDING", "finding")
    host.finds.clear()
    host.up_to("READY", "idle")
    host.up_to("READY", "busy")
    host.up_to("READY", "crashed")
    host.exited()
    host.gone()
    call = host.call("busy")
    caller = host.unload_all()
    assert isinstance(host.error(waiting), AbortedError)
    assert {model.id: model.state for model in host.queries.list_models()} == {
        "idle": "UNLOADING",
        "busy": "UNLOADING",
    }
    host.answered(host.sent(call))
    host.gone(ev.WorkerId(2), freed_bytes=2)
    assert host.is_waiting(caller)
    host.gone(ev.WorkerId(1), freed_bytes=1)
    reports = host.answer(caller)
    assert [report.model_id for report in reports] == ["finding", "crashed", "busy", "idle"]
    assert [report.freed_bytes for report in reports] == [0, 100, 2, 1]


def test_unloading_all_of_what_has_no_process_is_answered_at_once(host):
    host.up_to("FINDING", "a")
    host.up_to("FINDING", "b")
    reports = host.answer(host.unload_all(timeout_s=5))
    assert [report.model_id for report in reports] == ["a", "b"]
    assert host.core.next_deadline() is None


def test_unloading_all_joins_unloads_that_are_under_way_and_other_callers(host):
    host.up_to("READY", "a")
    host.up_to("READY", "b")
    single = host.unload("a")
    first = host.unload_all()
    second = host.unload_all(client=BOB)
    host.gone(ev.WorkerId(1))
    assert host.answer(single).model_id == "a"
    assert host.is_waiting(first)
    host.gone(ev.WorkerId(2))
    assert {r.model_id for r in host.answer(first)} == {r.model_id for r in host.answer(second)} == {"a", "b"}


def test_unloading_all_does_not_wait_for_what_was_loaded_after_it(host):
    host.up_to("READY", "a")
    host.up_to("READY", "b")
    caller = host.unload_all()
    host.gone(ev.WorkerId(1))
    host.load("a")
    host.load("c")
    host.gone(ev.WorkerId(2))
    assert [report.model_id for report in host.answer(caller)] == ["a", "b"]
    assert host.state("a") == host.state("c") == "LOADING"


def test_unloading_all_is_not_answered_by_the_unload_of_what_was_loaded_after_it(host):
    host.up_to("READY", "a")
    caller = host.unload_all()
    host.load("b")
    assert host.answer(host.unload("b")).model_id == "b"
    host.gone(ev.WorkerId(1))
    assert [report.model_id for report in host.answer(caller)] == ["a"]
