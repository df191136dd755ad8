"""Deploys of new models: staged, sent, installed, loaded, confirmed; or undone, at whatever step they end."""

from __future__ import annotations

import dataclasses

import pytest
from driver import ALICE, BOB, CAROL, CONFIG, FILES, Driver, source_of
from endings import finish, is_clean

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.files.uploading import IDLE_AT_LEAST_S, IDLE_UPLOAD_S, MAX_DEPLOYS, MAX_DEPLOYS_PER_CLIENT
from hostd_workers.wire.errors import (
    AbortedError,
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    ModelError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)

DISK_FULL = ResourceExhaustedError("no space left on device")
REFUSAL = ModelError("no weights")


def test_c29_a_deploy_is_staged_sent_installed_loaded_confirmed_and_then_answered(host):
    begin = host.deploy(retries=1)
    assert host.effects == [fx.StageFiles(1, ALICE, "m", FILES, False)]
    assert host.state() is None
    host.done()
    assert host.answer(begin) == {"upload": 1}

    commit = host.commit()
    assert host.effects == [fx.InstallFiles(1, ev.Standing(retries=1))]
    host.done()
    assert host.finds == [fx.FindSpec("m", 1, source_of("/models/m"), ev.Origin.DEPLOYED)]
    assert host.queries.story("m")[0].reason == "load of /models/m deployed"
    host.up()
    assert host.effects_of(fx.ConfirmFiles) == [fx.ConfirmFiles(1)]
    assert host.is_waiting(commit)
    host.done()
    answer = host.answer(commit)
    assert (answer.state, answer.path, answer.generation) == ("READY", "/models/m", 1)
    assert host.effects[-1] == fx.TidyFiles(1)
    assert is_clean(host)
    assert host.core.next_deadline() is None


def test_a_deploy_without_waiting_is_answered_when_its_files_are_installed(host):
    commit = host.deploy_up_to("FINDING", wait=False)
    assert host.answer(commit).state == "LOADING"
    host.up()
    host.done()
    assert host.state() == "READY"
    assert is_clean(host)


def test_c30_a_load_that_fails_leaves_no_files_and_is_answered_when_they_are_gone(host):
    commit = host.deploy_up_to("FINDING")
    host.down(REFUSAL)
    assert host.effects_of(fx.UndoFiles) == [fx.UndoFiles(1)]
    assert host.is_waiting(commit)
    host.done()
    assert host.answer(commit).message == "no weights"
    assert isinstance(host.error(commit), ModelError)
    assert (host.state(), is_clean(host), host.files.tidied) == (None, True, [])


def test_c30_a_load_that_fails_leaves_its_files_if_that_was_asked_for(host):
    commit = host.deploy_up_to("FINDING", keep=True)
    host.down(REFUSAL)
    assert host.effects_of(fx.ConfirmFiles) == [fx.ConfirmFiles(1)]
    assert host.is_waiting(commit)
    host.done()
    assert host.answer(commit) is REFUSAL
    assert (host.files.tidied, is_clean(host)) == ([1], True)


def test_c10_a_deploy_is_retried_before_it_is_undone(host):
    commit = host.deploy_up_to("FINDING", retries=1)
    host.down(REFUSAL)
    host.pass_time(0.2)
    host.down(REFUSAL)
    host.done()
    assert host.error(commit).message == "no weights"
    assert len(host.processes) == 2


@pytest.mark.parametrize("step", ["STAGING", "INSTALLING", "CONFIRMING"])
def test_c30_a_step_that_the_disk_refuses_ends_the_deploy_without_residue(host, step):
    caller = host.deploy_up_to(step)
    host.not_done(DISK_FULL)
    if step == "CONFIRMING":
        assert host.state() == "UNLOADING"
        assert host.effects_of(fx.UndoFiles) == []
        host.gone()
    assert host.next_step() is fx.UndoFiles
    assert host.is_waiting(caller)
    host.done()
    assert host.answer(caller).message == "no space left on device"
    assert isinstance(host.error(caller), ResourceExhaustedError)
    assert (host.state(), is_clean(host)) == (None, True)


def test_c30_an_undo_that_fails_is_part_of_the_error(host):
    commit = host.deploy_up_to("INSTALLING")
    host.not_done(DISK_FULL)
    host.not_done(UnavailableError("the file server is gone"))
    error = host.error(commit, ResourceExhaustedError)
    assert error.message == "no space left on device; and undoing it failed: the file server is gone"
    assert is_clean(host)


def test_c30_without_a_models_directory_a_deploy_is_a_failed_precondition():
    host = Driver(dataclasses.replace(CONFIG, models_dir=None))
    for caller in (host.deploy(), host.undeploy(), host.sync()):
        error = host.error(caller, FailedPreconditionError)
        assert error.message == (
            "this host has no models directory: set models.dir to one that exists (hostd serve --models-dir DIR)"
        )
    assert host.files.operations == {}


@pytest.mark.parametrize("model_id", ["", " ", "..", "/m", "a/../b", "a\0b"])
def test_c29_a_name_that_no_model_may_have_is_refused_before_anything_is_written(host, model_id):
    assert isinstance(host.error(host.deploy(model_id)), InvalidArgumentError)
    assert host.files.operations == {}


@pytest.mark.parametrize("retries", [-1, 101])
def test_a_number_of_retries_that_makes_no_sense_is_refused_before_anything_is_written(host, retries):
    assert isinstance(host.error(host.deploy(retries=retries)), InvalidArgumentError)
    assert host.files.operations == {}


@pytest.mark.parametrize("stage", ["FINDING", "LOADING", "READY"])
def test_c29_an_id_that_is_loaded_already_exists(host, stage):
    host.up_to(stage)
    error = host.error(host.deploy(), AlreadyExistsError)
    assert error.message == "model 'm' is loaded: undeploy it first, or deploy with --replace (replace=True)"


def test_c29_an_id_that_was_loaded_while_its_files_were_sent_already_exists_and_the_files_go(host):
    host.deploy_up_to("UPLOADING")
    host.up_to("READY")
    commit = host.commit()
    assert host.is_waiting(commit)
    host.done()
    assert isinstance(host.error(commit), AlreadyExistsError)
    assert (host.state(), is_clean(host)) == ("READY", True)


def test_a_client_that_gives_up_is_answered_when_nothing_is_left(host):
    host.deploy_up_to("UPLOADING")
    abort = host.abort()
    assert host.effects == [fx.UndoFiles(1)]
    assert host.is_waiting(abort)
    host.done()
    assert host.answer(abort) is None
    assert is_clean(host)


def test_a_client_that_gives_up_hears_that_something_is_left(host):
    host.deploy_up_to("UPLOADING")
    abort = host.abort()
    host.not_done(UnavailableError("the file server is gone"))
    assert "the file server is gone" in host.error(abort).message


@pytest.mark.parametrize("ask", ["commit", "abort"])
def test_the_upload_of_another_client_does_not_exist(host, ask):
    host.deploy_up_to("UPLOADING")
    error = host.error(getattr(host, ask)(client=BOB), NotFoundError)
    assert error.message == "there is no upload 1 of this client that waits for anything"
    assert host.is_waiting(host.commit())


@pytest.mark.parametrize("ask", ["commit", "abort"])
@pytest.mark.parametrize("step", ["STAGING", "INSTALLING", "FINDING", "CONFIRMING"])
def test_an_upload_is_committed_or_given_up_once_and_when_it_is_its_time(host, ask, step):
    caller = host.deploy_up_to(step)
    assert isinstance(host.error(getattr(host, ask)()), NotFoundError)
    assert host.is_waiting(caller)


def test_one_client_has_no_more_than_so_many_deploys_and_others_have_theirs(host):
    for number in range(MAX_DEPLOYS_PER_CLIENT):
        assert host.is_waiting(host.deploy(f"m{number}"))
    error = host.error(host.deploy(), ResourceExhaustedError)
    assert error.message.startswith("32 deploys are under way, 32 of them this client's; at most 128 may be, 32")
    assert host.is_waiting(host.deploy(client=BOB))
    host.feed(ev.ClientVanished(ALICE))
    finish(host)
    assert host.is_waiting(host.deploy("n"))


def test_all_clients_together_have_no_more_than_so_many_deploys(host):
    for number in range(MAX_DEPLOYS):
        assert host.is_waiting(host.deploy(f"m{number}", client=ev.ClientId(b"%d" % number)))
    assert isinstance(host.error(host.deploy()), ResourceExhaustedError)
    host.done(1)
    host.abort(1, client=ev.ClientId(b"0"))
    assert isinstance(host.error(host.deploy()), ResourceExhaustedError)
    host.done(1)
    assert host.is_waiting(host.deploy())


def test_clients_that_begin_all_the_deploys_they_may_leave_places_for_others(host):
    for number in range(8):
        client = ev.ClientId(b"%d" % number)
        while host.is_waiting(host.deploy(f"m{len(host.files.operations)}", client=client)):
            pass
    assert len(host.core._deploying.deploys) < MAX_DEPLOYS
    for client in (ALICE, BOB, CAROL):
        assert host.is_waiting(host.deploy("x", client=client))


def uploads_of(host, client, count):
    """Begin so many deploys of a client, which wait for its files then; return their numbers."""
    begun = []
    for _ in range(count):
        host.deploy(f"of {client.decode()} {len(host.files.operations)}", client=client)
        host.done()
        begun.append(max(host.files.operations))
    return begun


def test_an_upload_that_rests_for_too_long_is_ended_and_its_client_told(host):
    host.deploy_up_to("UPLOADING")
    host.pass_time(IDLE_UPLOAD_S - 1)
    host.feed(ev.FilesWritten(ev.FilesId(1)))
    host.pass_time(IDLE_UPLOAD_S - 1)
    assert host.next_step() is None
    host.pass_time(1)
    assert host.next_step() is fx.UndoFiles
    for ask in (host.commit, host.abort):
        error = host.error(ask(), AbortedError)
        assert error.message == (
            "the upload 1 was ended: nothing had come for 5m 0s, which is as long as a deploy may rest. Deploy again"
        )
    assert isinstance(host.error(host.commit(client=BOB)), NotFoundError), "of another's upload nobody is told"
    finish(host)
    assert host.feed(ev.FilesWritten(ev.FilesId(1))) == []
    assert len(host.core._deploying.uploads) == 0


def test_a_deploy_with_all_its_files_does_not_rest(host):
    host.deploy_up_to("INSTALLING")
    assert host.core.next_deadline() is None


@pytest.fixture
def full(host):
    """All places are taken: 32 by Alice, one by each of others."""
    uploads_of(host, ALICE, MAX_DEPLOYS_PER_CLIENT)
    for number in range(MAX_DEPLOYS - MAX_DEPLOYS_PER_CLIENT):
        uploads_of(host, ev.ClientId(b"%d" % number), 1)
    return host


def test_the_upload_that_has_idled_longest_yields_for_a_client_that_has_none(full):
    full.pass_time(IDLE_AT_LEAST_S)
    full.feed(ev.FilesWritten(ev.FilesId(1)))
    assert full.is_waiting(full.deploy(client=BOB))
    assert [effect.files_id for effect in full.effects_of(fx.UndoFiles)] == [2], (
        "1 goes on, and those of others are few"
    )
    error = full.error(full.commit(2))
    assert "nothing had come for 10.0 s, and another client wanted its place. Deploy again" in error.message
    assert isinstance(full.error(full.deploy(client=ALICE)), ResourceExhaustedError), "her own fault"


def test_uploads_that_go_on_yield_to_nobody(full):
    full.pass_time(IDLE_AT_LEAST_S - 0.1)
    error = full.error(full.deploy(client=BOB), ResourceExhaustedError)
    assert "128 deploys are under way, 0 of them this client's" in error.message


def test_nobody_yields_for_a_client_that_has_as_much(full):
    full.pass_time(IDLE_AT_LEAST_S)
    mine = full.files.operations[MAX_DEPLOYS].requested.caller.client
    begun = [full.is_waiting(full.deploy(f"more {number}", client=mine)) for number in range(MAX_DEPLOYS_PER_CLIENT)]
    assert begun == [True] * 15 + [False] * 17, "16 of 32 each: then Alice has no more than the other"
