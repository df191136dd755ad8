"""Declared models: loaded by the start and by syncs that clients ask for; one that is wrong stops nothing."""

from __future__ import annotations

import dataclasses

import pytest
from driver import CONFIG, LAZY, Driver, source_of
from lists import all_models
from memory_driver import MemoryDriver

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.records import SyncReport
from hostd_workers.wire.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    ModelError,
    NotFoundError,
    UnavailableError,
)

REFUSAL = ModelError("no weights")
WITHOUT_DIRECTORY = dataclasses.replace(CONFIG, models_dir=None)


def declare(host: Driver, *, wait: bool = True, load: bool = True, **paths: str) -> ev.Caller:
    """Sync with declared models by id; a path without a slash is a problem."""
    declared = {
        ev.ModelId(model_id): ev.Declared(path) if path.startswith("/") else ev.Declared(None, path)
        for model_id, path in paths.items()
    }
    caller = host.caller()
    host.feed(ev.SyncRequested(caller, wait, load, retry_all=load, deadline_s=None, declared=declared))
    return caller


@pytest.fixture(params=["with a directory", "without"])
def anyhow(request: pytest.FixtureRequest) -> Driver:
    return Driver(CONFIG if request.param == "with a directory" else WITHOUT_DIRECTORY)


def scan(host: Driver, *found: str) -> None:
    if host.files.scan is not None:
        host.scanned(found)


def test_a_sync_loads_what_is_declared_and_waits_for_it(anyhow):
    caller = declare(anyhow, a="/a", b="/b")
    assert [(find.model_id, find.source, find.origin) for find in anyhow.finds] == [
        ("a", source_of("/a"), ev.Origin.DECLARED),
        ("b", source_of("/b"), ev.Origin.DECLARED),
    ]
    assert anyhow.queries.story("a")[0].reason == "load of /a declared in the configuration"
    scan(anyhow)
    anyhow.up("a")
    assert anyhow.is_waiting(caller)
    anyhow.up("b")
    assert anyhow.answer(caller) == SyncReport(loaded=("a", "b"))


def test_one_bad_entry_is_told_and_stops_nothing(anyhow):
    caller = declare(anyhow, wrong="it is wrong", bad="/bad", good="/good")
    scan(anyhow)
    anyhow.up("good")
    anyhow.down(REFUSAL)
    assert anyhow.answer(caller) == SyncReport(loaded=("good",), failed={"wrong": "it is wrong", "bad": "no weights"})
    again = declare(anyhow, wrong="it is wrong", bad="/bad", good="/good")
    scan(anyhow)
    anyhow.up("bad")
    assert anyhow.answer(again) == SyncReport(loaded=("bad",), failed={"wrong": "it is wrong"})


def test_what_is_loaded_is_left_alone_and_so_is_what_fails_for_the_hosts_own_syncs(host):
    declare(host, a="/a", bad="/models/bad")
    host.scanned()
    host.up("a")
    host.down(REFUSAL)
    assert host.files.noted == ["bad"]
    host.sync()
    host.scanned()
    assert host.finds == []
    caller = declare(host, a="/a")
    host.scanned()
    assert host.answer(caller) == SyncReport()


def test_a_later_sync_waits_for_what_an_earlier_one_has_begun(host):
    first = declare(host, a="/a")
    second = declare(host, a="/a")
    host.scanned()
    host.scanned()
    assert host.is_waiting(second)
    host.up("a")
    assert host.answer(first) == host.answer(second) == SyncReport(loaded=("a",))


def test_what_is_not_declared_any_more_is_unloaded(anyhow):
    declare(anyhow, a="/a", b="/b")
    scan(anyhow)
    anyhow.up("a")
    anyhow.up("b")
    anyhow.load("own", source_of("/own"))
    anyhow.up()
    caller = declare(anyhow, b="/b")
    scan(anyhow)
    assert anyhow.is_waiting(caller)
    anyhow.gone(ev.WorkerId(1))
    assert anyhow.answer(caller) == SyncReport(unloaded=("a",))
    assert [model.id for model in anyhow.queries.list_models()] == ["b", "own"]
    caller = declare(anyhow)
    scan(anyhow)
    anyhow.gone(ev.WorkerId(2))
    assert anyhow.answer(caller).unloaded == ("b",)


def test_a_model_that_is_unloaded_already_is_not_told(host):
    declare(host, a="/a")
    host.scanned()
    host.up()
    host.unload("a")
    caller = declare(host)
    host.scanned()
    assert host.answer(caller) == SyncReport()
    host.gone()


def test_a_declared_id_is_loaded_from_its_path_alone():
    host = Driver(LAZY)
    declare(host, a="/a", wrong="it is wrong", load=False)
    host.scanned(("a",))
    host.up()
    host.load(source=source_of(None), model_id="a", reload=True)
    host.gone()
    host.up()
    assert host.model("a").path == "/a"
    host.unload("a")
    host.gone()
    host.sync()
    host.scanned(("a",))
    assert host.state("a") is None  # it is not the entry's turn
    host.retrieve("a")
    assert host.finds[0].source == source_of("/a")
    host.up()
    wrong = host.retrieve("wrong")
    assert isinstance(host.error(wrong), InvalidArgumentError)
    assert host.error(wrong).message == "it is wrong"
    host.retrieve("other")
    assert host.finds[0].source == source_of("/models/other")


def test_a_reload_without_a_path_of_what_is_declared_and_not_loaded_is_of_its_path():
    host = Driver(LAZY)
    declare(host, a="/a", load=False)
    host.scanned(("a",))
    host.up()
    host.unload("a")
    host.gone()
    assert host.state("a") is None
    host.load(source=source_of(None, b=2), model_id="a", reload=True)
    assert host.finds[-1].source == source_of("/a", b=2)


def test_what_is_loaded_from_elsewhere_is_told(host):
    host.load("a", source_of("/other"))
    host.up()
    caller = declare(host, a="/a")
    host.scanned()
    assert "it is loaded from /other, and declared at /a" in host.answer(caller).failed["a"]


def test_files_that_are_moved_are_not_loaded(host):
    host.deploy_up_to("INSTALLING", "a")
    caller = declare(host, a="/models/a")
    host.scanned()
    assert "is being deployed" in host.answer(caller).failed["a"]


def test_what_has_been_evicted_is_loaded_when_it_is_used_and_forgotten_when_it_is_not_declared():
    tight = MemoryDriver()
    declare(tight, a="/a")
    tight.scanned()
    tight.found()
    tight.predicted(4000)
    tight.comes_up("a", 4000)
    tight.pass_time(2)
    tight.predicted_load("n", 8000)
    tight.gone(tight.worker_of("a"))
    caller = declare(tight, a="/a")
    tight.scanned()
    assert tight.answer(caller) == SyncReport()
    assert [(model.id, model.state) for model in all_models(tight)][:1] == [("a", "EVICTED")]
    declare(tight)
    tight.scanned()
    assert [model.id for model in all_models(tight)] == ["n"]


def test_what_failed_is_loaded_by_the_next_sync_and_a_host_without_anything_refuses_one(host):
    declare(host, a="/a")
    host.scanned()
    host.up()
    host.exited()
    host.gone()
    caller = declare(host, a="/a")
    host.scanned()
    host.up()
    assert host.answer(caller) == SyncReport(loaded=("a",))
    nowhere = Driver(WITHOUT_DIRECTORY)
    assert isinstance(nowhere.error(declare(nowhere)), FailedPreconditionError)


def test_a_load_that_is_still_looked_for_is_not_gone(host):
    declare(host, a="/models/a")
    assert host.files.scan == fx.ScanDirectory(ev.SyncId(1), (), True)


@pytest.mark.parametrize("is_read", [True, False])
def test_until_the_directory_was_read_once_a_model_is_not_there_yet(host, is_read):
    host.feed(ev.SyncRequested(host.caller(), False, True, retry_all=False, deadline_s=None, is_first=True))
    for early in (host.call("m"), host.retrieve("m")):
        assert isinstance(host.error(early), UnavailableError)
    host.scanned() if is_read else host.unavailable()
    for late in (host.call("m"), host.retrieve("m")):
        assert isinstance(host.error(late), NotFoundError)
    host.sync()
    assert isinstance(host.error(host.call("m")), NotFoundError), "only the first one makes a difference"


# What is told of one id: the last that is known of its load


@pytest.mark.parametrize("is_good", [True, False], ids=["loads", "fails"])
def test_what_an_earlier_sync_loads_from_elsewhere_is_told_once_whatever_becomes_of_it(host, is_good):
    host.sync(wait=False)
    host.scanned(("a",))
    caller = declare(host, a="/a")
    host.scanned()
    assert host.is_waiting(caller), "a sync waits for what an earlier one has begun"
    if is_good:
        host.up("a")
    else:
        host.not_found(REFUSAL)
    report = host.answer(caller)
    assert (report.loaded, report.writing, list(report.failed)) == ((), (), ["a"])
    assert report.failed["a"].startswith("it is loaded from /models/a, and declared at /a")


def test_what_an_earlier_sync_finds_being_written_elsewhere_is_not_waited_for_and_told_once(host):
    host.sync(wait=False)
    host.scanned(("a",))
    caller = declare(host, a="/a")
    host.scanned()
    host.delayed()
    report = host.answer(caller)
    assert (report.loaded, report.writing, list(report.failed)) == ((), (), ["a"])


def test_what_is_declared_elsewhere_and_gone_is_told_as_both(host):
    host.sync(wait=False)
    host.scanned(("a",))
    host.up("a")
    caller = declare(host, a="/a")
    host.scanned(gone=("a",))
    host.gone()
    report = host.answer(caller)
    assert (report.unloaded, list(report.failed)) == (("a",), ["a"])


def test_what_failed_and_is_loaded_from_its_declared_path_after_that_has_not_failed():
    host = Driver(LAZY)
    host.sync(wait=False)
    caller = declare(host, a="/a")
    host.not_found(REFUSAL)
    host.retrieve("a")
    host.found()
    host.scanned()
    host.come_up()
    host.scanned()
    assert host.answer(caller) == SyncReport(loaded=("a",))


def test_what_was_being_written_and_is_whole_when_the_directory_is_read_is_loaded(host):
    host.sync(wait=False)
    caller = declare(host, a="/a")
    host.delayed()
    host.found()
    host.scanned()
    host.come_up()
    host.scanned()
    assert host.answer(caller) == SyncReport(loaded=("a",))


def test_what_is_not_declared_any_more_and_is_found_in_the_directory_is_loaded_from_there(host):
    declare(host, a="/a")
    host.scanned()
    host.up("a")
    caller = declare(host)
    host.gone()
    host.scanned(("a",))
    assert host.is_waiting(caller)
    host.up("a")
    assert host.answer(caller) == SyncReport(loaded=("a",), unloaded=("a",))
