"""Loads that outgrow what was reserved for them, and estimates above the budget: tried, paused, put back, or ended."""

from __future__ import annotations

import pytest
from driver import SPEC, source_of
from memory_driver import KEPT, is_refused

from hostd.core import effects as fx
from hostd.core import events as ev

# Estimates


@pytest.mark.parametrize("source", ["estimated", "assumed"])
def test_an_estimate_above_the_whole_budget_is_tried_with_all_that_can_be_freed(tight, source):
    tight.ready("idle", 3000)
    tight.ready("kept", 2000, spec=KEPT)
    tight.pass_time(2)
    plan = tight.queries.plan_load("m", ev.Prediction(50_000, source), tight.now)
    assert (plan.outcome, plan.need_bytes, [victim.model_id for victim in plan.victims]) == ("evict", 8000, ["idle"])
    assert plan.reason == (f"others yield for it; it is {source} to need 49 KiB, and is tried with what there is")
    caller = tight.predicted_load("m", 50_000, source=source)
    assert tight.evicted() == ["idle"]
    assert tight.model().reason == (f"it waits for 7.8 KiB, all that can be had of 49 KiB ({source}), number 1 in line")
    tight.gone(tight.worker_of("idle"))
    assert tight.queries.memory().reserved_bytes == 8000
    tight.comes_up("m", 4000)
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
    tight.comes_up("m", 10_001)
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


def test_of_a_load_without_a_path_that_is_ended_nothing_is_remembered(tight):
    tight.load("m", source_of(None))
    tight.found()
    tight.predicted(50_000, source="estimated")
    tight.comes_up("m", 10_001)
    assert (tight.state_of("m"), tight.files.remembered) == ("KILLING", [])


# Growth


def test_a_load_that_outgrows_its_reservation_gets_half_as_much_again_if_that_is_free(tight):
    tight.loading("m", 1000)
    for taken_bytes, reserved_bytes in ((1500, 2251), (2251, 2251), (2252, 3379), (9000, 10_000)):
        tight.grows("m", taken_bytes)
        assert tight.model().charge_bytes == reserved_bytes
        assert tight.queries.activity(tight.worker, 0).reserved_bytes == reserved_bytes
    assert tight.state_of("m") == "LOADING"


def test_a_load_gets_what_is_free_if_that_is_at_least_a_tenth(tight):
    tight.ready("idle", 6000)
    tight.pass_time(2)
    tight.loading("m", 1000)
    tight.grows("m", 3400)
    assert (tight.model().charge_bytes, tight.evicted()) == (4000, [])


def test_what_yields_yields_for_half_as_much_again(tight):
    for name, size_bytes in (("a", 1000), ("b", 1000), ("busy", 4000)):
        tight.ready(name, size_bytes)
    tight.busy("busy")
    tight.pass_time(2)
    tight.loading("m", 1000)
    tight.grows("m", 3900)
    assert sorted(tight.evicted()) == ["a", "b"]


def test_a_load_that_is_done_is_not_paused_for_what_it_held_before(tight):
    tight.in_use("busy", 6000)
    caller = tight.loading("m", 1000)
    asked_s = tight.now
    tight.pass_time(0.1)
    tight.loaded()
    tight.sampled(4100, asked_s=asked_s)
    assert tight.state_of("m") == "LOADING"
    tight.sampled(3000)
    assert tight.answer(caller).state == "READY"


def test_a_load_waits_for_what_is_on_its_way_out_if_that_is_at_least_a_tenth(tight):
    tight.ready("leaving", 1000)
    tight.ready("idle", 5000)
    tight.pass_time(2)
    tight.loading("m", 1000)
    tight.unload("leaving")
    tight.grows("m", 4000)
    assert (tight.state_of("m"), tight.evicted()) == ("PAUSED", [])
    tight.gone(tight.worker_of("leaving"))
    assert (tight.state_of("m"), tight.model().charge_bytes) == ("LOADING", 5000)
    assert tight.state("idle") == "READY"


def test_a_load_is_paused_while_others_yield_for_its_growth(tight):
    tight.ready("idle", 6000)
    tight.pass_time(2)
    caller = tight.loading("m", 1000)
    tight.grows("m", 3800)
    assert tight.state_of("m") == "PAUSED"
    assert tight.evicted() == ["idle"]
    memory = tight.queries.memory()
    assert (memory.paused, memory.pauses, memory.waiting) == (("m",), 1, ())
    assert tight.queries.explain("m", tight.now)["reason"] == (
        "its load is paused until there is room for more, number 1 in line: it holds 3.7 KiB, 1.0 KiB (estimated) "
        "were expected"
    )
    tight.pass_time(2)
    tight.gone(tight.worker_of("idle"))
    assert tight.effects_of(fx.ResumeWorker) == [fx.ResumeWorker(tight.worker_of("m"))]
    assert tight.model().reason == ("its load goes on after a pause of 2.00 s: 5.6 KiB are reserved for it now")
    tight.loaded()
    tight.grows("m", 5600)
    assert tight.answer(caller).state == "READY"


def test_nothing_starts_while_a_load_is_paused(tight):
    tight.in_use("busy", 6000)
    first = tight.loading("m", 1000)
    tight.grows("m", 3800)
    assert (tight.state_of("m"), tight.queries.memory().free_bytes) == ("PAUSED", 200)
    later = tight.predicted_load("later", 100)
    assert tight.is_waiting(later)
    assert tight.queries.memory().waiting == ("later",)
    assert tight.model("later").reason == "it waits for 100 B (remembered), number 2 in line"
    assert (
        tight.queries.plan_load("n", ev.Prediction(10, "declared"), tight.now).reason == "loads that wait before it: 2"
    )
    tight.unload("busy")
    tight.pass_time(10)
    tight.gone(tight.worker_of("busy"))
    assert tight.state_of("m") == "LOADING"
    assert [effect.model_id for effect in tight.effects_of(fx.SpawnWorker)] == ["later"]
    assert tight.is_waiting(first)


def test_a_model_in_use_yields_for_a_paused_load_after_its_minimum_residence(tight):
    tight.paused()
    tight.pass_time(2)
    call = tight.call("busy")
    assert tight.is_waiting(call), "it waits for the next load of its model"
    assert tight.queries.explain("busy", tight.now)["state"] == "READY"
    tight.end_call(next(caller for caller in tight.open if caller != call and tight.router.by_caller.get(caller)))
    tight.pass_time(0.1)
    assert tight.state("busy") == "UNLOADING"


def test_of_two_loads_that_outgrow_together_the_older_goes_on_and_the_younger_is_put_back(tight):
    older, younger = tight.loading("a", 1000), tight.loading("b", 1000)
    tight.grows("b", 5000)
    assert tight.state_of("b") == "LOADING"
    tight.grows("a", 4000)
    assert (tight.state_of("a"), tight.state_of("b")) == ("PAUSED", "LOADING"), "b is still within what it got"
    tight.grows("b", 8000)
    assert (tight.state_of("a"), tight.state_of("b")) == ("PAUSED", "KILLING")
    assert tight.model("b").reason == ("put back for the older load of model 'a': it held 7.8 KiB and needs more")
    tight.gone(tight.worker_of("b"))
    assert tight.state_of("a") == "LOADING"
    assert tight.queries.memory().waiting == ("b",)
    assert tight.model("b").reason == "it waits for 7.8 KiB (at least), number 1 in line"
    tight.loaded(tight.worker_of("a"))
    tight.grows("a", 5000)
    assert tight.answer(older).state == "READY"
    tight.pass_time(2)
    tight.gone(tight.worker_of("a"))
    tight.comes_up("b", 9000)
    assert tight.answer(younger).state == "READY"
    assert tight.answer(younger).size == 9000


def test_what_was_put_back_waits_before_what_came_after_it(tight):
    tight.loading("a", 1000)
    tight.loading("b", 1000)
    tight.predicted_load("late", 9000)
    assert tight.queries.memory().waiting == ("late",)
    tight.grows("a", 9000)
    assert tight.state_of("a") == "PAUSED"
    tight.grows("b", 1001)
    tight.gone(tight.worker_of("b"))
    assert tight.queries.memory().waiting == ("b", "late")


def test_younger_loads_that_are_within_their_reservations_are_waited_for(tight):
    tight.loading("a", 1000)
    tight.predicted_load("b", 6000)
    tight.started()
    tight.grows("a", 4500)
    assert (tight.state_of("a"), tight.state_of("b")) == ("PAUSED", "LOADING")
    tight.loaded(tight.worker_of("b"))
    tight.grows("b", 1000)
    assert (tight.state_of("a"), tight.state_of("b")) == ("LOADING", "READY")


def test_a_younger_load_that_may_not_be_evicted_is_put_back_all_the_same(tight):
    """Or the older would be ended, for what the younger holds would be kept for good."""
    tight.loading("a", 1000)
    tight.loading("b", 1000, KEPT)
    tight.grows("a", 6000)
    tight.grows("b", 4500)
    assert (tight.state_of("a"), tight.state_of("b")) == ("LOADING", "PAUSED")
    tight.grows("a", 9500)
    assert (tight.state_of("a"), tight.state_of("b")) == ("PAUSED", "KILLING")
