"""How a pause of a load ends: with room, or in every way in which a load can end."""

from __future__ import annotations

import dataclasses

import pytest
from driver import SPEC
from memory_driver import BUDGETED, LIMITED, MemoryDriver, is_refused

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.deadlines import LoadTimer, WorkerTimer
from hostd.core.losing import DISCONNECT_GRACE_S
from hostd_workers.wire.errors import (
    AbortedError,
    DeadlineExceededError,
    InternalError,
    ModelError,
    ResourceExhaustedError,
    UnavailableError,
)


def test_a_paused_load_that_holds_more_than_can_ever_be_had_is_ended(tight):
    caller = tight.paused()
    tight.pin("busy")
    assert tight.state_of("m") == "KILLING"
    tight.gone()
    error = tight.error(caller)
    assert is_refused(error)
    assert "it held 4.9 KiB and needs more, 1.0 KiB (estimated) were expected" in error.message
    assert error.message.endswith("That it needs more than this is remembered for its next load")
    assert tight.files.remembered[-1].is_minimum


def test_a_load_that_is_paused_for_too_long_is_ended(tight):
    caller = tight.paused()
    tight.pass_time(60)
    assert tight.state_of("m") == "KILLING"
    tight.gone(tight.worker_of("m"))
    error = tight.error(caller)
    assert is_refused(error)
    assert "are free after a pause of 1m 0s (memory.admission_timeout_s)" in error.message
    assert "'busy' 5.9 KiB, it is in use" in error.message


def test_a_load_that_cannot_be_paused_is_ended(tight):
    caller = tight.paused()
    tight.feed(ev.WorkerPauseFailed(tight.worker_of("m"), "process 7 is another user's"))
    tight.gone(tight.worker_of("m"))
    assert "and it cannot be paused: process 7 is another user's" in tight.error(caller).message


def test_news_of_a_failed_pause_that_comes_after_the_pause_changes_nothing(tight):
    tight.paused()
    failed = ev.WorkerPauseFailed(tight.worker_of("m"), "too late")
    tight.unload("busy")
    tight.pass_time(10)
    tight.gone(tight.worker_of("busy"))
    assert tight.feed(failed) == []
    assert tight.state_of("m") == "LOADING"
    tight.unload("m")
    tight.gone(tight.worker_of("m"))
    assert tight.feed(failed) == []


def test_the_clock_of_a_load_stands_still_while_it_is_paused():
    host = MemoryDriver(dataclasses.replace(BUDGETED, load_timeout_s=20.0))
    call = host.in_use("busy", 6000)
    caller = host.loading("m", 1000)
    host.pass_time(15)
    host.grows("m", 5000)
    host.pass_time(30)
    assert host.state_of("m") == "PAUSED"
    assert WorkerTimer(host.worker_of("m")) not in host.registry.timers
    host.end_call(call)
    host.gone(host.worker_of("busy"))
    assert host.state_of("m") == "LOADING"
    host.pass_time(4.9)
    assert host.state_of("m") == "LOADING"
    host.pass_time(0.2)
    host.gone(host.worker_of("m"))
    assert isinstance(host.error(caller), DeadlineExceededError)


@pytest.mark.parametrize("how", ["unload", "shutdown", "exit", "limit", "refused", "lost"])
def test_a_paused_load_can_end_in_every_way(tight, how):
    tight.in_use("busy", 6000)
    caller = tight.loading("m", 1000, LIMITED if how == "limit" else SPEC)
    worker = tight.worker_of("m")
    tight.grows("m", 4000)
    assert tight.state_of("m") == "PAUSED"
    if how == "unload":
        tight.unload("m")
    elif how == "shutdown":
        tight.signal(at_once=True)
    elif how == "exit":
        tight.died(ev.Death.OUT_OF_MEMORY, worker)
    elif how == "lost":
        tight.disconnected(worker)
        tight.pass_time(DISCONNECT_GRACE_S)
    elif how == "limit":
        tight.grows("m", 4001)  # pages that it had shared became its own
    else:
        tight.not_loaded(ModelError("no weights"), worker)
    assert tight.killed().count(worker) == 1
    assert not any(isinstance(key, LoadTimer) for key in tight.registry.timers._due)
    tight.gone(worker)
    kinds = {"unload": AbortedError, "shutdown": AbortedError, "refused": ModelError, "lost": UnavailableError}
    assert isinstance(tight.error(caller), kinds.get(how, ResourceExhaustedError))
    assert tight.queries.memory().paused == ()


def test_a_load_that_was_put_back_can_be_unloaded_while_its_process_dies(tight):
    tight.loading("a", 1000)
    caller = tight.loading("b", 1000)
    tight.grows("b", 1500)
    tight.grows("a", 7400)
    tight.grows("b", 2300)
    worker = tight.worker_of("b")
    assert tight.state_of("b") == "KILLING"
    unload = tight.unload("b")
    assert isinstance(tight.error(caller), AbortedError)
    tight.gone(worker)
    assert tight.answer(unload).processes == 1
    assert tight.queries.memory().waiting == ()


def test_what_a_paused_load_said_just_before_it_was_stopped_counts_when_it_goes_on(tight):
    caller = tight.paused()
    worker = tight.worker_of("m")
    tight.loaded(worker)
    tight.grows("m", 5000)
    assert (tight.state_of("m"), tight.is_waiting(caller)) == ("PAUSED", True)
    tight.grows("busy", 5000)  # there is no room for more, and it needs none
    assert [type(effect) for effect in tight.effects_of(fx.ResumeWorker) + tight.effects_of(fx.MeasureWorker)] == [
        fx.ResumeWorker,
        fx.MeasureWorker,
    ]
    tight.grows("m", 5000)
    assert tight.answer(caller).state == "READY"


def test_a_successor_that_outgrows_its_reservation_is_put_back_and_comes_up_later(tight):
    tight.ready("m", 1000)
    tight.loading("a", 1000)
    caller = tight.deploy_up_to("FINDING", "m", replace=True)
    tight.found()
    tight.predicted(1000, source="estimated")
    successor = tight.worker
    tight.started()
    tight.sampled(2000, successor)
    tight.grows("a", 6500)
    tight.sampled(3500, successor)
    assert (tight.state_of("a"), tight.worker_state(successor)) == ("PAUSED", "KILLING")
    tight.gone(successor)
    assert tight.queries.memory().waiting == ("m",)
    tight.unload("a")
    tight.gone(tight.worker_of("a"))
    tight.comes_up("m", 4000)
    tight.done()
    assert tight.answer(caller).state == "READY"


def test_a_pause_that_nothing_would_end_is_found(tight):
    tight.paused()
    tight.registry.timers.cancel(LoadTimer(tight.registry.models["m"].load))
    with pytest.raises(InternalError, match="is paused and nothing ends that"):
        tight.core.check_invariants()
