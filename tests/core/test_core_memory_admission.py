"""Admission: loads start when there is memory for them, in the order in which they came; plans say what they would do."""

from __future__ import annotations

import dataclasses

import pytest
from driver import SPEC, Driver
from memory_driver import BUDGETED, KEPT, LIMITED, MemoryDriver, is_refused
from outside import Stage

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.bookkeeping.baselines import MAX_INTERPRETERS
from hostd_workers.wire.errors import AbortedError, ModelError


def test_without_a_budget_nothing_is_predicted_and_nothing_waits(host):
    host.load()
    host.found()
    assert [type(effect) for effect in host.effects_of(fx.SpawnWorker)] == [fx.SpawnWorker]
    assert host.queries.memory().budget_bytes is None
    assert host.queries.memory().free_bytes is None


def test_a_load_asks_what_it_needs_and_reserves_that_before_its_worker_is_spawned(tight):
    tight.load()
    tight.found()
    asked = tight.effects_of(fx.PredictSize)[0]
    assert (asked.model_id, asked.generation, asked.path, asked.spec) == ("m", 1, "/models/m", SPEC)
    assert tight.effects_of(fx.SpawnWorker) == []
    tight.predicted(6000)
    assert len(tight.effects_of(fx.SpawnWorker)) == 1
    memory = tight.queries.memory()
    assert (memory.reserved_bytes, memory.measured_bytes, memory.free_bytes) == (6000, 0, 4000)
    info = tight.model()
    assert (info.charge_bytes, info.reserved_bytes) == (6000, 6000)


def test_while_it_loads_a_model_counts_with_the_larger_of_what_is_reserved_and_measured(tight):
    tight.predicted_load("m", 6000)
    tight.started()
    for measured_bytes, charge_bytes in ((1000, 6000), (5000, 6000)):
        tight.sampled(measured_bytes)
        assert tight.model().charge_bytes == charge_bytes
    tight.loaded()
    assert tight.model().charge_bytes == 6000
    tight.sampled(2000)
    assert (tight.state(), tight.model().charge_bytes) == ("READY", 2000)
    assert tight.queries.memory().reserved_bytes == 0


def test_a_sample_is_a_reason_to_look_at_all_others_if_it_is_another_one_and_matters(tight, monkeypatch):
    look, looks = tight.admission.look, []

    def counted():
        looks.append(tight.now)
        return look()

    monkeypatch.setattr(tight.admission, "look", counted)
    tight.predicted_load("m", 1000)
    tight.started()
    for sampled_bytes, is_looked in ((500, True), (500, False), (600, True)):
        looks.clear()
        tight.sampled(sampled_bytes)
        assert bool(looks) == is_looked, "it loads, and may outgrow what is reserved for it"
    tight.loaded()
    tight.sampled(600)
    looks.clear()
    tight.sampled(700)
    assert looks == [], "it serves, and nothing waits"
    tight.predicted_load("n", 9400)
    for sampled_bytes, is_looked in ((650, True), (650, False), (600, True)):
        looks.clear()
        tight.sampled(sampled_bytes, tight.worker_of("m"))
        assert bool(looks) == is_looked, "a load waits for memory"
    assert tight.state("n") == "LOADING"
    assert tight.effects_of(fx.SpawnWorker), "which is free now"


def test_a_sample_that_was_asked_for_before_the_end_of_the_load_is_not_the_one_that_makes_it_ready(tight):
    """Several threads read: it may be of the middle of the load, and be told after its end."""
    tight.predicted_load("m", 6000)
    tight.started()
    asked_s = tight.now
    tight.pass_time(0.1)
    tight.loaded()
    tight.sampled(500, asked_s=asked_s)
    assert (tight.state(), tight.model().charge_bytes) == ("LOADING", 6000)
    assert tight.files.remembered == []
    tight.sampled(5000)
    assert (tight.state(), tight.model().charge_bytes) == ("READY", 5000)
    (remembered,) = tight.files.remembered
    assert remembered.memory.charge_bytes == 5000


def test_a_sample_that_was_asked_for_before_the_last_one_changes_nothing(tight):
    tight.ready("m", 3000, spec=LIMITED)
    asked_s = tight.now
    tight.pass_time(1)
    tight.sampled(3500)
    for taken_bytes in (500, 4001):
        tight.sampled(taken_bytes, asked_s=asked_s)
        assert (tight.state(), tight.model().charge_bytes) == ("READY", 3500)
    tight.sampled(3600)
    assert tight.model().charge_bytes == 3600


def test_what_could_not_be_measured_stays_reserved_until_it_can(tight):
    """An early sample is of a worker that had loaded nothing yet."""
    tight.predicted_load("m", 6000)
    tight.started()
    tight.sampled(500)
    tight.loaded()
    tight.measured(memory=None)
    assert (tight.state(), tight.model().charge_bytes) == ("READY", 6000)
    assert tight.files.remembered == []
    tight.sampled(3000)
    assert tight.model().charge_bytes == 3000


def test_what_is_estimated_from_files_needs_the_measured_baseline_as_well(tight):
    tight.predicted_load("a", 1000, source="estimated")
    assert tight.queries.memory().reserved_bytes == 1000
    tight.started()
    tight.feed(ev.BaselineMeasured(tight.worker, 700))
    for source, need_bytes in (("estimated", 1700), ("declared", 1000), ("remembered", 1000), ("assumed", 1000)):
        assert tight.queries.plan_load("b", ev.Prediction(1000, source), tight.now).need_bytes == need_bytes
    tight.predicted_load("b", 1000, source="estimated")
    assert tight.model("b").charge_bytes == 1700


def test_the_baseline_of_an_interpreter_is_added_for_that_one_alone_and_the_least_counts():
    tight = MemoryDriver(dataclasses.replace(BUDGETED, baseline_bytes=50, budget_bytes=10**9))

    def need_bytes(python):
        return tight.queries.plan_load("x", ev.Prediction(1000, "estimated", python), tight.now).need_bytes

    def measure(model_id, python, baseline_bytes):
        tight.predicted_load(model_id, 1000, spec=SPEC._replace(python=python))
        tight.feed(ev.BaselineMeasured(tight.worker, baseline_bytes))

    assert need_bytes(None) == need_bytes("/heavy") == 1050, "what is usual, before any was measured"
    measure("a", "/heavy", 5000)
    assert (need_bytes(None), need_bytes("/heavy")) == (1050, 6000)
    measure("b", None, 400)
    measure("c", None, 9000)
    assert (need_bytes(None), need_bytes("/heavy")) == (1400, 6000), (
        "a model's own environment is not charged to others"
    )
    assert tight.model("c").workers[0].baseline_bytes == 9000
    for number in range(MAX_INTERPRETERS):
        measure(f"m{number}", f"/python{number}", 1)
    assert need_bytes("/heavy") == 1050
    assert tight.feed(ev.BaselineMeasured(ev.WorkerId(9999), 1)) == [], "of a worker that is gone"


def test_loads_wait_in_order_and_nobody_passes_the_first(tight):
    tight.in_use("a", 8000)
    callers = [tight.predicted_load("large", 6000), tight.predicted_load("small", 1000)]
    assert tight.queries.memory().waiting == ("large", "small")
    assert tight.queries.memory().waits == 2
    assert all(map(tight.is_waiting, callers))
    told = tight.queries.story("small")[-1]
    assert (told.old, told.new, told.cause) == ("LOADING", "LOADING", "WAIT")
    assert told.reason == "it waits for 1.0 KiB (remembered), number 2 in line"
    tight.unload("a")
    tight.pass_time(10)
    tight.gone()
    assert [effect.model_id for effect in tight.effects_of(fx.SpawnWorker)] == ["large", "small"]
    assert tight.queries.memory().waiting == ()


def test_a_load_that_has_waited_too_long_is_refused_with_what_holds_the_rest(tight):
    tight.in_use("a", 8000)
    caller, patient = tight.predicted_load("m", 6000), tight.predicted_load("n", 1500)
    tight.pass_time(60)
    error = tight.error(caller)
    assert is_refused(error)
    assert error.message.startswith(
        "model 'm' needs 5.9 KiB (remembered), and 2.0 KiB of the budget of 9.8 KiB are free after 1m 0s "
        "(memory.admission_timeout_s); the rest is held by 'a' 7.8 KiB, it is in use. Unload or unpin some"
    )
    assert error.details["needed_bytes"] == 6000
    assert error.details["free_bytes"] == 2000
    assert error.details["budget_bytes"] == 10_000
    assert [holder["model_id"] for holder in error.details["holders"]] == ["a"]
    assert tight.queries.memory().refusals == 1
    assert tight.is_waiting(patient), "it starts now, and was not refused"
    assert tight.state("n") == "LOADING"
    assert tight.state("m") is None


def test_a_refused_load_is_not_tried_again(tight):
    tight.in_use("a", 8000)
    caller = tight.load("m", retries=3)
    tight.found()
    tight.predicted(6000)
    tight.pass_time(60)
    assert is_refused(tight.error(caller))
    assert tight.state("m") is None


def test_what_is_larger_than_the_budget_is_refused_at_once(tight):
    error = tight.error(tight.predicted_load("m", 10_001))
    assert is_refused(error)
    assert error.message == (
        "model 'm' needs 9.8 KiB (remembered), more than the whole budget of 9.8 KiB; no other model holds any. Unload or unpin "
        "some, or raise memory.budget. The figure was measured when the same content was loaded last; a size in its "
        "model.yaml replaces it"
    )


def test_what_can_never_start_is_refused_at_once_behind_others_too(tight):
    tight.in_use("a", 8000)
    first = tight.predicted_load("m", 6000)
    assert tight.queries.plan_load("n", ev.Prediction(20_000, "declared"), tight.now).outcome == "refuse"
    assert is_refused(tight.error(tight.predicted_load("n", 20_000)))
    assert tight.is_waiting(first)


@pytest.mark.parametrize("how", ["pinned", "kept by its settings"])
def test_a_load_is_refused_at_once_if_all_else_is_kept_for_good(tight, how):
    tight.ready("a", 8000, spec=KEPT if how != "pinned" else SPEC)
    if how == "pinned":
        tight.pin("a")
    plan = tight.queries.plan_load("m", ev.Prediction(6000, "declared"), tight.now)
    assert (plan.outcome, plan.fits, plan.reason) == ("refuse", False, "all else is kept for good")
    error = tight.error(tight.predicted_load("m", 6000))
    assert is_refused(error)
    assert ("it is pinned" if how == "pinned" else "not evictable") in error.message


def test_the_first_in_line_is_refused_when_what_it_waits_for_is_pinned(tight):
    tight.in_use("a", 8000)
    caller = tight.predicted_load("m", 6000)
    tight.pin("a")
    assert is_refused(tight.error(caller))


def test_what_a_pinned_model_that_has_crashed_still_holds_is_on_its_way_out(tight):
    tight.ready("a", 8000)
    tight.pin("a")
    tight.exited(worker=tight.worker_of("a"))
    caller = tight.predicted_load("m", 6000)
    assert tight.is_waiting(caller)
    tight.gone(tight.worker_of("a"))
    assert [effect.model_id for effect in tight.effects_of(fx.SpawnWorker)] == ["m"]


def test_a_model_that_has_crashed_is_not_evicted_while_its_processes_die(tight):
    tight.ready("a", 5000)
    tight.ready("b", 4000)
    tight.pass_time(2)
    tight.exited(worker=tight.worker_of("a"))
    assert tight.state("a") == "FAILED"
    caller = tight.predicted_load("m", 9000)
    assert (tight.state("a"), tight.state("b")) == ("FAILED", "UNLOADING")
    assert tight.queries.explain("a", tight.now)["eviction"]["why_not"] == "it has failed"
    assert tight.is_waiting(caller)


def test_an_unload_of_a_load_that_waits_takes_it_out_of_the_line_and_the_next_goes_on(tight):
    tight.in_use("a", 8000)
    caller, after = tight.predicted_load("m", 6000), tight.predicted_load("n", 2000)
    assert tight.answer(tight.unload("m")).processes == 0
    assert isinstance(tight.error(caller), AbortedError)
    assert tight.queries.memory().waiting == ()
    assert tight.is_waiting(after)
    assert tight.state("n") == "LOADING"
    tight.pass_time(100)


def test_a_prediction_that_does_not_come_ends_the_load(tight):
    caller = tight.load()
    tight.found()
    tight.pass_time(600)
    assert "within 600 s" in tight.error(caller).message


def test_each_try_of_a_load_waits_its_turn_and_reserves_anew(tight):
    caller = tight.load("m", retries=1)
    tight.found()
    tight.predicted(6000)
    tight.started()
    tight.not_loaded(ModelError("no weights"))
    assert tight.queries.memory().reserved_bytes == 6000, "it counts until the proof"
    other = tight.predicted_load("n", 9000)
    tight.gone(tight.worker_of("m"))
    assert tight.state("n") == "LOADING"
    tight.pass_time(0.3)
    tight.found()
    tight.predicted(6000)
    assert tight.queries.memory().waiting == ("m",)
    tight.comes_up("n", 4000)
    assert tight.answer(other).state == "READY"
    tight.comes_up("m", 5000)
    assert tight.answer(caller).state == "READY"


def test_files_that_are_not_moved_any_more_wake_what_waits_for_their_model(tight):
    """A deploy that is confirmed, an undeploy that fails: the model may go from now on."""
    deploy = tight.deploy_up_to("FINDING", "a")
    tight.found()
    tight.predicted(8000)
    tight.comes_up("a", 8000)
    tight.pass_time(2)
    caller = tight.predicted_load("m", 6000)
    assert tight.queries.explain("a", tight.now)["eviction"]["why_not"] == "its files are being moved"
    tight.done()
    assert tight.answer(deploy).state == "READY"
    assert tight.state("a") == "UNLOADING"
    tight.gone(tight.worker_of("a"))
    tight.comes_up("m", 6000)
    assert tight.answer(caller).state == "READY"


def test_a_line_in_front_makes_a_plan_wait(tight):
    tight.in_use("a", 8000)
    tight.predicted_load("m", 6000)
    plan = tight.queries.plan_load("n", ev.Prediction(100, "declared"), tight.now)
    assert (plan.outcome, plan.reason, plan.fits) == ("wait", "loads that wait before it: 1", False)
    tight.predicted_load("n", 100)
    assert tight.queries.memory().waiting == ("m", "n")


def test_plans_say_what_there_is_to_say_of_models_that_are_there(tight):
    tight.ready("a", 3000)
    prediction = ev.Prediction(100, "declared")
    plan = tight.queries.plan_load("a", prediction, tight.now)
    assert (plan.outcome, plan.need_bytes, plan.reason) == ("start", 0, "it is READY already")
    plan = Driver().core.queries.plan_load("a", prediction, 0.0)
    assert (plan.outcome, plan.budget_bytes, plan.free_bytes) == ("start", None, None)
    assert plan.reason == "there is no budget (memory.budget)"
    plan = tight.queries.plan_load("b", prediction, tight.now)
    assert (plan.outcome, plan.free_bytes, plan.reason) == ("start", 7000, "there is room for it")
    assert [holder.model_id for holder in plan.holders] == ["a"]
    tight.unload("a")
    plan = tight.queries.plan_load("a", prediction, tight.now)
    assert (plan.outcome, plan.reason) == ("wait", "it is being unloaded; load it when that is done")


@pytest.mark.parametrize("need_bytes", [1000, 2000, 5000, 7000, 9000, 10_000, 10_001])
def test_the_load_does_what_its_plan_said(tight, need_bytes):
    for model_id, bytes in (("a", 2000), ("b", 3000), ("c", 1000), ("d", 2000)):
        tight.ready(model_id, bytes)
        tight.pass_time(3)
    plan = tight.queries.plan_load("m", ev.Prediction(need_bytes, "remembered"), tight.now)
    caller = tight.predicted_load("m", need_bytes)
    assert [victim.model_id for victim in plan.victims] == tight.evicted()
    assert plan.outcome == ("refuse" if need_bytes > 10_000 else "evict" if plan.victims else "start")
    assert plan.fits is tight.is_waiting(caller)
    for model_id in tight.evicted():
        assert tight.processes[tight.worker_of(model_id)].stage is Stage.RUNNING
        tight.gone(tight.worker_of(model_id))
    if plan.fits:
        tight.comes_up("m", need_bytes)
        assert tight.answer(caller).state == "READY"


def test_a_prediction_that_comes_too_late_is_ignored(tight):
    tight.load()
    tight.found()
    wanted = tight.predictions[-1]
    tight.unload()
    assert tight.feed(ev.SizePredicted(wanted.model_id, wanted.generation, ev.Prediction(1, "declared"))) == []
    assert tight.state() is None
