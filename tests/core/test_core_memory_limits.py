"""Limits of single models, deaths for want of memory, successors under a budget, threads, and what `explain` says."""

from __future__ import annotations

import dataclasses

import pytest
from driver import SPEC, Driver
from memory_driver import BUDGETED, KEPT, LIMITED, MemoryDriver, is_refused

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd_workers.wire.errors import ModelError, ResourceExhaustedError, UnavailableError

# Limits


def test_a_model_over_its_limit_is_killed_alone_and_its_callers_hear_the_figures(tight):
    tight.ready("m", 3000, spec=LIMITED)
    tight.ready("other", 3000)
    call, other = tight.busy("m"), tight.busy("other")
    tight.sampled(4000, tight.worker_of("m"))
    assert tight.state() == "READY"
    tight.sampled(4001, tight.worker_of("m"))
    error = tight.error(call, ResourceExhaustedError)
    assert error.details == {
        "reason": "MEMORY_LIMIT",
        "model_id": "m",
        "measured_bytes": 4001,
        "limit_bytes": 4000,
        "limit_origin": None,
    }
    assert error.message.startswith("model 'm' was killed: its memory of 3.9 KiB")
    assert error.message.endswith(". Raise its memory_limit, or have it use less")
    assert tight.killed() == [tight.worker_of("m")]
    assert (tight.state("m"), tight.state("other")) == ("FAILED", "READY")
    assert tight.queries.explain("m", tight.now)["reason"] == error.message
    assert tight.is_waiting(other)
    tight.gone(tight.worker_of("m"))
    assert tight.model().reason == error.message


def test_a_kill_takes_the_sample_along_that_it_is_for_and_no_older_one(tight):
    tight.ready("m", 3000, spec=LIMITED)
    tight.ready("other", 3000)
    breaking, other = tight.worker_of("m"), tight.worker_of("other")
    tight.sampled(4001, breaking)
    assert tight.effects_of(fx.KillWorker) == [fx.KillWorker(breaking, ev.Memory(1, 4001, 4001, None, 4001))]
    tight.sampled(3100, other)
    tight.unload("other")
    assert tight.effects_of(fx.KillWorker) == [fx.KillWorker(other, None)]


def test_a_model_over_its_limit_while_it_loads_is_not_tried_again(tight):
    caller = tight.load("m", retries=3)
    tight.found(LIMITED)
    tight.predicted(3000)
    assert tight.effects_of(fx.SpawnWorker)[0].limit_bytes == 4000
    tight.started()
    tight.sampled(5000)
    assert tight.is_waiting(caller)
    tight.gone()
    error = tight.error(caller)
    assert (error.details["reason"], error.details["measured_bytes"]) == ("MEMORY_LIMIT", 5000)
    assert tight.state() is None


def test_a_model_over_its_limit_while_it_drains_is_killed(tight):
    tight.ready("m", 3000, spec=LIMITED)
    call = tight.busy("m")
    unload = tight.unload("m")
    assert tight.worker_state() == "DRAINING"
    tight.sampled(5000)
    assert tight.error(call).details["reason"] == "MEMORY_LIMIT"
    assert tight.worker_state() == "KILLING"
    tight.gone()
    assert tight.answer(unload).processes == 1


def test_there_are_limits_without_a_budget_too(host):
    host.load()
    host.found(LIMITED)
    host.come_up(ev.Memory(1, 9000, 3000, None, None, swap_bytes=1001))
    assert host.worker_state() == "KILLING"


# Deaths


@pytest.mark.parametrize(
    ("death", "reason"), [(ev.Death.OUT_OF_MEMORY, "OUT_OF_MEMORY"), (ev.Death.MEMORY_LIMIT, "MEMORY_LIMIT")]
)
def test_a_death_for_want_of_memory_is_told_apart_and_not_tried_again(tight, death, reason):
    caller = tight.load("m", retries=3)
    tight.found(LIMITED)
    tight.predicted(3000)
    tight.started()
    tight.died(death)
    tight.gone()
    assert tight.error(caller, ResourceExhaustedError).details["reason"] == reason
    assert tight.state() is None


def test_callers_of_a_model_that_the_kernel_kills_for_memory_hear_so(tight):
    call = tight.in_use("m", 3000)
    tight.died(ev.Death.OUT_OF_MEMORY)
    error = tight.error(call, ResourceExhaustedError)
    assert error.message == (
        "the worker of model 'm' died: killed by SIGKILL. The machine, or the host's cgroup, has no more"
    )
    assert error.details == {"reason": "OUT_OF_MEMORY", "exit": "killed by SIGKILL", "pid": 5001, "model_id": "m"}
    assert tight.state() == "FAILED"


def test_a_limit_that_the_kernel_enforced_has_no_figure_of_ours(tight):
    tight.ready("m", 3000, spec=LIMITED)
    call = tight.busy("m")
    tight.died(ev.Death.MEMORY_LIMIT)
    error = tight.error(call)
    assert (error.details["measured_bytes"], error.details["limit_bytes"]) == (None, 4000)
    assert "its memory is over its memory_limit of 3.9 KiB" in error.message


# Successors


def replacing(host: MemoryDriver, need_bytes: int) -> ev.Caller:
    caller = host.deploy_up_to("FINDING", "m", replace=True)
    host.found()
    host.predicted(need_bytes)
    return caller


@pytest.mark.parametrize("is_pinned", [False, True])
def test_a_successor_has_others_evicted_and_not_the_model_that_it_replaces(tight, is_pinned):
    tight.ready("m", 4000)
    tight.ready("a", 3000)
    tight.pass_time(2)
    if is_pinned:
        tight.pin("m")
    caller = replacing(tight, 5000)
    assert tight.evicted() == ["a"]
    tight.gone(tight.worker_of("a"))
    holders = [(holder.model_id, holder.bytes) for holder in tight.planning.holders()]
    assert holders == [("m", 5000), ("m", 4000)]
    tight.comes_up("m", 5000)
    tight.done()
    assert tight.answer(caller).pinned is is_pinned
    tight.gone(ev.WorkerId(1))
    assert tight.queries.memory().free_bytes == 5000


def test_a_successor_that_never_fits_beside_the_model_that_it_replaces_is_refused_and_undone(tight):
    tight.ready("m", 6000)
    caller = replacing(tight, 5000)
    tight.done()
    assert is_refused(tight.error(caller))
    assert tight.state() == "READY"
    call = tight.call()
    tight.end_call(call)


def test_a_successor_that_waits_ends_with_an_unload_of_its_id(tight):
    tight.ready("m", 2000)
    tight.in_use("a", 7000)
    caller = replacing(tight, 5000)
    assert tight.queries.memory().waiting == ("m",)
    tight.unload("m")
    tight.gone(tight.worker_of("m"))
    assert tight.queries.memory().waiting == ()
    tight.done()
    assert "overtaken" in tight.error(caller).message


def test_what_a_crashed_model_still_holds_does_not_keep_its_successor_from_starting(tight):
    tight.ready("m", 6000)
    tight.deploy_up_to("FINDING", "m", replace=True)
    tight.exited()
    tight.found()
    tight.predicted(5000)
    assert tight.queries.memory().waiting == ("m",)
    tight.gone(ev.WorkerId(1))
    assert len(tight.effects_of(fx.SpawnWorker)) == 1


# Threads


def test_the_cores_are_shared_among_the_loaded_models_unless_somebody_says_how_many():
    host = MemoryDriver(dataclasses.replace(BUDGETED, cores=8))
    for model_id, cpu_threads in (("a", 8), ("b", 4), ("c", 2), ("d", 2), ("e", 1)):
        host.predicted_load(model_id, 1)
        assert host.effects_of(fx.SpawnWorker)[0].cpu_threads == cpu_threads
        assert host.model(model_id).cpu_threads == cpu_threads
    host.predicted_load("f", 1, SPEC._replace(cpu_threads=5))
    assert host.effects_of(fx.SpawnWorker)[0].cpu_threads == 5
    host = MemoryDriver(dataclasses.replace(BUDGETED, cores=8, cpu_threads=3))
    host.predicted_load("a", 1)
    assert host.effects_of(fx.SpawnWorker)[0].cpu_threads == 3


def test_a_successor_of_a_model_that_has_crashed_has_the_cores_for_itself():
    host = Driver(dataclasses.replace(BUDGETED, budget_bytes=None, cores=8))
    host.up_to("READY")
    host.deploy_up_to("FINDING", replace=True)
    host.exited()
    host.gone()
    host.found()
    assert host.effects_of(fx.SpawnWorker)[0].cpu_threads == 8


# What may be asked


def test_explain_says_what_a_size_is_made_of(tight):
    tight.predicted_load("m", 6000)
    tight.spawned()
    size = tight.queries.explain("m", tight.now)["size"]
    assert (size["bytes"], size["source"], size["age_s"]) == (None, "unknown", None)
    assert (size["charge_bytes"], size["reserved_bytes"], size["need_source"]) == (6000, 6000, "remembered")
    tight.greeted()
    tight.feed(ev.BaselineMeasured(tight.worker, 700))
    tight.feed(ev.WorkerLoaded(tight.worker, "python", {}, None))
    tight.processes[tight.worker].has_loaded = True
    tight.measured(memory=ev.Memory(2, 5000, 3000, 4000, 8000, 500, shared_bytes=250))
    tight.pass_time(3)
    assert tight.queries.explain("m", tight.now)["size"] == {
        "bytes": 5000,
        "source": "measured",
        "age_s": 3.0,
        "charge_bytes": 3750,
        "reserved_bytes": 0,
        "shared_bytes": 250,
        "need_bytes": 6000,
        "need_source": "remembered",
        "peak_bytes": 8000,
        "baseline_bytes": 700,
    }


def test_explain_says_what_an_eviction_would_do_and_what_would_go_first(tight):
    for model_id in "ab":
        tight.predicted_load(model_id, 3000)
        tight.pass_time(1)
        tight.comes_up(model_id, 3000)
    tight.ready("kept", 3000, spec=KEPT)
    tight.pass_time(2)
    assert tight.queries.explain("b", tight.now)["eviction"] == {
        "would_free_bytes": 3000,
        "idle_s": 2.0,
        "reload_s": 1.0,
        "why_not": "",
        "rank": 2,
        "returns": "the next call or retrieve_model loads it again, which took 1.00 s the last time; calls wait",
    }
    assert tight.queries.explain("a", tight.now)["eviction"]["rank"] == 1
    kept = tight.queries.explain("kept", tight.now)["eviction"]
    assert (kept["rank"], kept["why_not"]) == (None, "its model.yaml says that it is not evictable")
    tight.load("n")
    assert tight.queries.explain("n", tight.now)["eviction"] is None


def test_explain_knows_evicted_models_even_when_their_story_is_forgotten(tight):
    assert tight.queries.explain("m", tight.now) is None
    tight.evict_to_the_end()
    known = tight.queries.explain("m", tight.now)
    assert (known["state"], known["size"], known["eviction"]) == ("EVICTED", None, None)
    assert (known["model"]["state"], known["model"]["path"]) == ("EVICTED", "/models/m")
    assert known["story"]
    tight.registry.stories.clear()
    known = tight.queries.explain("m", tight.now)
    assert known["state"] == "EVICTED"
    assert known["reason"].startswith("evicted for 8.8 KiB of model 'other': it held 7.8 KiB")


def test_explain_tells_of_a_load_that_failed(tight):
    tight.load("m")
    tight.found()
    tight.predicted(100)
    tight.started()
    tight.not_loaded(ModelError("no weights"))
    tight.gone()
    known = tight.queries.explain("m", tight.now)
    assert (known["state"], known["reason"]) == ("FAILED", "no weights")
    assert known["model"]["path"] == "/models/m"
    tight.load("n")
    tight.found()
    tight.predicted(100)
    tight.not_spawned(UnavailableError("no processes"))
    assert tight.queries.explain("n", tight.now)["reason"] == "no processes"


@pytest.mark.parametrize(
    ("highest", "last", "peak_bytes"),
    [
        pytest.param((9000, 4500), (5000, 4900), 4500 + 1000, id="a file was mapped while it was copied"),
        pytest.param((9000, 8900), (5000, 2000), 8900 + 1000, id="a file was mapped when that was done"),
        pytest.param((3000, 2900), (5000, 4900), 9900, id="the last is the highest"),
    ],
)
def test_a_peak_is_remembered_by_what_counted_of_it_then(highest, last, peak_bytes):
    host = Driver()
    host.up_to("LOADING")
    host.measured(memory=ev.Memory(1, highest[0], highest[1], None, highest[0]))
    host.loaded()
    host.measured(memory=ev.Memory(1, last[0], last[1], None, 10000))
    (remembered,) = host.files.remembered
    assert remembered.memory.charge_bytes == last[1]
    assert remembered.memory.peak_charge_bytes == peak_bytes


def test_the_charge_is_what_is_private_and_shared_or_what_the_kernel_counts_if_that_is_more():
    memory = ev.Memory(1, 5000, 3000, None, 8000, swap_bytes=10, held_bytes=2000, shared_bytes=600)
    assert memory.charge_bytes == 2610
    assert memory._replace(group_bytes=2000).charge_bytes == 2610
    assert memory._replace(group_bytes=2700).charge_bytes == 2700


def test_the_peak_of_a_sample_is_without_what_is_shared_and_at_least_what_is_held_now():
    assert ev.Memory(1, 5000, 3000, None, 8000).peak_charge_bytes == 6000
    assert ev.Memory(1, 5000, None, None, 8000, 100).peak_charge_bytes == 8000
    assert ev.Memory(1, 5000, None, None, None, 100).peak_charge_bytes == 5100
    assert ev.Memory(1, 5000, 4000, None, 4500).charge_bytes == 4000
