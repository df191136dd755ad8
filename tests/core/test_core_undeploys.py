"""Undeploys: the files are known to be there, the model is unloaded, the files go, and only then the answer comes."""

from __future__ import annotations

import pytest
from driver import BOB, LAZY, Driver
from endings import finish, is_clean

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.records import UnloadReport
from hostd_workers.wire.errors import (
    AbortedError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)

NOTHING = NotFoundError("there is nothing to undeploy at /models/m")
IN_USE = ResourceExhaustedError("the disk is full")
STEPS = ("CHECKING", "UNLOADING", "REMOVING")


def undeploy_up_to(host: Driver, step: str) -> ev.Caller:
    """Bring an undeploy of a READY model to a step; return the caller that waits for it."""
    host.up_to("READY")
    caller = host.undeploy()
    if step != "CHECKING":
        host.done()
    if step == "REMOVING":
        host.gone()
    return caller


def test_c31_an_undeploy_checks_unloads_removes_and_then_answers(host):
    host.up_to("READY")
    caller = host.undeploy()
    assert host.effects == [fx.CheckFiles(1, "m")]
    assert host.state() == "READY"
    host.done()
    assert (host.state(), host.effects_of(fx.RemoveFiles)) == ("UNLOADING", [])
    host.gone(freed_bytes=700, processes=2)
    assert host.effects_of(fx.RemoveFiles) == [fx.RemoveFiles(1, "m")]
    assert host.is_waiting(caller)
    host.done()
    assert host.answer(caller) == UnloadReport("m", size_bytes=1000, freed_bytes=700, processes=2)
    assert host.effects[-1] == fx.TidyFiles(1)
    assert is_clean(host)


def test_c31_what_is_not_loaded_is_undeployed_too(host):
    caller = host.undeploy()
    host.done()
    assert host.effects == [fx.RemoveFiles(1, "m")]
    host.done()
    assert host.answer(caller) == UnloadReport("m")


@pytest.mark.parametrize("stage", ["FINDING", "SPAWNING", "LOADING", "READY"])
def test_c31_what_is_unknown_is_not_found_and_nothing_is_unloaded(host, stage):
    host.up_to(stage)
    before = host.state()
    caller = host.undeploy()
    host.not_done(NOTHING)
    assert host.answer(caller) is NOTHING
    assert (host.state(), is_clean(host), host.files.tidied) == (before, True, [])


@pytest.mark.parametrize("model_id", ["", " ", ".", "..", "/", "../m", "/models"])
def test_c31_nothing_outside_and_never_the_directory_itself_can_be_named(host, model_id):
    assert isinstance(host.error(host.undeploy(model_id)), InvalidArgumentError)
    assert host.files.operations == {}


def test_c31_files_that_cannot_be_removed_are_an_error_and_the_id_is_free_again(host):
    caller = undeploy_up_to(host, "REMOVING")
    host.not_done(IN_USE)
    assert host.answer(caller) is IN_USE
    assert (host.state(), is_clean(host), host.files.tidied) == (None, True, [])
    host.up_to("READY")


@pytest.mark.parametrize("step", STEPS)
def test_c31_from_the_request_to_the_answer_nobody_loads_the_id(step):
    host = Driver(LAZY)
    undeploy_up_to(host, step)
    if step != "REMOVING":
        host.exited()
    assert isinstance(host.error(host.load(client=BOB)), FailedPreconditionError)
    assert isinstance(host.error(host.retrieve(client=BOB)), FailedPreconditionError)
    assert isinstance(host.error(host.call(client=BOB)), FailedPreconditionError)
    assert isinstance(host.error(host.undeploy(client=BOB)), FailedPreconditionError)
    assert host.finds == []
    finish(host)
    caller = host.retrieve()
    assert host.is_waiting(caller)


@pytest.mark.parametrize("stage", ["FINDING", "SPAWNING", "LOADING", "MEASURING"])
def test_c21_an_undeploy_overtakes_a_load(host, stage):
    load = host.up_to(stage)
    caller = host.undeploy()
    assert host.is_waiting(load)
    host.done()
    assert isinstance(host.error(load), AbortedError)
    assert host.error(load).message == "the load of model 'm' was overtaken: undeploy requested"
    if stage != "FINDING":
        assert host.next_step() is None
        host.gone()
    host.done()
    assert host.answer(caller).model_id == "m"


def test_c31_an_undeploy_waits_for_what_is_left_of_a_replaced_model(host):
    host.up_to("READY")
    host.call()
    host.deployed(replace=True)
    host.undeploy()
    host.done()
    host.gone(ev.WorkerId(2))
    assert host.next_step() is None
    host.pass_time(10)
    host.gone(ev.WorkerId(1))
    assert host.next_step() is fx.RemoveFiles


def test_c31_an_undeploy_joins_an_unload_that_is_under_way(host):
    host.up_to("READY")
    unload, undeploy = host.unload(), host.undeploy()
    host.done()
    assert host.is_waiting(unload)
    host.gone(freed_bytes=5)
    assert host.answer(unload).freed_bytes == 5
    host.done()
    assert host.answer(undeploy).freed_bytes == 5


@pytest.mark.parametrize("step", STEPS)
def test_c20_an_unload_during_an_undeploy_is_answered_as_ever(host, step):
    caller = undeploy_up_to(host, step)
    unload = host.unload(client=BOB)
    finish(host)
    assert host.answer(unload).model_id == "m"
    assert host.answer(caller).model_id == "m"
    assert is_clean(host)


@pytest.mark.parametrize("step", ["INSTALLING", "FINDING", "LOADING", "CONFIRMING"])
@pytest.mark.parametrize("replace", [False, True])
def test_c31_what_is_being_deployed_cannot_be_undeployed(step, replace):
    host = Driver()
    if replace:
        host.up_to("READY")
    deploy = host.deploy_up_to(step, replace=replace)
    error = host.error(host.undeploy(client=BOB), FailedPreconditionError)
    assert "deploy" in error.message
    assert host.is_waiting(deploy)


def test_c31_what_is_being_undone_cannot_be_undeployed(host):
    host.deploy_up_to("FINDING")
    host.not_found(NOTHING)
    error = host.error(host.undeploy(client=BOB), FailedPreconditionError)
    assert "its deploy is being undone" in error.message


@pytest.mark.parametrize("step", STEPS)
def test_c29_what_is_being_undeployed_cannot_be_deployed(host, step):
    host.deploy("m", replace=True, client=BOB)
    host.done()
    caller = undeploy_up_to(host, step)
    commit = host.commit(1, client=BOB)
    host.done(1)
    assert isinstance(host.error(commit), FailedPreconditionError)
    finish(host)
    assert host.answer(caller).model_id == "m"


@pytest.mark.parametrize("step", ["STAGING", "UPLOADING"])
def test_a_deploy_that_is_not_committed_does_not_hinder_an_undeploy(host, step):
    host.deploy_up_to(step)
    caller = host.undeploy(client=BOB)
    host.done()
    host.done()
    assert host.answer(caller).model_id == "m"


def test_c17_a_directory_that_holds_loaded_models_is_not_undeployed(host):
    host.up_to("READY", "team/model")
    error = host.error(host.undeploy("team"), FailedPreconditionError)
    assert error.message == "'team' holds models that are loaded (team/model): undeploy those first"
    assert host.files.operations == {}
    assert host.is_waiting(host.undeploy("tea"))


def test_c17_nothing_is_loaded_below_a_directory_that_is_being_removed(host):
    host.undeploy("team")
    host.done()
    assert isinstance(host.error(host.load("team/model")), FailedPreconditionError)


def test_c17_a_directory_is_not_removed_while_a_model_is_installed_below_it(host):
    host.deploy_up_to("INSTALLING", "team/model")
    assert isinstance(host.error(host.undeploy("team", client=BOB)), FailedPreconditionError)


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_c34_a_host_can_be_shut_down_at_every_step_of_an_undeploy(step, at_once):
    host = Driver()
    caller = undeploy_up_to(host, step)
    host.call("other")
    stop = host.shut_down(client=BOB, at_once=at_once)
    assert isinstance(host.error(host.undeploy("other")), UnavailableError)
    assert not host.has_stopped
    finish(host)
    assert host.answer(caller).model_id == "m"
    assert host.answer(stop) is None
    assert host.has_stopped


def test_the_operations_on_different_ids_do_not_wait_for_each_other(host):
    first, second = host.undeploy("a"), host.undeploy("b")
    host.done(2)
    host.done(2)
    assert host.answer(second).model_id == "b"
    assert host.is_waiting(first)
    assert repr(next(iter(host.core._undeploying.undeploys.values()))) == "<Undeploy 1 of a CHECKING>"


@pytest.mark.parametrize("step", ["INSTALLING", "FINDING", "LOADING", "CONFIRMING"])
def test_c17_a_directory_is_not_replaced_while_a_model_is_deployed_below_it(step):
    host = Driver()
    host.deploy("team", replace=True, client=BOB)
    host.done()
    host.deploy_up_to(step, "team/model")
    commit = host.commit(1, client=BOB)
    assert host.effects == [fx.UndoFiles(1)]
    host.done(1)
    assert isinstance(host.error(commit), FailedPreconditionError)


@pytest.mark.parametrize("stage", ["FINDING", "LOADING", "READY"])
def test_c17_a_directory_is_not_replaced_while_a_model_below_it_is_loaded(host, stage):
    host.up_to(stage, "team/model")
    host.deploy_up_to("UPLOADING", "team", replace=True)
    commit = host.commit()
    assert host.next_step() is fx.UndoFiles
    host.done()
    assert isinstance(host.error(commit), FailedPreconditionError)


@pytest.mark.parametrize("step", ["INSTALLING", "FINDING", "LOADING", "CONFIRMING"])
def test_c17_nothing_is_removed_from_a_directory_that_is_being_deployed(step):
    host = Driver()
    host.deploy_up_to(step, "team")
    assert isinstance(host.error(host.undeploy("team/model", client=BOB)), FailedPreconditionError)


@pytest.mark.parametrize("step", ["FINDING", "LOADING"])
def test_c17_nothing_is_deployed_into_a_directory_while_its_deploy_may_still_be_undone(step):
    host = Driver()
    host.deploy("team/model", client=BOB)
    host.done()
    host.deploy_up_to(step, "team")
    commit = host.commit(1, client=BOB)
    assert host.effects == [fx.UndoFiles(1)]
    host.done(1)
    assert isinstance(host.error(commit), FailedPreconditionError)


@pytest.mark.parametrize("step", ["FINDING", "LOADING"])
def test_c17_nothing_is_loaded_from_a_directory_while_its_deploy_may_still_be_undone(step):
    host = Driver()
    host.deploy_up_to(step, "team")
    assert isinstance(host.error(host.load("team/model", client=BOB)), FailedPreconditionError)
