"""Evicted models: they come back when they are used, and not when somebody has unloaded them."""

from __future__ import annotations

import dataclasses

import pytest
from driver import BOB, source_of
from memory_driver import MemoryDriver

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.models import Unload
from hostd.core.registry import MAX_EVICTED
from hostd_workers.wire.errors import (
    AbortedError,
    AlreadyExistsError,
    FailedPreconditionError,
    ModelError,
    NotFoundError,
    UnavailableError,
)


@pytest.mark.parametrize("is_lazy", [False, True])
def test_an_evicted_model_comes_back_from_where_it_was_loaded_when_it_is_called(tight, lazy_tight, is_lazy):
    host = lazy_tight if is_lazy else tight
    host.load("m", source_of("/elsewhere", dtype="f16"))
    host.found()
    host.predicted(8000)
    host.comes_up("m", 8000)
    host.pass_time(2)
    host.predicted_load("other", 9000)
    host.unload("other", client=BOB)
    host.gone(host.worker_of("m"))
    call = host.call("m")
    assert host.finds[-1].source == source_of("/elsewhere", dtype="f16")
    assert host.is_waiting(call)
    host.come_back()
    host.end_call(call)
    assert host.answer(call) == "done"


def test_a_sync_does_not_bring_an_evicted_model_back_and_a_call_does(tight):
    tight.sync()
    tight.scanned(("m",))
    tight.found()
    tight.predicted(8000)
    tight.comes_up("m", 8000)
    tight.pass_time(2)
    tight.predicted_load("other", 9000)
    tight.unload("other", client=BOB)
    tight.gone(tight.worker_of("m"))
    caller = tight.sync(retry_all=True)
    tight.scanned(("m", "new"))
    assert [find.model_id for find in tight.finds] == ["new"]
    assert tight.effects_of(fx.LeaveEntry) == [fx.LeaveEntry("m")]
    tight.not_found(NotFoundError("gone again"))
    assert tight.answer(caller).loaded == ()
    tight.call("m")
    assert tight.finds[-1].source.path == "/models/m"


def test_a_sync_tries_an_evicted_model_again_that_could_not_be_loaded(tight):
    tight.evict_to_the_end()
    tight.call("m")
    tight.not_found(ModelError("half of it is missing"))
    path = tight.registry.evicted["m"].source.path
    tight.sync(retry_all=True)
    tight.feed(ev.DirectoryScanned(tight._scan().sync_id, ((ev.ModelId("m"), path),), ()))
    assert tight.finds[-1].source.path == path


def test_a_sync_loads_what_lies_elsewhere_than_the_evicted_model_of_that_name(tight):
    tight.evict_to_the_end()
    assert tight.registry.evicted["m"].source.path != "/models/team/m"
    tight.sync()
    scan = tight._scan()
    tight.feed(ev.DirectoryScanned(scan.sync_id, ((ev.ModelId("m"), "/models/team/m"),), ()))
    assert tight.finds[-1].source.path == "/models/team/m"


def test_calls_that_come_during_the_eviction_and_the_load_wait_and_are_served_together(tight):
    tight.evict()
    calls = [tight.call("m")]
    retrieve = tight.retrieve("m")
    tight.gone(tight.worker_of("m"))
    calls.append(tight.call("m", client=BOB))
    assert len(tight.finds) == 1
    tight.come_back()
    for call in calls:
        tight.end_call(call)
    assert tight.answer(retrieve).state == "READY"


@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize("is_gone", [False, True])
def test_an_evicted_model_comes_back_for_a_load(tight, wait, is_gone):
    (tight.evict_to_the_end if is_gone else tight.evict)()
    caller = tight.load("m", wait=wait)
    if not wait:
        assert tight.answer(caller).state == ("LOADING" if is_gone else "UNLOADING")
    if not is_gone:
        tight.gone(tight.worker_of("m"))
    tight.come_back()
    assert tight.answer(caller).state == ("READY" if wait else "LOADING" if is_gone else "UNLOADING")


@pytest.mark.parametrize("reload", [False, True])
def test_calls_of_an_evicted_model_wait_for_a_load_that_was_asked_for(tight, reload):
    tight.evict_to_the_end()
    tight.load("m", reload=reload)
    call = tight.call("m", client=BOB)
    assert tight.is_waiting(call)
    tight.come_back()
    tight.end_call(call)
    assert tight.answer(call) == "done"


def test_a_load_of_something_else_under_the_id_of_an_evicted_model(tight):
    tight.evict()
    assert isinstance(tight.error(tight.load("m", source_of("/elsewhere"))), AlreadyExistsError)
    tight.gone(tight.worker_of("m"))
    tight.load("m", source_of("/elsewhere"))
    assert tight.finds[-1].source.path == "/elsewhere"
    tight.not_found(NotFoundError("nothing is there"))
    assert isinstance(tight.error(tight.call("m")), NotFoundError)


def test_a_load_that_fails_may_be_tried_with_the_next_use(tight):
    tight.evict_to_the_end()
    call = tight.call("m")
    for _ in range(2):
        tight.found()
        tight.predicted(8000)
        tight.started()
        tight.not_loaded(ModelError("no weights"))
        tight.gone()
        tight.pass_time(1)
    assert tight.error(call).message == "no weights"
    call = tight.call("m")
    assert tight.is_waiting(call)
    tight.not_found(NotFoundError("the files are gone"))
    assert tight.error(call).message == "the files are gone"
    assert isinstance(tight.error(tight.call("m")), NotFoundError), "what is gone is not looked for again"


def test_an_explicit_unload_of_an_evicted_model_is_for_good(tight):
    tight.evict_to_the_end()
    assert tight.answer(tight.unload("m")).processes == 0
    assert isinstance(tight.error(tight.call("m")), NotFoundError)


def test_an_explicit_unload_during_the_eviction_is_for_good_and_aborts_what_wanted_it_back(tight):
    tight.evict()
    load, retrieve, call = tight.load("m"), tight.retrieve("m"), tight.call("m")
    unload = tight.unload("m")
    for caller in (load, retrieve):
        assert isinstance(tight.error(caller), AbortedError)
    assert isinstance(tight.error(tight.retrieve("m")), FailedPreconditionError)
    tight.gone(tight.worker_of("m"))
    assert tight.answer(unload).processes == 1
    assert isinstance(tight.error(call), NotFoundError)
    assert tight.finds == []


def test_an_explicit_unload_while_an_evicted_model_comes_back_is_for_good(tight):
    tight.evict_to_the_end()
    call = tight.call("m")
    tight.unload("m")
    assert isinstance(tight.error(call), AbortedError)
    assert isinstance(tight.error(tight.call("m")), NotFoundError)
    assert tight.finds[1:] == []


def test_an_unload_of_all_forgets_the_evicted_too(tight):
    tight.evict_to_the_end()
    assert tight.answer(tight.unload_all()) == []
    assert isinstance(tight.error(tight.call("m")), NotFoundError)


def test_a_host_that_shuts_down_loads_nothing_again(tight):
    tight.evict()
    retrieve, call = tight.retrieve("m"), tight.call("m")
    tight.signal()
    assert isinstance(tight.error(retrieve), AbortedError)
    tight.gone(tight.worker_of("m"))
    assert isinstance(tight.error(call), NotFoundError)
    assert tight.has_stopped
    tight = MemoryDriver()
    tight.evict_to_the_end()
    tight.ready("n", 1000)
    tight.signal()
    assert isinstance(tight.error(tight.call("m")), UnavailableError)


def test_an_undeploy_of_an_evicted_model_is_for_good_and_one_that_fails_changes_nothing(tight):
    tight.evict_to_the_end()
    failed = tight.undeploy("m")
    assert isinstance(tight.error(tight.call("m")), FailedPreconditionError)
    tight.not_done(NotFoundError("there are no files"))
    assert isinstance(tight.error(failed), NotFoundError)
    call = tight.call("m", timeout_s=1)
    assert tight.is_waiting(call)
    undeploy = tight.undeploy("m")
    tight.done()
    tight.done()
    assert tight.answer(undeploy).processes == 0
    assert isinstance(tight.error(tight.call("m")), NotFoundError)


def test_an_eviction_that_ends_while_an_undeploy_looks_for_files_is_forgotten(tight):
    tight.evict()
    tight.undeploy("m")
    tight.gone(tight.worker_of("m"))
    tight.done()
    tight.done()
    assert tight.registry.evicted == {}


def test_only_so_many_evicted_models_are_remembered(tight):
    registry = tight.registry
    tight.ready("m", 1)
    model = registry.models["m"]
    for number in range(MAX_EVICTED + 1):
        registry.remember_evicted(Unload(dataclasses.replace(model, id=ev.ModelId(str(number))), 0.0, "for tests"))
    assert len(registry.evicted) == MAX_EVICTED
    assert "0" not in registry.evicted
