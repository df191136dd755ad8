"""Loads that outgrow what was reserved for them, and estimates above the budget: tried, paused, put back, or ended."""

from __future__ import annotations

import dataclasses

import pytest
from driver import SPEC
from memory_driver import BUDGETED, KEPT, LIMITED, MemoryDriver, is_refused

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.timers import AdmissionTimer, WorkerTimer
from hostd_workers.wire.errors import AbortedError, DeadlineExceededError, ModelError, ResourceExhaustedError


def loading(host: MemoryDriver, model_id: str, need_bytes: int, spec: ev.LoadingSpec = SPEC) -> ev.Caller:
    """Begin the load of a model up to the moment at which it takes memory, and return who waits for it."""
    caller = host.predicted_load(model_id, need_bytes, spec, source="estimated")
    host.spawned()
    host.greeted()
    return caller


def grows(host: MemoryDriver, model_id: str, taken_bytes: int) -> None:
    host.sampled(taken_bytes, host.worker_of(model_id))


def state_of(host: MemoryDriver, model_id: str) -> str | None:
    return host.worker_state(host.worker_of(model_id))


def paused(host: MemoryDriver) -> ev.Caller:
    """Have a load that waits for a model in use, which holds 6000 of 10,000 bytes; its name is m, and it holds 5000."""
    host.ready("busy", 6000)
    host.busy("busy")
    caller = loading(host, "m", 1000)
    grows(host, "m", 5000)
    assert state_of(host, "m") == "PAUSED"
    assert host.effects_of(fx.PauseWorker) == [fx.PauseWorker(host.worker_of("m"))]
    return caller


# Estimates


@pytest.mark.parametrize("source", ["estimated", "assumed"])
def test_an_estimate_above_the_whole_budget_is_tried_with_all_that_can_be_freed(tight, source):
    tight.ready("idle", 3000)
    tight.ready("kept", 2000, spec=KEPT)
    tight.pass_time(2)
    plan = tight.core.plan_load("m", ev.Prediction(50_000, 1, source), tight.now)
    assert (plan.outcome, plan.need_bytes, [victim.model_id for victim in plan.victims]) == ("evict", 8000, ["idle"])
    assert plan.reason == (f"others make way for it; it is {source} to need 49 KiB, and is tried with what there is")
    caller = tight.predicted_load("m", 50_000, source=source)
    assert tight.evicted() == ["idle"]
    assert tight.core.get_model("m").reason == (
        f"it waits for 7.8 KiB, all that can be had of 49 KiB ({source}), number 1 in line"
    )
    tight.gone(tight.worker_of("idle"))
    assert tight.core.memory().reserved_bytes == 8000
    tight.come_up("m", 4000)
    assert tight.answer(caller).state == "READY"


@pytest.mark.parametrize("source", ["declared", "remembered", "at least"])
def test_what_is_known_to_be_above_the_whole_budget_is_refused_at_once_and_says_how_it_is_known(tight, source):
    error = tight.error(tight.predicted_load("m", 50_000, source=source))
    assert is_refused(error)
    assert f"needs 49 KiB ({source}), more than the whole budget of 9.8 KiB" in error.message
    assert "raise memory.budget" in error.message
    assert (error.details["needed_bytes"], error.details["need_source"]) == (50_000, source)


def test_an_estimate_is_refused_where_nothing_at_all_can_be_freed_and_says_what_helps(tight):
    tight.ready("kept", 10_000, spec=KEPT)
    error = tight.error(tight.predicted_load("m", 100, source="estimated"))
    assert is_refused(error)
    assert error.message.endswith(
        "The figure is an estimate from its files (sizers.default): say size in its model.yaml if you know it"
    )


def test_a_load_that_turns_out_to_be_above_the_budget_when_it_is_done_is_ended_and_remembered(tight):
    """It was too quick to be seen before."""
    caller = tight.load("m", retries=3)
    tight.found()
    tight.predicted(50_000, source="estimated")
    tight.come_up("m", 10_001)
    assert tight.files.remembered == [fx.RememberSize("/models/m", SPEC, tight.files.remembered[0].memory, 0.0, True)]
    tight.gone()
    error = tight.error(caller)
    assert is_refused(error)
    assert error.message.startswith(
        "model 'm' was killed while it was loaded: it held 9.8 KiB and needs more, 49 KiB (estimated) were expected, "
        "and the whole budget is 9.8 KiB; no other model holds any. Unload or unpin some, or raise memory.budget. That "
    )
    assert (error.details["needed_bytes"], error.details["need_source"]) == (10_001, "measured")
    assert tight.state() is None, "it is not tried again"


# Growth


def test_a_load_that_outgrows_its_reservation_gets_half_as_much_again_if_that_is_free(tight):
    loading(tight, "m", 1000)
    for taken_bytes, reserved_bytes in ((1500, 2251), (2251, 2251), (2252, 3379), (9000, 10_000)):
        grows(tight, "m", taken_bytes)
        assert tight.core.get_model("m").charge_bytes == reserved_bytes
        assert tight.core.activity(tight.worker, 0).reserved_bytes == reserved_bytes
    assert state_of(tight, "m") == "LOADING"


def test_a_load_gets_what_is_free_if_that_is_at_least_a_tenth(tight):
    tight.ready("idle", 6000)
    tight.pass_time(2)
    loading(tight, "m", 1000)
    grows(tight, "m", 3400)
    assert (tight.core.get_model("m").charge_bytes, tight.evicted()) == (4000, [])


def test_who_makes_way_makes_way_for_half_as_much_again(tight):
    for name, size_bytes in (("a", 1000), ("b", 1000), ("busy", 4000)):
        tight.ready(name, size_bytes)
    tight.busy("busy")
    tight.pass_time(2)
    loading(tight, "m", 1000)
    grows(tight, "m", 3900)
    assert sorted(tight.evicted()) == ["a", "b"]


def test_a_load_that_is_done_is_not_paused_for_what_it_held_before(tight):
    tight.ready("busy", 6000)
    tight.busy("busy")
    caller = loading(tight, "m", 1000)
    asked_s = tight.now
    tight.pass_time(0.1)
    tight.loaded()
    tight.sampled(4100, asked_s=asked_s)
    assert state_of(tight, "m") == "LOADING"
    tight.sampled(3000)
    assert tight.answer(caller).state == "READY"


def test_a_load_waits_for_what_is_on_its_way_out_if_that_is_at_least_a_tenth(tight):
    tight.ready("leaving", 1000)
    tight.ready("idle", 5000)
    tight.pass_time(2)
    loading(tight, "m", 1000)
    tight.unload("leaving")
    grows(tight, "m", 4000)
    assert (state_of(tight, "m"), tight.evicted()) == ("PAUSED", [])
    tight.gone(tight.worker_of("leaving"))
    assert (state_of(tight, "m"), tight.core.get_model("m").charge_bytes) == ("LOADING", 5000)
    assert tight.state("idle") == "READY"


def test_a_load_for_whose_growth_there_is_no_room_is_paused_while_others_make_way(tight):
    tight.ready("idle", 6000)
    tight.pass_time(2)
    caller = loading(tight, "m", 1000)
    grows(tight, "m", 3800)
    assert state_of(tight, "m") == "PAUSED"
    assert tight.evicted() == ["idle"]
    memory = tight.core.memory()
    assert (memory.paused, memory.pauses, memory.waiting) == (("m",), 1, ())
    assert tight.core.explain("m", tight.now)["reason"] == (
        "its load is paused until there is room for more, number 1 in line: it holds 3.7 KiB, 1.0 KiB (estimated) "
        "were expected"
    )
    tight.pass_time(2)
    tight.gone(tight.worker_of("idle"))
    assert tight.effects_of(fx.ResumeWorker) == [fx.ResumeWorker(tight.worker_of("m"))]
    assert tight.core.get_model("m").reason == (
        "its load goes on after a pause of 2.00 s: 5.6 KiB are reserved for it now"
    )
    tight.loaded()
    grows(tight, "m", 5600)
    assert tight.answer(caller).state == "READY"


def test_nothing_starts_while_a_load_is_paused(tight):
    tight.ready("busy", 6000)
    tight.busy("busy")
    first = loading(tight, "m", 1000)
    grows(tight, "m", 3800)
    assert (state_of(tight, "m"), tight.core.memory().free_bytes) == ("PAUSED", 200)
    later = tight.predicted_load("later", 100)
    assert tight.is_waiting(later)
    assert tight.core.memory().waiting == ("later",)
    assert tight.core.get_model("later").reason == "it waits for 100 B (remembered), number 2 in line"
    assert (
        tight.core.plan_load("n", ev.Prediction(10, 10, "declared"), tight.now).reason == "loads that wait before it: 2"
    )
    tight.unload("busy")
    tight.pass_time(10)
    tight.gone(tight.worker_of("busy"))
    assert state_of(tight, "m") == "LOADING"
    assert [effect.model_id for effect in tight.effects_of(fx.SpawnWorker)] == ["later"]
    assert tight.is_waiting(first)


def test_a_model_in_use_makes_way_for_a_paused_load_after_its_minimum_residence(tight):
    paused(tight)
    tight.pass_time(2)
    call = tight.call("busy")
    assert tight.is_waiting(call), "it waits for the next load of its model"
    assert tight.core.explain("busy", tight.now)["state"] == "READY"
    tight.end_call(next(caller for caller in tight.open if caller != call and tight.core._router.by_caller.get(caller)))
    tight.pass_time(0.1)
    assert tight.state("busy") == "UNLOADING"


def test_of_two_loads_that_outgrow_together_the_older_goes_on_and_the_younger_is_put_back(tight):
    older, younger = loading(tight, "a", 1000), loading(tight, "b", 1000)
    grows(tight, "b", 5000)
    assert state_of(tight, "b") == "LOADING"
    grows(tight, "a", 4000)
    assert (state_of(tight, "a"), state_of(tight, "b")) == ("PAUSED", "LOADING"), "b is still within what it got"
    grows(tight, "b", 8000)
    assert (state_of(tight, "a"), state_of(tight, "b")) == ("PAUSED", "KILLING")
    assert tight.core.get_model("b").reason == (
        "put back for the older load of model 'a': it held 7.8 KiB and needs more"
    )
    tight.gone(tight.worker_of("b"))
    assert state_of(tight, "a") == "LOADING"
    assert tight.core.memory().waiting == ("b",)
    assert tight.core.get_model("b").reason == "it waits for 7.8 KiB (at least), number 1 in line"
    tight.loaded(tight.worker_of("a"))
    grows(tight, "a", 5000)
    assert tight.answer(older).state == "READY"
    tight.pass_time(2)
    tight.gone(tight.worker_of("a"))
    tight.come_up("b", 9000)
    assert tight.answer(younger).state == "READY"
    assert tight.answer(younger).size == 9000


def test_what_was_put_back_waits_before_those_who_came_after_it(tight):
    loading(tight, "a", 1000)
    loading(tight, "b", 1000)
    tight.predicted_load("late", 9000)
    assert tight.core.memory().waiting == ("late",)
    grows(tight, "a", 9000)
    assert state_of(tight, "a") == "PAUSED"
    grows(tight, "b", 1001)
    tight.gone(tight.worker_of("b"))
    assert tight.core.memory().waiting == ("b", "late")


def test_younger_loads_that_are_within_their_reservations_are_waited_for(tight):
    loading(tight, "a", 1000)
    tight.predicted_load("b", 6000)
    tight.spawned()
    tight.greeted()
    grows(tight, "a", 4500)
    assert (state_of(tight, "a"), state_of(tight, "b")) == ("PAUSED", "LOADING")
    tight.loaded(tight.worker_of("b"))
    grows(tight, "b", 1000)
    assert (state_of(tight, "a"), state_of(tight, "b")) == ("LOADING", "READY")


def test_a_younger_load_that_may_not_be_evicted_is_put_back_all_the_same(tight):
    """Or the older would be ended, for what the younger holds would be kept for good."""
    loading(tight, "a", 1000)
    loading(tight, "b", 1000, KEPT)
    grows(tight, "a", 6000)
    grows(tight, "b", 4500)
    assert (state_of(tight, "a"), state_of(tight, "b")) == ("LOADING", "PAUSED")
    grows(tight, "a", 9500)
    assert (state_of(tight, "a"), state_of(tight, "b")) == ("PAUSED", "KILLING")


# The end of a pause


def test_a_paused_load_that_holds_more_than_can_ever_be_had_is_ended(tight):
    caller = paused(tight)
    tight.pin("busy")
    assert state_of(tight, "m") == "KILLING"
    tight.gone()
    error = tight.error(caller)
    assert is_refused(error)
    assert "it held 4.9 KiB and needs more, 1.0 KiB (estimated) were expected" in error.message
    assert error.message.endswith("That it needs more than this is remembered for its next load")
    assert tight.files.remembered[-1].is_minimum


def test_a_load_that_is_paused_for_too_long_is_ended(tight):
    caller = paused(tight)
    tight.pass_time(60)
    assert state_of(tight, "m") == "KILLING"
    tight.gone(tight.worker_of("m"))
    error = tight.error(caller)
    assert is_refused(error)
    assert "are free after a pause of 1m 0s (memory.admission_timeout_s)" in error.message
    assert "'busy' 5.9 KiB, it is in use" in error.message


def test_a_load_that_cannot_be_paused_is_ended(tight):
    caller = paused(tight)
    tight.feed(ev.WorkerPauseFailed(tight.worker_of("m"), "process 7 is another user's"))
    tight.gone(tight.worker_of("m"))
    assert "and it cannot be paused: process 7 is another user's" in tight.error(caller).message


def test_news_of_a_failed_pause_that_comes_after_the_pause_changes_nothing(tight):
    paused(tight)
    failed = ev.WorkerPauseFailed(tight.worker_of("m"), "too late")
    tight.unload("busy")
    tight.pass_time(10)
    tight.gone(tight.worker_of("busy"))
    assert tight.feed(failed) == []
    assert state_of(tight, "m") == "LOADING"
    tight.unload("m")
    tight.gone(tight.worker_of("m"))
    assert tight.feed(failed) == []


def test_the_clock_of_a_load_stands_still_while_it_is_paused():
    host = MemoryDriver(dataclasses.replace(BUDGETED, load_timeout_s=20.0))
    host.ready("busy", 6000)
    call = host.busy("busy")
    caller = loading(host, "m", 1000)
    host.pass_time(15)
    grows(host, "m", 5000)
    host.pass_time(30)
    assert state_of(host, "m") == "PAUSED"
    assert WorkerTimer(host.worker_of("m")) not in host.core._registry.timers
    host.end_call(call)
    host.gone(host.worker_of("busy"))
    assert state_of(host, "m") == "LOADING"
    host.pass_time(4.9)
    assert state_of(host, "m") == "LOADING"
    host.pass_time(0.2)
    host.gone(host.worker_of("m"))
    assert isinstance(host.error(caller), DeadlineExceededError)


@pytest.mark.parametrize("how", ["unload", "shutdown", "exit", "limit", "refused"])
def test_a_paused_load_can_end_in_every_way(tight, how):
    tight.ready("busy", 6000)
    tight.busy("busy")
    caller = loading(tight, "m", 1000, LIMITED if how == "limit" else SPEC)
    worker = tight.worker_of("m")
    grows(tight, "m", 4000)
    assert state_of(tight, "m") == "PAUSED"
    if how == "unload":
        tight.unload("m")
    elif how == "shutdown":
        tight.signal(at_once=True)
    elif how == "exit":
        tight.died(ev.Death.OUT_OF_MEMORY, worker)
    elif how == "limit":
        grows(tight, "m", 4001)  # pages that it had shared became its own
    else:
        tight.not_loaded(ModelError("no weights"), worker)
    assert tight.killed().count(worker) == 1
    assert not any(isinstance(key, AdmissionTimer) for key in tight.core._registry.timers._due)
    tight.gone(worker)
    kinds = {"unload": AbortedError, "shutdown": AbortedError, "refused": ModelError}
    assert isinstance(tight.error(caller), kinds.get(how, ResourceExhaustedError))
    assert tight.core.memory().paused == ()


def test_a_load_that_was_put_back_can_be_unloaded_while_its_process_dies(tight):
    loading(tight, "a", 1000)
    caller = loading(tight, "b", 1000)
    grows(tight, "b", 1500)
    grows(tight, "a", 7400)
    grows(tight, "b", 2300)
    worker = tight.worker_of("b")
    assert state_of(tight, "b") == "KILLING"
    unload = tight.unload("b")
    assert isinstance(tight.error(caller), AbortedError)
    tight.gone(worker)
    assert tight.answer(unload).processes == 1
    assert tight.core.memory().waiting == ()


def test_what_a_paused_load_said_just_before_it_was_stopped_counts_when_it_goes_on(tight):
    caller = paused(tight)
    worker = tight.worker_of("m")
    tight.loaded(worker)
    grows(tight, "m", 5000)
    assert (state_of(tight, "m"), tight.is_waiting(caller)) == ("PAUSED", True)
    grows(tight, "busy", 5000)  # there is no room for more, and it needs none
    assert [type(effect) for effect in tight.effects_of(fx.ResumeWorker) + tight.effects_of(fx.MeasureWorker)] == [
        fx.ResumeWorker,
        fx.MeasureWorker,
    ]
    grows(tight, "m", 5000)
    assert tight.answer(caller).state == "READY"


def test_a_successor_that_outgrows_its_reservation_is_put_back_and_comes_up_later(tight):
    tight.ready("m", 1000)
    loading(tight, "a", 1000)
    caller = tight.deploy_up_to("FINDING", "m", replace=True)
    tight.found()
    tight.predicted(1000, source="estimated")
    successor = tight.worker
    tight.spawned()
    tight.greeted()
    tight.sampled(2000, successor)
    grows(tight, "a", 6500)
    tight.sampled(3500, successor)
    assert (state_of(tight, "a"), tight.worker_state(successor)) == ("PAUSED", "KILLING")
    tight.gone(successor)
    assert tight.core.memory().waiting == ("m",)
    tight.unload("a")
    tight.gone(tight.worker_of("a"))
    tight.come_up("m", 4000)
    tight.done()
    assert tight.answer(caller).state == "READY"


def test_a_pause_that_nothing_would_end_is_found(tight):
    from hostd_workers.wire.errors import InternalError

    paused(tight)
    tight.core._registry.timers.cancel(AdmissionTimer(tight.core._registry.models["m"]))
    with pytest.raises(InternalError, match="is paused and nothing ends that"):
        tight.core.check_invariants()
