"""Syncs that wait for what earlier ones have begun to load, and report it as their own."""

from __future__ import annotations

import pytest
from driver import BOB, LAZY, Driver

from hostd.records import SyncReport
from hostd_workers.wire.errors import InvalidArgumentError, ModelError

REFUSAL = InvalidArgumentError("no weights")


@pytest.fixture
def begun(host):
    """A host in which a sync that does not wait has begun to load m."""
    host.sync(wait=False)
    host.scanned(("m",))
    assert host.state() == "LOADING"
    return host


def test_c24_a_sync_waits_for_what_another_has_begun_to_load(begun):
    caller = begun.sync(client=BOB)
    begun.scanned(("new",))
    begun.up("new")
    assert begun.is_waiting(caller)
    begun.up("m")
    assert begun.answer(caller) == SyncReport(loaded=("m", "new"))


def test_c25_a_load_that_another_has_begun_and_that_fails_is_reported(begun):
    caller = begun.sync()
    begun.scanned()
    begun.not_found(REFUSAL)
    assert begun.answer(caller) == SyncReport(failed={"m": "no weights"})


def test_c10_a_sync_waits_for_the_last_try_of_what_another_has_begun():
    host = Driver(LAZY)
    host.sync(wait=False)
    host.scanned(("m",))
    host.down(ModelError("no weights"))
    caller = host.sync()
    host.scanned()
    assert host.is_waiting(caller)
    host.pass_time(0.2)
    host.up()
    assert host.answer(caller) == SyncReport(loaded=("m",))


def test_c27_what_another_has_found_still_being_written_is_not_waited_for(begun):
    caller = begun.sync()
    begun.scanned()
    assert begun.is_waiting(caller)
    begun.delayed()
    assert begun.answer(caller) == SyncReport(writing=("m",))


@pytest.mark.parametrize("options", [{"wait": False}, {"load": False}], ids=["no wait", "no load"])
def test_c24_a_sync_that_does_not_wait_or_does_not_load_joins_nothing(begun, options):
    caller = begun.sync(**options)
    begun.scanned(("m",))
    assert begun.answer(caller) == SyncReport()


def test_c24_what_another_has_loaded_or_lost_is_not_joined(begun):
    begun.up()
    caller = begun.sync()
    begun.scanned()
    assert begun.answer(caller) == SyncReport()
    begun.exited()
    caller = begun.sync()
    begun.scanned()
    assert begun.answer(caller) == SyncReport()


def test_c24_loads_that_no_sync_has_begun_are_not_joined(host):
    host.load("m")
    caller = host.sync()
    host.scanned()
    assert host.answer(caller) == SyncReport()


# What ends while the directory is read


def test_c24_a_load_that_ends_while_the_directory_is_read_is_reported(begun):
    caller = begun.sync()
    begun.up()
    assert begun.is_waiting(caller)
    begun.scanned()
    assert begun.answer(caller) == SyncReport(loaded=("m",))


def test_c25_a_load_that_fails_while_the_directory_is_read_is_reported_and_not_begun_again(begun):
    caller = begun.sync(retry_all=True)
    begun.not_found(REFUSAL)
    begun.scanned(("m",))
    assert begun.answer(caller) == SyncReport(failed={"m": "no weights"})
    assert begun.finds == []


@pytest.mark.parametrize("is_delayed", [False, True], ids=["loading", "writing"])
def test_c24_what_another_has_begun_and_is_gone_is_unloaded_and_nothing_else(begun, is_delayed):
    first = begun.sync()
    second = begun.sync(client=BOB)
    begun.scanned()
    assert begun.is_waiting(first)
    if is_delayed:
        begun.delayed()
    begun.scanned(gone=("m",))
    assert begun.answer(second) == SyncReport(unloaded=("m",))
    gone = "the load of model 'm' was overtaken: its files are gone from the models directory"
    assert begun.answer(first) == (SyncReport(writing=("m",)) if is_delayed else SyncReport(failed={"m": gone}))
    assert begun.files.noted == []


def test_c25_a_sync_that_cannot_read_the_directory_waits_all_the_same(begun):
    caller = begun.sync()
    begun.unavailable("cannot read /models")
    assert begun.is_waiting(caller)
    begun.up()
    assert begun.answer(caller) == SyncReport(loaded=("m",), degraded="cannot read /models")


def test_a_load_that_a_sync_joined_and_that_ended_while_the_directory_was_read_is_told_once(host):
    host.sync(wait=False)
    host.scanned(found=("a",))
    caller = host.sync()
    host.up()
    host.exited()
    host.gone()
    host.scanned(found=("a",))
    host.not_found(ModelError("no finder knows this"))
    report = host.answer(caller)
    assert (report.loaded, report.failed) == ((), {"a": "no finder knows this"})


def test_what_was_written_when_a_sync_joined_its_load_and_is_loaded_anew_is_told_once(host):
    host.sync(wait=False)
    host.scanned(found=("a",))
    caller = host.sync()
    host.delayed()
    host.not_found(ModelError("no finder knows this"))
    host.scanned(found=("a",))
    host.up()
    report = host.answer(caller)
    assert (report.loaded, report.writing, report.failed) == (("a",), (), {})
