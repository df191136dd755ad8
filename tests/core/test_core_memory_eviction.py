"""Evictions: what goes, what stays, and when nobody uses it for long enough."""

from __future__ import annotations

import dataclasses
import itertools
import random

import pytest
from driver import ALICE, SPEC
from memory_driver import BUDGETED, KEPT, RESTLESS, MemoryDriver, is_refused

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.queries.views import lasting
from hostd.views import ModelSummary
from hostd_workers.wire.errors import (
    NotFoundError,
)

# What goes


def test_models_that_one_client_leaves_idle_together_both_go(tight):
    for model_id in "ab":
        tight.ready(model_id, 4000)
        tight.call(model_id)
    tight.pass_time(2)
    tight.predicted_load("m", 9000)
    assert tight.evicted() == []
    tight.feed(ev.ClientVanished(ALICE))
    assert tight.evicted() == ["a", "b"]


def test_the_least_recently_used_of_equals_goes_first(tight):
    for model_id in "abc":
        tight.ready(model_id, 3000)
        tight.pass_time(2)
    tight.end_call(tight.busy("a"))
    tight.pass_time(2)
    tight.predicted_load("m", 5000)
    assert tight.evicted() == ["b", "c"]
    told = tight.queries.story("b")[-2]
    assert (told.subject, told.old, told.new, told.cause) == ("model", "READY", "UNLOADING", "EVICT")
    assert told.reason == (
        "evicted for 4.9 KiB of model 'm': it held 2.9 KiB, was unused for 6.00 s, and loads again in 0.0 ms when it is used"
    )


def test_what_loads_fast_for_its_size_goes_before_what_loads_slowly(tight):
    for model_id, load_s in (("slow", 20.0), ("fast", 1.0)):
        tight.predicted_load(model_id, 4000)
        tight.pass_time(load_s)
        tight.comes_up(model_id, 4000)
    tight.pass_time(5)
    tight.predicted_load("m", 4000)
    assert tight.evicted() == ["fast"]


def test_no_more_go_than_are_needed(tight):
    tight.ready("small", 1000)
    tight.ready("large", 8000)
    tight.pass_time(2)
    tight.end_call(tight.busy("large"))
    tight.pass_time(2)
    tight.predicted_load("m", 8000)
    assert tight.evicted() == ["large"]


def test_the_time_since_a_use_counts_from_its_end(tight):
    for model_id in ("a", "b"):
        tight.ready(model_id, 4000)
    long = tight.busy("a")
    tight.pass_time(50)
    tight.end_call(tight.busy("b"))
    tight.pass_time(5)
    tight.end_call(long)
    tight.pass_time(2)
    tight.predicted_load("m", 4000)
    assert tight.evicted() == ["b"]


@pytest.mark.parametrize("kept", ["pinned", "not evictable", "in use", "fresh", "loading"])
def test_what_is_kept_stays(tight, kept):
    if kept == "loading":
        tight.predicted_load("kept", 3000)
    else:
        tight.ready("kept", 3000, spec=KEPT if kept == "not evictable" else SPEC)
    tight.ready("idle", 3000)
    tight.pass_time(2)
    if kept == "pinned":
        tight.pin("kept")
    elif kept == "in use":
        tight.busy("kept")
    elif kept == "fresh":
        tight.unload("kept")
        tight.gone(tight.worker_of("kept"))
        tight.ready("kept", 3000)
    tight.predicted_load("m", 5000)
    assert tight.evicted() == ["idle"]
    rank = tight.queries.explain("kept", tight.now)["eviction"]
    assert rank["rank"] is None
    assert rank["why_not"]


def test_a_load_starts_only_with_the_proof_that_the_evicted_are_gone(tight):
    tight.ready("a", 8000)
    tight.pass_time(2)
    caller = tight.predicted_load("m", 8000)
    assert tight.queries.memory().free_bytes == 2000
    tight.exited(worker=tight.worker_of("a"))
    assert tight.effects_of(fx.SpawnWorker) == []
    tight.gone(tight.worker_of("a"), freed_bytes=7900)
    assert [effect.model_id for effect in tight.effects_of(fx.SpawnWorker)] == ["m"]
    tight.comes_up("m", 8000)
    assert tight.answer(caller).state == "READY"
    memory = tight.queries.memory()
    assert (memory.evictions, memory.freed_bytes, memory.unloads) == ({"LOAD": 1}, 7900, 1)
    assert memory.last_unload.model_id == "a"


# Pins


def test_a_pin_keeps_a_model_until_it_is_unpinned(tight):
    tight.ready("a", 8000)
    tight.pass_time(2)
    assert tight.answer(tight.pin("a")).pinned
    assert tight.answer(tight.pin("a")).pinned
    assert [event.cause for event in tight.queries.story("a")].count("PIN") == 1
    assert is_refused(tight.error(tight.predicted_load("m", 6000)))
    tight.pin("a", is_pinned=False)
    tight.predicted_load("m", 6000)
    assert tight.evicted() == ["a"]


def test_an_unpin_wakes_what_waits(tight):
    tight.ready("a", 4000)
    tight.pin("a")
    tight.in_use("b", 4000)
    tight.pass_time(2)
    tight.predicted_load("m", 5000)
    assert tight.evicted() == []
    tight.pin("a", is_pinned=False)
    assert tight.evicted() == ["a"]


def test_only_what_is_loaded_can_be_pinned_and_the_error_says_what_became_of_it(tight):
    assert isinstance(tight.error(tight.pin("m")), NotFoundError)
    tight.evict_to_the_end()
    error = tight.error(tight.pin("m"), NotFoundError)
    assert tight.queries.absence_of("m").message == error.message
    assert error.message == (
        "there is no model 'm'; it was evicted, and is loaded again when it is used "
        "(load_model, retrieve_model, or a call)"
    )


def test_a_pin_is_of_the_model_that_is_loaded_and_ends_with_an_unload(tight):
    tight.ready("m", 4000)
    tight.pin("m")
    tight.unload("m")
    tight.gone(tight.worker_of("m"))
    tight.ready("m", 4000)
    assert not tight.model().pinned


def test_a_pin_survives_a_crash(tight):
    tight.ready("m", 4000)
    tight.pin("m")
    tight.exited()
    tight.gone()
    tight.ready("m", 4000)
    assert tight.model().pinned


def test_a_pin_of_a_model_that_is_being_evicted_has_it_loaded_again_pinned(tight):
    tight.evict()
    info = tight.answer(tight.pin("m"))
    assert (info.state, info.pinned) == ("UNLOADING", True)
    tight.gone(tight.worker_of("m"))
    tight.come_back()
    assert tight.model().pinned


# Idle time


def restless(host: MemoryDriver) -> None:
    host.ready("m", 3000, spec=RESTLESS)


def test_a_model_that_nobody_uses_for_its_time_is_evicted(tight):
    restless(tight)
    tight.pass_time(4)
    tight.end_call(tight.busy("m"))
    tight.pass_time(4.5)
    assert tight.state() == "READY"
    tight.pass_time(0.5)
    assert tight.evicted() == ["m"]
    assert tight.model().reason.startswith("evicted because idle_ttl_s is 5.00 s: it held 2.9 KiB, was unused")
    tight.gone()
    assert tight.queries.memory().evictions == {"IDLE": 1}
    assert tight.core.next_deadline() is None


def test_a_summary_has_what_is_evicted_beside_what_is_loaded(tight):
    tight.ready("n", 1000)
    tight.call("n")
    restless(tight)
    tight.pass_time(5)
    tight.gone()
    tight.pin("n")
    assert tight.queries.summaries() == {
        "m": ModelSummary("EVICTED", reload_s=0.0),
        "n": ModelSummary("READY", 1, 1000, 0.0, 1, pinned=True),
    }


def test_a_call_is_no_lasting_change_and_a_pin_and_an_eviction_are(tight):
    restless(tight)
    states = [lasting(tight.queries.known("m"))]
    tight.end_call(tight.busy("m"))
    assert lasting(tight.queries.known("m")) == states[0]
    for change in (tight.pin, lambda: tight.pin(is_pinned=False), lambda: tight.pass_time(5), tight.gone):
        change()
        states.append(lasting(tight.queries.known("m")))
    assert tight.queries.known("m").state == "EVICTED"
    assert all(one != other for one, other in itertools.pairwise(states))
    assert tight.queries.all_ids() == {"m"}


@pytest.mark.timeout(20)
def test_what_is_left_of_an_idle_time_is_never_too_little_for_the_clock():
    """A rest that is rounded to nothing had the core look again at the same instant, for ever.

    That happened where the clock passes a power of two, and its later instants are coarser than its earlier ones.
    """
    dice = random.Random(1)
    for _ in range(300):
        host = MemoryDriver()
        host.now = 1019 + dice.random()
        restless(host)
        host.pass_time(dice.random() * 4)
        host.end_call(host.busy("m"))
        host.pass_time(6)
        assert host.state() == "UNLOADING"


def test_the_configuration_has_an_idle_time_for_models_that_have_none():
    host = MemoryDriver(dataclasses.replace(BUDGETED, budget_bytes=None, idle_ttl_s=10))
    host.up_to("READY")
    assert host.model().idle_ttl_s == 10
    host.pass_time(10)
    assert host.state() == "UNLOADING"


def test_a_model_in_use_is_not_idle_however_long_its_call_takes(tight):
    restless(tight)
    call = tight.busy("m")
    tight.pass_time(33)
    assert tight.state() == "READY"
    tight.end_call(call)
    tight.pass_time(4.9)
    assert tight.state() == "READY"
    tight.pass_time(5)
    assert tight.state() == "UNLOADING"


def test_a_successor_that_waits_for_its_confirmation_keeps_its_idle_time(tight):
    tight.ready("m", 3000)
    tight.deploy_up_to("FINDING", "m", replace=True)
    tight.found(RESTLESS)
    tight.predicted(3000)
    tight.comes_up("m", 3000)
    tight.pass_time(20)
    tight.done()
    tight.gone(ev.WorkerId(1))
    tight.pass_time(5)
    assert tight.state() == "UNLOADING"
