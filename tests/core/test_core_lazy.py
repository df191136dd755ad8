"""Lazy loading: what is asked for and is not loaded is looked for below the models directory."""

from __future__ import annotations

import dataclasses

import pytest
from driver import BOB, CONFIG, LAZY, Driver, source_of

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.views import ModelSummary
from hostd_workers.wire.errors import (
    AbortedError,
    AlreadyExistsError,
    CancelledError,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    ModelError,
    NotFoundError,
    UnavailableError,
)

NOWHERE = NotFoundError("there is no model 'm': nothing is at /models/m")


def test_c16_a_retrieve_loads_what_lies_below_the_models_directory(lazy):
    caller = lazy.retrieve()
    assert lazy.finds == [fx.FindSpec("m", 1, source_of("/models/m"), ev.Origin.LAZY)]
    assert lazy.state() == "LOADING"
    lazy.up()
    answer = lazy.answer(caller)
    assert (answer.id, answer.state, answer.path) == ("m", "READY", "/models/m")


def test_c16_a_lazy_load_has_the_retries_of_lazy_loads(lazy):
    caller = lazy.retrieve()
    lazy.down(ModelError("no weights"))
    lazy.pass_time(0.2)
    assert lazy.finds[-1].origin is ev.Origin.LAZY
    last = ModelError("no weights at all")
    lazy.down(last)
    assert lazy.answer(caller) is last
    assert (len(lazy.processes), lazy.state()) == (2, None)


def test_c16_a_lazy_load_of_what_is_nowhere_is_not_found_and_leaves_no_trace(lazy):
    caller = lazy.retrieve()
    lazy.not_found(NOWHERE)
    assert lazy.answer(caller) is NOWHERE
    assert lazy.queries.list_models() == []
    assert lazy.queries.story("m") == []
    assert lazy.announced == []
    assert lazy.core.next_deadline() is None


def test_c16_what_was_found_and_is_wrong_is_told(lazy):
    caller = lazy.retrieve()
    error = InvalidArgumentError("/models/m/model.yaml: line 3: no such key")
    lazy.not_found(error)
    assert lazy.answer(caller) is error
    assert [event.new for event in lazy.queries.story("m")] == ["LOADING", "FAILED"]
    assert lazy.queries.story("m")[0].reason == "load of /models/m because somebody wants to use it"


def test_c16_an_ephemeral_model_is_loaded_from_the_path_that_its_finder_names(lazy):
    caller = lazy.retrieve("hub/model")
    lazy.found(path="hub/model")
    assert lazy.queries.story("hub/model")[0].reason == "load of hub/model because somebody wants to use it"
    lazy.started()
    assert lazy.effects_of(fx.SendLoad)[0].path == "hub/model"
    lazy.loaded()
    lazy.measured()
    assert lazy.answer(caller).path == "hub/model"


def test_c17_a_nested_id_is_loaded_lazily(lazy):
    lazy.retrieve("team/model")
    assert lazy.finds[-1].source.path == "/models/team/model"


@pytest.mark.parametrize("model_id", ["", " ", "../m", "/etc", "a//b", "a\\b", ".hidden", "a\nb"])
def test_c15_an_id_that_can_be_none_is_refused_before_anything_is_looked_for(lazy, model_id):
    assert isinstance(lazy.error(lazy.retrieve(model_id)), InvalidArgumentError)
    assert isinstance(lazy.error(lazy.call(model_id)), InvalidArgumentError)
    assert lazy.queries.list_models() == lazy.finds == []


def test_c18_a_retrieve_waits_for_a_load_that_somebody_asked_for(lazy):
    lazy.load(wait=False, source=source_of("/elsewhere"))
    caller = lazy.retrieve(client=BOB)
    assert lazy.is_waiting(caller)
    lazy.up()
    assert lazy.answer(caller).path == "/elsewhere"


def test_c09_an_explicit_load_of_the_same_joins_a_lazy_one(lazy):
    retrieve = lazy.retrieve()
    load, other = lazy.load(), lazy.load(source=source_of("/elsewhere"))
    assert isinstance(lazy.error(other), AlreadyExistsError)
    lazy.up()
    assert lazy.answer(retrieve) == lazy.answer(load)


def test_c16_a_model_that_crashed_is_loaded_again_on_use(lazy):
    lazy.up_to("READY")
    lazy.exited()
    assert lazy.state() == "FAILED"
    caller = lazy.retrieve()
    assert lazy.finds[-1].origin is ev.Origin.REQUESTED, "it comes back as it was"
    lazy.up()
    assert lazy.answer(caller).generation == 2


def test_c19_after_an_unload_a_retrieve_loads_again(lazy):
    lazy.retrieve()
    lazy.up()
    lazy.unload()
    early = lazy.retrieve()
    assert lazy.is_waiting(early)
    lazy.gone()
    late = lazy.retrieve()
    lazy.up()
    assert (lazy.answer(early).generation, lazy.answer(late).generation) == (2, 2)


def test_c18_callers_that_wait_for_the_load_after_an_unload_hear_that_the_host_ends(lazy):
    lazy.up_to("READY")
    lazy.unload()
    retrieve, call = lazy.retrieve(), lazy.call()
    lazy.shut_down()
    lazy.gone()
    assert isinstance(lazy.error(retrieve), UnavailableError)
    assert isinstance(lazy.error(call), UnavailableError)


def test_c16_what_is_still_being_written_is_waited_for_and_told(lazy):
    caller = lazy.retrieve()
    lazy.delayed("weights.bin has changed 0.3 s ago")
    lazy.delayed("weights.bin has changed 0.1 s ago")
    assert lazy.is_waiting(caller)
    told = lazy.queries.story("m")[-1]
    assert (told.old, told.new, told.cause) == ("LOADING", "LOADING", "BEING_WRITTEN")
    assert lazy.model().reason == told.reason == "weights.bin has changed 0.1 s ago"
    lazy.up()
    assert lazy.answer(caller).state == "READY"


def test_what_is_written_without_end_is_given_up_and_the_error_says_why(lazy):
    caller = lazy.retrieve()
    lazy.delayed("weights.bin grows")
    lazy.pass_time(600)
    assert lazy.error(caller, DeadlineExceededError).message.endswith("how to load it: weights.bin grows")
    lazy.delayed("weights.bin grows")
    assert lazy.effects == []
    assert lazy.state() is None


def test_what_a_finder_says_of_a_delay_too_late_is_ignored(lazy):
    lazy.retrieve()
    find = lazy.finds[-1]
    late = ev.SpecDelayed(find.model_id, find.generation, "weights.bin grows")
    lazy.found()
    assert lazy.feed(late) == []
    lazy.unload()
    assert lazy.feed(late) == []


def test_a_host_that_shuts_down_begins_no_lazy_load(lazy):
    lazy.up_to("READY", "other")
    lazy.shut_down()
    assert isinstance(lazy.error(lazy.retrieve()), UnavailableError)
    assert isinstance(lazy.error(lazy.call()), UnavailableError)
    assert lazy.finds == []


def test_c16_a_lazy_load_is_refused_while_the_files_of_its_id_are_moved(lazy):
    lazy.deploy_up_to("INSTALLING")
    error = lazy.error(lazy.retrieve(), FailedPreconditionError)
    assert error.message == ("model 'm' cannot be loaded now: it is being deployed; try again when that is done")
    assert isinstance(lazy.error(lazy.call()), FailedPreconditionError)
    assert lazy.finds == []


def test_c10_a_retrieve_of_the_load_that_failed_gets_its_error_and_no_new_load():
    """Handles ask so: a load that nobody waited for may have failed long before."""
    for host in (Driver(), Driver(LAZY)):
        generation = host.answer(host.load(wait=False)).generation
        error = ModelError("no weights")
        host.down(error)
        assert host.answer(host.retrieve(generation=generation)) is error
        assert host.finds == []


def test_c19_a_retrieve_of_another_load_than_the_one_that_failed_gets_a_new_one(lazy):
    lazy.load(wait=False)
    lazy.down(ModelError("no weights"))
    for generation in (None, 7):
        assert lazy.is_waiting(lazy.retrieve(generation=generation))
    assert len(lazy.finds) == 1


def test_c09_a_retrieve_of_the_load_that_failed_waits_for_another_that_is_under_way(host):
    host.load(wait=False)
    host.down(ModelError("no weights"))
    host.load(wait=False)
    caller = host.retrieve(generation=1)
    host.up()
    assert host.answer(caller).generation == 2


def test_c16_what_is_not_found_because_its_load_failed_says_so(host):
    host.load(wait=False)
    host.down(ModelError("no weights"))
    error = host.error(host.retrieve(), NotFoundError)
    assert error.message == "there is no model 'm'; its last load failed: no weights"
    assert host.error(host.retrieve("other")).message == "there is no model 'other'; no model is loaded"


def test_c16_what_was_loaded_well_since_does_not_say_that_its_last_load_failed(host):
    host.load(wait=False)
    host.down(ModelError("no weights"))
    host.load()
    host.up()
    host.unload()
    host.gone()
    assert host.error(host.retrieve()).message == "there is no model 'm'; no model is loaded"


def test_what_somebody_merely_asked_for_is_in_no_summary_and_what_has_failed_is(lazy):
    lazy.retrieve()
    lazy.not_found(NOWHERE)
    assert lazy.queries.summaries() == {}
    assert lazy.queries.known("m") is None
    lazy.load("failed", wait=False)
    lazy.not_found(NOWHERE)
    assert lazy.queries.summaries()["failed"] == ModelSummary("FAILED")


def test_only_so_many_failures_are_kept():
    host = Driver(dataclasses.replace(CONFIG, stories_kept=2))
    for model_id in ("a", "b", "a", "c"):
        host.load(model_id, wait=False)
        host.not_found(NotFoundError(f"no {model_id}"))
    assert list(host.registry.failures) == ["a", "c"]


@pytest.mark.parametrize("leaves", ["deadline", "cancel", "vanish"])
def test_c18_a_caller_that_waits_no_longer_for_the_load_after_an_unload_begins_none(lazy, leaves):
    lazy.up_to("READY")
    lazy.unload(client=BOB)
    caller = lazy.retrieve(timeout_s=5)
    if leaves == "deadline":
        lazy.pass_time(5)
        assert isinstance(lazy.error(caller), DeadlineExceededError)
    elif leaves == "cancel":
        lazy.feed(ev.CallCancelled(caller))
        assert isinstance(lazy.error(caller), CancelledError)
    else:
        lazy.feed(ev.ClientVanished(caller.client))
    lazy.gone()
    assert (lazy.finds, lazy.state()) == ([], None)


def test_c18_a_caller_that_waits_for_the_load_after_an_unload_keeps_the_deadline(lazy):
    lazy.up_to("READY")
    lazy.unload()
    caller, stays = lazy.retrieve(timeout_s=5), lazy.retrieve(client=BOB)
    lazy.gone()
    lazy.pass_time(5)
    assert isinstance(lazy.error(caller), DeadlineExceededError)
    lazy.up()
    assert lazy.answer(stays).generation == 2


def test_c18_an_unload_of_the_load_after_an_unload_aborts_what_waits_for_it(lazy):
    lazy.up_to("READY")
    lazy.unload()
    retrieve, call = lazy.retrieve(), lazy.call()
    lazy.gone()
    lazy.unload()
    assert isinstance(lazy.error(retrieve), AbortedError)
    assert isinstance(lazy.error(call), AbortedError)


def test_c31_a_caller_that_waits_for_the_load_after_an_unload_hears_of_an_undeploy(lazy):
    lazy.up_to("READY")
    lazy.unload()
    retrieve, call = lazy.retrieve(), lazy.call()
    lazy.undeploy(client=BOB)
    lazy.done()
    lazy.gone()
    assert isinstance(lazy.error(retrieve), FailedPreconditionError)
    assert isinstance(lazy.error(call), FailedPreconditionError)


def test_c10_what_crashed_and_comes_back_has_the_retries_of_lazy_loads(lazy):
    lazy.load(retries=0)
    lazy.up()
    lazy.exited()
    lazy.gone()
    caller = lazy.retrieve()
    lazy.down(ModelError("no weights"))
    assert lazy.is_waiting(caller)
    lazy.pass_time(1)
    lazy.up()
    assert lazy.answer(caller).state == "READY"
