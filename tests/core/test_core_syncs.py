"""Syncs: what is new in the models directory is loaded, what is gone from it is unloaded, and nothing else."""

from __future__ import annotations

import pytest
from driver import BOB, LAZY, Driver, source_of

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.records import SyncReport
from hostd_workers.wire.errors import (
    AbortedError,
    FailedPreconditionError,
    ModelError,
    UnavailableError,
)

REFUSAL = ModelError("no weights")


def test_c24_a_sync_loads_what_is_new_and_answers_when_it_is_loaded(host):
    caller = host.sync()
    assert host.effects == [fx.ScanDirectory(1, (), False)]
    host.scanned(("a", "b"))
    assert [find.origin for find in host.finds] == [ev.Origin.SYNCED] * 2
    assert host.queries.story("a")[0].reason == "load of /models/a found in the models directory"
    host.up("a")
    assert host.is_waiting(caller)
    host.up("b")
    assert host.answer(caller) == SyncReport(loaded=("a", "b"))


def test_c24_without_waiting_a_sync_is_answered_when_the_loads_have_begun(host):
    caller = host.sync(wait=False)
    host.scanned(("a", "b"))
    assert host.answer(caller) == SyncReport(loaded=("a", "b"))
    assert host.state("a") == "LOADING"


def test_c24_a_sync_that_finds_nothing_new_is_answered_at_once(host):
    caller = host.sync()
    host.scanned()
    assert host.answer(caller) == SyncReport()


def test_c24_a_sync_may_be_told_to_load_nothing(host):
    host.up_to("READY", "gone")
    caller = host.sync(load=False)
    host.scanned(("a",), gone=("gone",))
    host.gone()
    assert host.answer(caller) == SyncReport(unloaded=("gone",))
    assert host.state("a") is None


def test_c24_the_scan_is_told_what_is_loaded_from_where(host):
    host.up_to("READY", "a")
    host.load("b", source_of("/elsewhere/b"))
    host.found()
    host.load("no path", source_of(None))
    host.found()
    host.load("going")
    host.found()
    host.unload("going")
    host.sync(retry_all=True)
    assert host.effects == [fx.ScanDirectory(1, (("a", "/models/a"), ("b", "/elsewhere/b")), True)]


def test_c24_what_is_gone_is_unloaded_and_the_answer_waits_for_the_proof(host):
    host.up_to("READY")
    caller = host.sync()
    host.scanned(gone=("m",))
    assert host.state() == "UNLOADING"
    assert host.model().reason == "its files are gone from the models directory"
    assert host.is_waiting(caller)
    host.gone()
    assert host.answer(caller) == SyncReport(unloaded=("m",))


def test_c24_what_is_loaded_or_loads_is_not_loaded_again(host):
    host.up_to("READY", "a")
    host.load("b", source_of("/elsewhere"))
    caller = host.sync()
    host.scanned(("a", "b"))
    assert host.answer(caller) == SyncReport()
    assert host.model("b").path == "/elsewhere"


def test_c24_what_crashed_is_loaded_again(host):
    host.up_to("READY")
    host.exited()
    caller = host.sync()
    host.scanned(("m",))
    host.gone(ev.WorkerId(1))
    host.up()
    assert host.answer(caller) == SyncReport(loaded=("m",))


def test_c25_a_bad_entry_stops_no_other_and_is_noted(host):
    host = Driver(LAZY)
    caller = host.sync()
    host.scanned(("bad", "good"))
    host.finds.sort(key=lambda find: find.model_id == "bad")
    host.not_found(REFUSAL)
    assert host.effects_of(fx.LeaveEntry) == [fx.LeaveEntry("bad")]
    host.up("good")
    assert host.answer(caller) == SyncReport(loaded=("good",), failed={"bad": "no weights"})


def test_c10_an_entry_is_noted_after_its_last_try_and_not_before():
    host = Driver(LAZY)
    caller = host.sync()
    host.scanned(("m",))
    host.down(REFUSAL)
    assert host.files.noted == []
    host.pass_time(0.2)
    host.down(REFUSAL)
    assert host.files.noted == ["m"]
    assert host.answer(caller).failed == {"m": "no weights"}


def test_only_what_a_sync_loaded_is_noted(host):
    host.load()
    host.down(REFUSAL)
    assert host.files.noted == []


def test_c25_a_directory_that_cannot_be_read_unloads_nothing_and_degrades_the_host_until_it_can(host):
    host.up_to("READY")
    caller = host.sync()
    host.unavailable("cannot read /models: stale file handle")
    assert host.answer(caller) == SyncReport(degraded="cannot read /models: stale file handle")
    assert host.queries.degraded == "cannot read /models: stale file handle"
    assert host.state() == "READY"
    again = host.sync()
    host.scanned()
    assert host.answer(again) == SyncReport()
    assert host.queries.degraded is None


def test_one_scan_runs_at_a_time_and_every_sync_has_its_own(host):
    first, second, third = host.sync(), host.sync(client=BOB), host.sync(retry_all=True)
    assert host.files.scan == fx.ScanDirectory(1, (), False)
    host.scanned()
    assert host.effects[0] == fx.ScanDirectory(2, (), False)
    assert not host.is_waiting(first)
    host.unavailable()
    assert host.files.scan == fx.ScanDirectory(3, (), True)
    host.scanned(("a",))
    assert host.is_waiting(third)
    assert host.answer(second).degraded
    host.up()
    assert host.answer(third) == SyncReport(loaded=("a",))


def test_c27_a_sync_does_not_wait_for_what_is_still_being_written_which_is_loaded_when_it_is_whole(host):
    caller = host.sync()
    host.scanned(("a", "b"))
    host.finds.reverse()
    host.delayed()
    assert host.is_waiting(caller)
    host.finds.reverse()
    host.up("b")
    assert host.answer(caller) == SyncReport(loaded=("b",), writing=("a",))
    host.delayed()
    host.up("a")
    assert host.state("a") == "READY"


def test_c27_what_a_finder_said_of_an_earlier_load_does_not_count(host):
    host.sync(wait=False)
    host.scanned(("m",))
    stale = host.finds.pop()
    host.unload()
    caller = host.sync()
    host.scanned(("m",))
    host.feed(ev.SpecDelayed(stale.model_id, stale.generation, "it grows"))
    assert host.is_waiting(caller)
    host.up()
    assert host.answer(caller) == SyncReport(loaded=("m",))


def test_c21_an_unload_during_the_load_of_a_sync_fails_that_entry(host):
    caller = host.sync()
    host.scanned(("m",))
    host.unload()
    assert host.answer(caller).failed == {"m": "the load of model 'm' was overtaken: unload requested"}


def test_c24_what_is_gone_while_it_loads_is_called_unloaded_after_the_proof(host):
    load = host.up_to("LOADING")
    caller = host.sync()
    host.scanned(gone=("m",))
    assert isinstance(host.error(load), AbortedError)
    assert host.is_waiting(caller)
    host.gone()
    assert host.answer(caller) == SyncReport(unloaded=("m",))


@pytest.mark.parametrize("path", ["/elsewhere", "/models/m"])
def test_c24_what_is_gone_is_left_alone_if_it_was_loaded_again_meanwhile(host, path):
    host.up_to("READY")
    caller = host.sync()
    host.unload()
    host.gone()
    load = host.load(source=source_of(path))
    host.scanned(gone=("m",))
    assert host.is_waiting(load)
    assert host.answer(caller) == SyncReport()


def test_c16_a_sync_leaves_a_lazy_load_alone_while_its_path_is_not_known():
    host = Driver(LAZY)
    host.retrieve("hub/model")
    host.sync()
    assert host.effects == [fx.ScanDirectory(1, (), False)]


@pytest.mark.parametrize("step", ["INSTALLING", "FINDING", "LOADING", "CONFIRMING"])
def test_a_sync_leaves_alone_what_is_being_replaced(step):
    host = Driver()
    host.up_to("READY")
    host.deploy_up_to(step, replace=True)
    caller = host.sync()
    host.scanned(("m",), gone=("m",))
    assert host.answer(caller) == SyncReport()
    assert host.state() == "READY"


@pytest.mark.parametrize("step", ["INSTALLING", "FINDING", "LOADING", "CONFIRMING"])
def test_a_sync_loads_nothing_that_is_being_deployed(host, step):
    host.deploy_up_to(step)
    caller = host.sync()
    host.scanned(("m",))
    assert host.answer(caller) == SyncReport()


def test_a_sync_neither_loads_nor_unloads_what_is_being_undeployed(host):
    host.up_to("READY")
    host.undeploy()
    caller = host.sync()
    host.scanned(("m",), gone=("m",))
    assert host.answer(caller) == SyncReport()
    assert host.state() == "READY"


@pytest.mark.parametrize("is_read", [False, True])
def test_c34_a_shutdown_answers_every_sync_and_nothing_is_loaded_after_it(host, is_read):
    host.up_to("READY")
    scanning, queued = host.sync(), host.sync()
    host.signal()
    for caller in (scanning, queued, host.sync()):
        assert isinstance(host.error(caller), UnavailableError)
    host.scanned(("a",), gone=("m",)) if is_read else host.unavailable()
    assert host.finds == []
    host.gone()
    assert host.has_stopped


def test_a_sync_is_refused_while_the_host_has_no_time_for_it(host):
    host.signal()
    assert isinstance(host.error(host.sync()), UnavailableError)
    assert isinstance(host.error(host.undeploy()), UnavailableError)
    assert host.files.scan is None


def test_an_entry_of_which_the_files_are_being_moved_is_no_failure(host):
    host.deploy_up_to("INSTALLING")
    assert isinstance(host.error(host.load(client=BOB)), FailedPreconditionError)
    caller = host.sync()
    host.scanned(("m", "a"))
    host.up("a")
    assert host.answer(caller) == SyncReport(loaded=("a",))


def test_what_is_unloaded_on_purpose_is_left_alone_by_the_hosts_own_syncs(host):
    host.up_to("READY")
    host.unload()
    host.gone()
    assert host.effects_of(fx.LeaveEntry) == [fx.LeaveEntry("m")]


def test_what_a_sync_unloads_because_it_is_gone_is_not_left_alone(host):
    host.up_to("READY")
    host.sync()
    host.scanned(gone=("m",))
    host.gone()
    assert host.files.noted == []


@pytest.mark.parametrize(
    ("load", "is_leaving", "left"), [(False, True, ["a", "b"]), (False, False, []), (True, False, [])]
)
def test_c05_what_is_not_to_be_loaded_at_the_start_is_left_alone(host, load, is_leaving, left):
    host.sync(wait=False, load=load, is_leaving=is_leaving)
    host.scanned(("a", "b"))
    assert host.files.noted == left
    assert len(host.finds) == (2 if load else 0)
