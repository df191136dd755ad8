"""Replaces: a new generation loads beside the one that serves, and takes its place when its files are there to stay."""

from __future__ import annotations

import pytest
from driver import BOB, LAZY, Driver
from endings import finish, is_clean

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd_workers.wire.errors import (
    AbortedError,
    AlreadyExistsError,
    FailedPreconditionError,
    ModelError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)

OLD, NEW = ev.WorkerId(1), ev.WorkerId(2)
REFUSAL = ModelError("no weights")
DISK_FULL = ResourceExhaustedError("no space left on device")
STEPS = ("STAGING", "UPLOADING", "INSTALLING", "FINDING", "LOADING", "CONFIRMING")


@pytest.fixture
def host() -> Driver:
    """A host with a model that serves."""
    host = Driver()
    host.up_to("READY")
    return host


def served_by(host: Driver) -> ev.WorkerId:
    """Return the worker that gets a call now."""
    call = host.call(client=BOB)
    sent = host.sent(call)
    host.answered(sent)
    return sent.worker_id


def test_c32_the_old_one_serves_until_the_new_one_is_ready_and_there_to_stay(host):
    commit = host.deploy_up_to("LOADING", replace=True)
    assert host.model().generation == 1
    assert served_by(host) == OLD
    host.loaded()
    host.measured()
    assert host.effects_of(fx.ConfirmFiles) == [fx.ConfirmFiles(1)]
    assert (served_by(host), host.model().generation) == (OLD, 1)
    host.done()
    answer = host.answer(commit)
    assert (answer.state, answer.generation) == ("READY", 2)
    assert served_by(host) == NEW
    assert host.killed() == []
    assert host.worker_state(OLD) == "KILLING"
    host.gone(OLD)
    assert (host.state(), host.worker_state(OLD), is_clean(host)) == ("READY", None, True)


def test_c32_the_old_ones_calls_end_before_it_goes(host):
    call = host.call()
    host.deployed(replace=True)
    assert host.worker_state(OLD) == "DRAINING"
    assert served_by(host) == NEW
    host.answered(host.sent(call), "still served")
    assert host.answer(call) == "still served"
    assert host.worker_state(OLD) == "KILLING"


@pytest.mark.parametrize("fail", ["not found", "refused", "died", "endless"])
def test_c32_the_old_one_stays_if_the_new_one_fails(host, fail):
    commit = host.deploy_up_to("FINDING", replace=True)
    if fail == "not found":
        host.not_found(NotFoundError("no finder knows it"))
    elif fail == "refused":
        host.down(REFUSAL)
    else:
        host.found()
        host.spawned()
        host.exited() if fail == "died" else host.pass_time(31)
        host.gone()
    assert host.next_step() is fx.UndoFiles
    assert host.is_waiting(commit)
    assert served_by(host) == OLD
    host.done()
    assert host.error(commit)
    assert (host.state(), served_by(host), is_clean(host)) == ("READY", OLD, True)
    assert host.answer(host.load()).generation == 1


def test_c32_a_new_one_that_fails_is_tried_again_beside_the_old_one(host):
    commit = host.deploy_up_to("FINDING", replace=True, retries=1)
    host.down(REFUSAL)
    assert served_by(host) == OLD
    host.pass_time(0.2)
    host.up()
    host.done()
    assert host.answer(commit).generation == 2


def test_c32_files_of_a_new_one_that_fails_stay_if_that_was_asked_for_and_the_old_one_serves(host):
    commit = host.deploy_up_to("FINDING", replace=True, keep=True)
    host.down(REFUSAL)
    assert host.next_step() is fx.ConfirmFiles
    host.done()
    assert host.answer(commit) is REFUSAL
    assert (served_by(host), host.files.tidied, is_clean(host)) == (OLD, [1], True)


def test_c32_the_old_one_stays_if_the_new_files_cannot_be_made_to_last(host):
    commit = host.deploy_up_to("CONFIRMING", replace=True)
    host.not_done(DISK_FULL)
    assert host.worker_state(NEW) == "KILLING"
    finish(host)
    assert host.error(commit).message == "no space left on device"
    assert (host.state(), served_by(host), is_clean(host)) == ("READY", OLD, True)


def test_c32_a_model_that_crashed_is_replaced_by_a_load_in_its_place(host):
    host.exited()
    commit = host.deploy_up_to("FINDING", replace=True)
    assert (host.state(), host.registry.successors) == ("LOADING", {})
    host.up()
    host.done()
    assert host.answer(commit).state == "READY"


def test_c32_an_old_one_that_crashes_meanwhile_is_replaced_when_the_new_one_is_there_to_stay(host):
    commit = host.deploy_up_to("LOADING", replace=True)
    host.exited("killed by SIGKILL", OLD)
    assert host.state() == "FAILED"
    assert isinstance(host.error(host.load(client=BOB)), FailedPreconditionError)
    host.loaded()
    host.measured()
    assert isinstance(host.error(host.call()), FailedPreconditionError)
    host.done()
    assert host.answer(commit).state == "READY"
    assert served_by(host) == NEW
    host.gone(OLD)
    assert host.state() == "READY"


def test_c32_an_old_one_of_which_nothing_is_left_is_replaced_too(host):
    commit = host.deploy_up_to("LOADING", replace=True)
    host.exited(worker=OLD)
    host.gone(OLD)
    host.loaded()
    host.measured()
    host.done()
    assert host.answer(commit).generation == 2
    assert [event.new for event in host.queries.story("m") if event.generation == 1][-2:] == [
        "UNLOADING",
        "UNLOADED",
    ]


def test_with_lazy_loading_nothing_is_loaded_beside_a_replacement():
    host = Driver(LAZY)
    host.up_to("READY")
    host.deploy_up_to("LOADING", replace=True)
    host.exited(worker=OLD)
    error = host.error(host.call(), FailedPreconditionError)
    assert error.message.startswith("model 'm' cannot be loaded now: it is being ")
    assert isinstance(host.error(host.retrieve()), FailedPreconditionError)


def test_a_new_one_that_dies_before_it_is_confirmed_leaves_the_old_one_to_serve_and_says_so(host):
    commit = host.deploy_up_to("CONFIRMING", replace=True)
    host.exited("killed by SIGKILL", NEW)
    host.gone(NEW)
    host.done()
    error = host.error(commit, AbortedError)
    assert "killed by SIGKILL" in error.message
    assert served_by(host) == OLD


def test_a_new_one_that_dies_just_before_it_is_confirmed_is_waited_for(host):
    host.deploy_up_to("CONFIRMING", replace=True)
    host.exited("killed by SIGKILL", NEW)
    host.done()
    unload = host.unload()
    host.gone(OLD)
    assert host.is_waiting(unload)
    host.gone(NEW)
    assert host.state() is None


@pytest.mark.parametrize("step", STEPS)
def test_c20_an_unload_at_every_step_of_a_replacement_waits_for_every_process(host, step):
    caller = host.deploy_up_to(step, replace=True)
    unload = host.unload(client=BOB)
    for worker in (OLD, NEW):
        if worker in host.processes:
            assert host.is_waiting(unload)
            host.gone(worker)
    assert host.answer(unload).model_id == "m"
    finish(host)
    if step in ("FINDING", "LOADING"):
        assert isinstance(host.error(caller), AbortedError)
        assert host.error(caller).message == "the deploy of model 'm' was overtaken: unload requested"
    elif step == "CONFIRMING":
        assert host.error(caller).message.endswith("its files stay")
    elif step == "INSTALLING":
        host.up()  # nothing is in its way any more: it is a deploy like any other
        host.done()
        assert host.answer(caller).generation == 2


def test_an_unload_that_is_under_way_when_the_files_are_installed_undoes_them(host):
    commit = host.deploy_up_to("INSTALLING", replace=True)
    host.unload()
    host.done()
    assert host.next_step() is fx.UndoFiles
    host.done()
    assert isinstance(host.error(commit), FailedPreconditionError)
    assert "UNLOADING" in host.error(commit).message


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_c34_a_host_can_be_shut_down_at_every_step_of_a_replacement(step, at_once):
    host = Driver()
    host.up_to("READY")
    host.call()
    caller = host.deploy_up_to(step, replace=True)
    stop = host.shut_down(client=BOB, at_once=at_once)
    host.pass_time(10)
    assert not host.has_stopped
    finish(host)
    assert host.answer(stop) is None
    if step != "UPLOADING":
        assert isinstance(host.error(caller), (AbortedError, UnavailableError))
    assert is_clean(host)


def test_c32_what_loads_and_unloads_cannot_be_replaced(host):
    host.deploy_up_to("UPLOADING", replace=True)
    host.unload()
    commit = host.commit()
    host.done()
    assert "UNLOADING" in host.error(commit).message
    host.gone()
    host.load()
    error = host.error(host.deploy(replace=True), FailedPreconditionError)
    assert error.message == "model 'm' is LOADING: wait for it with retrieve_model"


@pytest.mark.parametrize("step", ["INSTALLING", "FINDING", "LOADING", "CONFIRMING"])
def test_of_two_replacements_the_second_waits_its_turn(host, step):
    host.deploy(replace=True, client=BOB)
    host.done(1)
    first = host.deploy_up_to(step, replace=True)
    second = host.commit(1, client=BOB)
    assert host.effects == [fx.UndoFiles(1)]
    host.done(1)
    assert isinstance(host.error(second), FailedPreconditionError)
    assert host.is_waiting(first)


@pytest.mark.parametrize("step", ["INSTALLING", "FINDING", "LOADING"])
def test_of_two_deploys_of_one_id_the_first_to_be_committed_wins(step):
    host = Driver()
    host.deploy(client=BOB)
    host.done(1)
    first = host.deploy_up_to(step)
    second = host.commit(1, client=BOB)
    host.done(1)
    assert isinstance(host.error(second), (AlreadyExistsError, FailedPreconditionError))
    assert host.is_waiting(first)


def test_what_is_being_confirmed_is_not_replaced():
    host = Driver()
    host.deploy(replace=True, client=BOB)
    host.done(1)
    first = host.deploy_up_to("CONFIRMING")
    second = host.commit(1, client=BOB)
    assert host.effects == [fx.UndoFiles(1)]
    host.done(1)
    assert isinstance(host.error(second), FailedPreconditionError)
    host.done(2)
    assert host.answer(first).state == "READY"


def test_nobody_loads_an_id_while_its_files_may_still_be_undone():
    host = Driver()
    commit = host.deploy_up_to("FINDING", keep=True)
    host.down(REFUSAL)
    assert host.next_step() is fx.ConfirmFiles
    host.load(client=BOB)
    host.not_done(DISK_FULL)
    host.done()
    assert host.error(commit).message == "no space left on device"


def test_replacements_follow_one_another_and_leave_nothing(host):
    for generation in range(2, 6):
        assert host.deployed(replace=True).generation == generation
    assert host.queries.worker_count() == 5
    finish(host)
    assert host.queries.worker_count() == 1
    assert host.registry.models["m"].alive() == [host.registry.workers[ev.WorkerId(5)]]


def test_c20_an_unload_after_a_replacement_waits_for_what_is_left_of_the_old_one(host):
    host.call()
    host.deployed(replace=True)
    unload = host.unload()
    host.gone(NEW)
    assert host.is_waiting(unload)
    host.pass_time(10)
    host.gone(OLD)
    assert host.answer(unload).model_id == "m"


def test_c21_a_replacement_that_an_unload_overtakes_while_its_finder_looks_leaves_nothing_behind(host):
    host.deploy_up_to("FINDING", replace=True)
    host.unload()
    assert host.core.next_deadline() is None
    host.found()
    assert host.effects == []
    finish(host)
    assert (host.state(), host.queries.worker_count()) == (None, 0)


def test_c21_a_replacement_that_an_unload_overtakes_between_two_tries_is_not_tried_again(host):
    host.deploy_up_to("FINDING", replace=True, retries=1)
    host.down(REFUSAL)
    host.unload()
    assert host.core.next_deadline() is None
    finish(host)
    assert host.state() is None
