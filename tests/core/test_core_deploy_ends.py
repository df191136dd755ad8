"""The ends of deploys that nobody meant: clients vanish, models are unloaded or die, the host shuts down, at every step."""

from __future__ import annotations

import pytest
from driver import ALICE, BOB, LAZY, Driver
from endings import finish, is_clean

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd_workers.wire.errors import (
    AbortedError,
    FailedPreconditionError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)

DISK_FULL = ResourceExhaustedError("no space left on device")
STEPS = ("STAGING", "UPLOADING", "INSTALLING", "FINDING", "LOADING", "CONFIRMING")


@pytest.mark.parametrize("step", STEPS)
def test_a_client_that_vanishes_takes_what_it_has_not_committed_with_it(host, step):
    host.deploy_up_to(step)
    host.feed(ev.ClientVanished(ALICE))
    is_uncommitted = step in ("STAGING", "UPLOADING")
    assert bool(host.effects_of(fx.UndoFiles)) == is_uncommitted
    if is_uncommitted:
        finish(host)
        assert (host.state(), is_clean(host)) == (None, True)
        return
    for go_on in {"INSTALLING": (host.done, host.up), "FINDING": (host.up,)}.get(step, ()):
        go_on()
    if step == "LOADING":
        host.loaded()
        host.measured()
    host.done()
    assert (host.state(), is_clean(host)) == ("READY", True)


@pytest.mark.parametrize("result", ["done", "failed"])
def test_what_the_disk_says_of_a_deploy_that_was_given_up_meanwhile_changes_nothing(host, result):
    host.deploy_up_to("STAGING")
    host.feed(ev.ClientVanished(ALICE))
    host.done() if result == "done" else host.not_done(DISK_FULL)
    assert host.effects == []
    host.done()
    assert is_clean(host)


def test_a_client_that_vanishes_leaves_the_uploads_of_others_alone(host):
    host.deploy("other", client=BOB)
    host.done()
    host.deploy_up_to("UPLOADING")
    host.feed(ev.ClientVanished(ALICE))
    assert host.effects == [fx.UndoFiles(2)]


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_c34_a_host_can_be_shut_down_at_every_step_of_a_deploy(step, at_once):
    host = Driver()
    caller = host.deploy_up_to(step)
    stop = host.shut_down(client=BOB, at_once=at_once)
    assert not host.has_stopped
    finish(host)
    assert host.answer(stop) is None
    assert host.has_stopped
    if step != "UPLOADING":
        assert isinstance(host.error(caller), (AbortedError, UnavailableError))
    assert is_clean(host)
    assert host.files.operations[1].is_confirmed == (step == "CONFIRMING")


@pytest.mark.parametrize("at_once", [False, True])
def test_c34_a_host_that_shuts_down_may_fail_to_confirm_and_undoes_then(at_once):
    host = Driver()
    commit = host.deploy_up_to("CONFIRMING")
    host.signal(at_once=at_once)
    host.not_done(DISK_FULL)
    assert host.next_step() is None
    finish(host)
    assert host.error(commit).message == "no space left on device"
    assert host.has_stopped


def test_a_host_that_shuts_down_takes_no_deploys_and_no_commits(host):
    host.up_to("READY", "busy")
    host.call("busy")
    host.deploy_up_to("UPLOADING")
    host.shut_down()
    assert isinstance(host.error(host.commit()), NotFoundError)
    assert isinstance(host.error(host.deploy("n")), UnavailableError)


@pytest.mark.parametrize("ready_while", ["FINDING", "LOADING"])
def test_c21_an_unload_during_the_load_of_a_deploy_undoes_it_when_its_process_is_gone(host, ready_while):
    commit = host.deploy_up_to(ready_while)
    unload = host.unload(client=BOB)
    if ready_while == "LOADING":
        assert host.effects_of(fx.UndoFiles) == []
        host.gone()
    assert not host.is_waiting(unload)
    assert host.next_step() is fx.UndoFiles
    assert isinstance(host.error(host.load()), FailedPreconditionError)
    host.done()
    assert isinstance(host.error(commit), AbortedError)
    assert host.error(commit).message == "the load of model 'm' was overtaken: unload requested"
    assert is_clean(host)


def test_keep_keeps_nothing_of_a_deploy_that_an_unload_overtakes(host):
    commit = host.deploy_up_to("FINDING", keep=True)
    host.unload()
    assert host.next_step() is fx.UndoFiles
    host.done()
    assert isinstance(host.error(commit), AbortedError)


@pytest.mark.parametrize("is_gone", [False, True])
def test_an_unload_while_a_deploy_is_confirmed_leaves_the_files_and_the_error_says_so(host, is_gone):
    commit = host.deploy_up_to("CONFIRMING")
    host.unload()
    if is_gone:
        host.gone()
    host.done()
    error = host.error(commit, AbortedError)
    assert error.message.startswith(f"the deployed model is {'UNLOADED' if is_gone else 'UNLOADING'}")
    assert error.message.endswith("its files stay")
    finish(host)
    assert (host.files.tidied, is_clean(host)) == ([1], True)


def test_a_model_that_dies_while_its_deploy_is_confirmed_is_not_called_deployed(host):
    commit = host.deploy_up_to("CONFIRMING")
    host.exited("killed by SIGKILL")
    host.done()
    error = host.error(commit, AbortedError)
    assert "FAILED" in error.message
    assert "killed by SIGKILL" in error.message
    assert host.state() == "FAILED"


def test_a_model_that_dies_while_its_deploy_cannot_be_confirmed_is_undone_after_its_death(host):
    commit = host.deploy_up_to("CONFIRMING")
    host.exited()
    host.not_done(DISK_FULL)
    assert host.next_step() is None
    host.gone()
    host.done()
    assert host.error(commit).message == "no space left on device"
    assert is_clean(host)


def test_an_upload_that_nobody_was_told_of_does_not_stay(host):
    begin = host.deploy_up_to("STAGING")
    host.feed(ev.CallCancelled(begin))
    host.done()
    finish(host)
    assert is_clean(host)


def test_c08_a_load_and_a_call_join_the_load_of_a_deploy():
    host = Driver(LAZY)
    commit = host.deploy_up_to("FINDING")
    load, retrieve, call = host.load(client=BOB), host.retrieve(client=BOB), host.call(client=BOB)
    host.up()
    assert host.answer(load).state == host.answer(retrieve).state == "READY"
    assert host.sent(call)
    assert host.is_waiting(commit)


def test_a_deploy_shows_its_model_and_its_step(host):
    host.deploy_up_to("LOADING")
    assert list(map(repr, host.core._deploying.deploys.values())) == ["<Deploy 1 of m LOADING>"]
