"""Deploys of models that the host is just evicting: nobody asked for that, so nobody is refused for it."""

from __future__ import annotations

import pytest
from driver import ALICE, BOB

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd_workers.wire.errors import AbortedError, FailedPreconditionError, NotFoundError, ResourceExhaustedError


def test_a_model_that_is_being_evicted_is_replaced_when_it_is_gone(tight):
    tight.evict("m")
    caller = tight.deploy_up_to("UPLOADING", "m", replace=True)
    assert tight.answer(caller)
    committed = tight.commit()
    assert tight.effects_of(fx.InstallFiles) == []
    tight.gone(tight.worker_of("m"))
    assert len(tight.effects_of(fx.InstallFiles)) == 1
    tight.done()
    tight.come_back()
    tight.done()
    assert tight.answer(committed).state == "READY"
    assert "m" not in tight.registry.evicted


def test_the_files_may_also_come_after_the_model_has_gone(tight):
    tight.evict("m")
    tight.deploy_up_to("UPLOADING", "m", replace=True)
    tight.gone(tight.worker_of("m"))
    tight.commit()
    assert len(tight.effects_of(fx.InstallFiles)) == 1


def test_what_wants_the_evicted_model_meanwhile_comes_first(tight):
    tight.evict("m")
    tight.deploy_up_to("UPLOADING", "m", replace=True)
    committed = tight.commit()
    call = tight.call("m", client=BOB)
    tight.gone(tight.worker_of("m"))
    tight.done()
    assert isinstance(tight.error(committed), FailedPreconditionError)
    tight.come_back()
    tight.end_call(call)
    assert tight.answer(call) == "done"


def test_a_model_that_somebody_unloads_is_not_waited_for(tight):
    tight.ready("m", 3000)
    tight.unload("m")
    assert isinstance(tight.error(tight.deploy("m", replace=True)), FailedPreconditionError)


def test_calls_of_an_evicted_model_wait_for_the_deploy_that_replaces_it(tight):
    tight.evict_to_the_end()
    committed = tight.deploy_up_to("FINDING", "m", replace=True)
    call = tight.call("m", client=BOB)
    assert tight.is_waiting(call)
    tight.come_back()
    tight.done()
    assert tight.answer(committed).state == "READY"
    tight.end_call(call)
    assert tight.answer(call) == "done"


def test_a_replacement_that_fails_leaves_an_evicted_model_as_it_was(tight):
    tight.evict_to_the_end()
    before = tight.registry.evicted["m"]
    committed = tight.deploy_up_to("FINDING", "m", replace=True)
    tight.come_back()
    tight.not_done(ResourceExhaustedError("no space left on device"))
    tight.gone(tight.worker_of("m"))
    tight.done()
    assert isinstance(tight.error(committed), ResourceExhaustedError)
    assert tight.registry.evicted["m"] == before
    tight.call("m")
    assert tight.finds[-1].source == before.source


def test_a_replacement_that_somebody_unloads_takes_the_evicted_model_along(tight):
    tight.evict_to_the_end()
    tight.deploy_up_to("FINDING", "m", replace=True)
    tight.unload("m", client=BOB)
    tight.done()
    assert "m" not in tight.registry.evicted
    assert isinstance(tight.error(tight.call("m")), NotFoundError)


@pytest.mark.parametrize("end", ["its client goes", "its client gives it up", "the host stops"])
def test_a_deploy_that_waits_can_end_in_every_way(tight, end):
    tight.evict("m")
    tight.deploy_up_to("UPLOADING", "m", replace=True)
    committed = tight.commit()
    abort = tight.abort() if end == "its client gives it up" else None
    if end == "its client goes":
        tight.feed(ev.ClientVanished(ALICE))
    elif end == "the host stops":
        tight.signal()
    assert len(tight.effects_of(fx.UndoFiles)) == 1
    tight.done()
    if end != "its client goes":
        tight.error(committed, AbortedError)
    assert abort is None or tight.answer(abort) is None
    tight.gone(tight.worker_of("m"))
    assert tight.state("m") is None
