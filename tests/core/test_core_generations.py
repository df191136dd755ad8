"""Generations: what an earlier load of an id left behind does not touch a later one, and is not forgotten."""

from __future__ import annotations

import pytest
from driver import SPEC, Driver, memory_of, source_of

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.records import UnloadReport
from hostd_workers.wire.errors import NotFoundError

OLD, NEW = ev.WorkerId(1), ev.WorkerId(2)


@pytest.fixture
def host() -> Driver:
    """A host with a model that crashed: its worker has ended, and its descendants are not proven gone."""
    host = Driver()
    host.up_to("READY")
    host.exited("killed by SIGSEGV")
    assert (host.state(), host.worker_state(OLD)) == ("FAILED", "KILLING")
    return host


def test_a_crashed_model_can_be_loaded_again_while_its_old_worker_still_dies(host):
    caller = host.up_to("READY")
    assert (host.state(), host.worker_state(OLD), host.worker_state(NEW)) == ("READY", "KILLING", "READY")
    assert host.answer(caller).generation == 2
    assert [worker.id for worker in host.answer(caller).workers] == [NEW]
    host.gone(OLD)
    assert (host.state(), host.worker_state(OLD)) == ("READY", None)
    call = host.call()
    host.answered(host.sent(call))
    assert host.answer(call) == "done"


def test_a_crashed_model_can_be_loaded_again_from_something_else(host):
    caller = host.load("m", source_of("/elsewhere"))
    host.found()
    assert host.is_waiting(caller)
    assert host.model().path == "/elsewhere"


def test_the_end_of_the_old_worker_does_not_end_the_new_load(host):
    caller = host.up_to("FINDING")
    host.gone(OLD)
    assert host.is_waiting(caller)
    host.found()
    assert host.effects_of(fx.SpawnWorker) == [fx.SpawnWorker(NEW, "m", SPEC, 1, None)]


def test_what_the_old_worker_says_does_not_touch_the_new_load(host):
    host.up_to("STARTED")
    host.measured(OLD, memory_of(123_456))
    host.said_last_words(NotFoundError("x"), OLD)
    host.greeted(OLD)
    host.loaded(OLD)
    host.not_loaded(NotFoundError("x"), OLD)
    assert host.worker_state(NEW) == "SPAWNING"
    assert host.model().size is None
    assert host.model().methods == {}


def test_an_unload_waits_for_what_is_left_of_earlier_generations(host):
    host.up_to("READY")
    caller = host.unload()
    host.gone(NEW)
    assert host.is_waiting(caller)
    assert host.state() == "UNLOADING"
    host.gone(OLD)
    assert host.answer(caller).processes == 1
    assert host.state() is None


def test_an_unload_while_finding_waits_for_what_is_left_of_earlier_generations(host):
    host.up_to("FINDING")
    caller = host.unload()
    assert host.is_waiting(caller)
    assert host.killed() == []
    host.gone(OLD)
    assert host.answer(caller) == UnloadReport("m")


def test_unloading_all_waits_for_what_is_left_of_earlier_generations(host):
    host.up_to("READY")
    caller = host.unload_all()
    host.gone(NEW)
    assert host.is_waiting(caller)
    host.gone(OLD)
    assert [report.model_id for report in host.answer(caller)] == ["m"]


def test_a_refused_load_ends_when_nothing_is_left_of_earlier_generations(host):
    caller = host.up_to("FINDING")
    host.not_found(NotFoundError("no such path"))
    joined = host.load()
    assert host.is_waiting(caller)
    host.gone(OLD)
    assert host.error(caller) is host.error(joined)
    assert isinstance(host.error(caller), NotFoundError)
    assert host.answer(host.unload()) == UnloadReport("m")


@pytest.mark.parametrize("order", [(OLD, NEW), (NEW, OLD)])
def test_a_failed_load_ends_when_the_workers_of_both_generations_are_gone(host, order):
    caller = host.up_to("LOADING")
    host.exited("exit code 9", NEW)
    host.gone(order[0])
    assert host.is_waiting(caller)
    host.gone(order[1])
    assert "exit code 9" in host.error(caller).message


def test_a_model_that_crashes_again_and_again_keeps_nothing_of_the_generations_that_are_gone(host):
    for number in range(2, 6):
        host.up_to("READY")
        host.exited()
        host.gone(ev.WorkerId(number - 1))
    model = host.registry.models["m"]
    kept = []
    while model.earlier:
        kept.append(model.earlier[0].id)
        model = model.earlier[0].model
    assert kept == [4]
    caller = host.unload()
    assert host.is_waiting(caller)
    host.gone(ev.WorkerId(5))
    assert host.answer(caller).processes == 1


def test_forgetting_an_earlier_generation_leaves_the_later_one(host):
    registry = host.registry
    earlier = registry.models["m"]
    host.load()
    registry.forget_model(earlier)
    assert registry.models["m"].generation == 2
