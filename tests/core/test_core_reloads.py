"""Reloads: what is loaded goes, and what lies there then is loaded; calls wait, and pins stay."""

from __future__ import annotations

import pytest
from driver import BOB, SPEC, source_of
from memory_driver import MemoryDriver

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd_workers.wire.errors import (
    AbortedError,
    FailedPreconditionError,
    InvalidArgumentError,
    ModelError,
    NotFoundError,
    UnavailableError,
)

REFUSAL = ModelError("no weights")
REQUESTED = ev.Origin.REQUESTED


def test_a_reload_unloads_and_loads(host):
    host.up_to("READY")
    caller = host.load(reload=True, retries=1)
    assert host.state() == "UNLOADING"
    host.gone()
    assert host.state() == "LOADING"
    assert host.is_waiting(caller)
    host.up()
    answer = host.answer(caller)
    assert (answer.state, answer.generation, answer.already_loaded) == ("READY", 2, False)


def test_calls_wait_for_a_reload(host):
    host.up_to("READY")
    before = host.call()
    host.load(reload=True)
    during, retrieve = host.call(), host.retrieve()
    host.answered(host.sent(before))
    host.gone()
    host.up()
    assert host.sent(during).worker_id == host.worker
    assert host.answer(retrieve).generation == 2


def test_what_a_reload_without_a_path_says_holds_and_the_rest_is_as_it_was_loaded(host):
    host.load(source=ev.LoadSource("/x", "kind", "f", "i", {"a": 1, "b": 2}), retries=1)
    host.up()
    host.load(source=ev.LoadSource(None, "other", None, "j", {"b": 3}), reload=True, wait=False)
    caller = host.load(source=ev.LoadSource(None, ev.STANDALONE, "g", None, {"c": 4}), reload=True)
    host.gone()
    source = ev.LoadSource("/x", "other", "g", "j", {"a": 1, "b": 3, "c": 4})
    assert host.finds == [fx.FindSpec("m", 2, source, ev.Origin.REQUESTED)]
    host.down(REFUSAL)
    assert host.is_waiting(caller), "it is tried again as often as the first load"
    host.pass_time(60)
    host.down(REFUSAL)
    assert host.answer(caller) is REFUSAL


def test_a_reload_without_a_path_may_be_tried_again_more_often_than_the_load(host):
    host.load(retries=0)
    host.up()
    caller = host.load(source=source_of(None), retries=1, reload=True)
    host.gone()
    host.down(REFUSAL)
    assert host.is_waiting(caller)


def test_what_a_reload_says_of_what_was_found_in_the_directory_is_kept_for_the_next(host):
    host.sync()
    host.scanned(("m",))
    host.up()
    for given in ({"a": 1}, {}):
        host.load(source=source_of(None, **given), reload=True)
        host.gone()
        assert host.finds == [fx.FindSpec("m", host.finds[0].generation, source_of("/models/m", a=1), REQUESTED)]
        host.up()


def test_the_retries_of_a_deploy_are_looked_up_again_by_a_reload(host):
    host.sync()
    host.scanned(("m",))
    find = host.finds.pop()
    host.feed(ev.SpecFound(find.model_id, find.generation, SPEC, find.source.path, ev.Standing(retries=1)))
    host.come_up()
    caller = host.load(source=source_of(None), reload=True)
    host.gone()
    host.down(REFUSAL)
    assert host.answer(caller) is REFUSAL


def test_a_reload_without_a_path_of_what_crashed_is_of_what_was_loaded(host):
    host.load(source=source_of("/x", a=1))
    host.up()
    host.exited()
    host.gone()
    host.load(source=source_of(None, b=2), reload=True)
    assert host.finds[-1].source == source_of("/x", a=1, b=2)


def test_a_reload_without_a_path_of_what_was_evicted_is_of_what_was_loaded():
    tight = MemoryDriver()
    tight.evict_to_the_end()
    tight.load(source=source_of(None, b=2), reload=True)
    assert tight.finds[-1].source == source_of("/models/m", b=2)


def test_a_reload_of_what_is_not_loaded_and_has_no_path_says_so(host):
    error = host.error(host.load(source=source_of(None), reload=True), NotFoundError)
    assert error.message == (
        "model 'm' is not loaded, so a reload does not know from where: name its path (hostd load m PATH)"
    )
    assert host.finds == []
    by_id = source_of(None)._replace(finder="catalogue")
    host.load(source=by_id, reload=True)
    assert host.finds[-1].source == by_id, "a finder that is named may need no path"


def test_a_reload_is_told_as_one(host):
    host.up_to("READY")
    host.load(source=source_of(None), reload=True)
    host.gone()
    host.up()
    story = [event for event in host.queries.story("m") if event.generation == 2 and event.old == "NEW"]
    assert [(event.cause, event.reason) for event in story] == [
        ("LOAD", "reload of /models/m requested"),
        ("SPAWN", "reload of /models/m requested"),
    ]


def test_a_reload_of_what_was_found_in_the_directory_is_of_its_files_alone(host):
    host.sync()
    host.scanned(("m",))
    host.up()
    host.load(source=source_of(None), reload=True)
    host.gone()
    assert host.finds == [fx.FindSpec("m", 2, source_of("/models/m"), ev.Origin.SYNCED)]


def test_a_reload_may_be_of_something_else(host):
    host.up_to("READY")
    caller = host.load(source=source_of("/other", a=1), reload=True)
    joined = host.load(source=source_of("/other", a=1))
    host.gone()
    host.up()
    assert host.answer(caller).path == host.answer(joined).path == "/other"


@pytest.mark.parametrize("state", ["LOADING", "FINDING"])
def test_a_reload_overtakes_a_load_and_callers_that_waited_for_it_get_the_new_one(host, state):
    first = host.up_to(state)
    second = host.load(reload=True, client=BOB)
    if state == "LOADING":
        host.gone()
    host.up()
    assert host.answer(first).generation == host.answer(second).generation == 2


def test_callers_that_waited_for_something_else_are_told(host):
    first = host.up_to("LOADING")
    second = host.load(source=source_of("/other"), reload=True)
    third = host.load(source=source_of("/third"), reload=True)
    host.gone()
    host.up()
    for caller in (first, second):
        assert isinstance(host.error(caller), AbortedError)
        assert "reloaded from something else" in host.error(caller).message
    assert host.answer(third).path == "/third"


def test_what_is_not_loaded_or_has_failed_is_loaded(host):
    caller = host.load(reload=True)
    host.up()
    assert host.answer(caller).generation == 1
    host.exited()
    host.gone()
    again = host.load(reload=True)
    host.up()
    assert host.answer(again).generation == 2


def test_without_waiting_a_reload_is_answered_at_once(host):
    host.up_to("READY")
    assert host.answer(host.load(reload=True, wait=False)).state == "UNLOADING"
    host.gone()
    host.up()
    assert host.state() == "READY"


def test_a_pin_stays(host):
    host.up_to("READY")
    host.feed(ev.PinRequested(ev.Caller(BOB, 1), ev.ModelId("m"), is_pinned=True))
    host.load(reload=True)
    host.gone()
    host.up()
    assert host.model().pinned


def test_a_reload_that_fails_is_told_to_its_callers(host):
    host.up_to("READY")
    caller, call = host.load(reload=True), host.call()
    host.gone()
    host.down(REFUSAL)
    assert host.answer(caller) is REFUSAL
    assert host.answer(call) is REFUSAL
    assert host.state() is None


@pytest.mark.parametrize("what", ["unload", "undeploy", "shut_down"])
def test_whatever_wants_the_model_gone_overtakes_a_reload(host, what):
    host.deployed()
    caller = host.load(reload=True)
    getattr(host, what)()
    if what == "undeploy":
        host.done()
    assert isinstance(host.error(caller), AbortedError)
    host.gone()
    assert host.state() is None
    assert host.finds == []


def test_nobody_reloads_what_is_being_unloaded_or_moved_or_a_host_that_stops(host):
    host.deployed()
    host.undeploy()
    assert isinstance(host.error(host.load(reload=True)), FailedPreconditionError)
    host.done()
    host.gone()
    host.done()
    host.up_to("READY")
    host.unload()
    refused = host.error(host.load(reload=True))
    assert isinstance(refused, FailedPreconditionError)
    host.gone()
    host.up_to("READY")
    assert isinstance(host.error(host.load(reload=True, retries=1000)), InvalidArgumentError)
    assert host.state() == "READY"
    host.shut_down()
    assert isinstance(host.error(host.load(reload=True)), UnavailableError)


def test_what_is_being_evicted_may_be_reloaded():
    tight = MemoryDriver()
    tight.ready("m", 4000)
    tight.pass_time(2)
    tight.predicted_load("n", 8000)
    assert tight.state() == "UNLOADING"
    caller = tight.load("m", reload=True)
    tight.gone(tight.worker_of("m"))
    assert tight.state() == "LOADING"
    assert tight.is_waiting(caller)
    assert ev.ModelId("m") not in tight.registry.evicted
