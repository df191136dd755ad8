"""Standing arguments: what holds for every load of a model, kept pins, and files that have changed since a load."""

from __future__ import annotations

import dataclasses

import pytest
from driver import BOB, LAZY, SPEC, Driver, source_of

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.names import KEPT_NAME, MAX_FILES, check_files
from hostd.core.standing import Standing, limited, standing_of
from hostd_workers.wire.errors import (
    AbortedError,
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    ModelError,
    ResourceExhaustedError,
)

DISK_FULL = ResourceExhaustedError("no space left on device")
REFUSAL = ModelError("no weights")
KEPT = Standing("talker", "f", "i", {"greeting": "Yo"}, retries=2, is_pinned=True, is_kept=True)


def found(host: Driver, standing: Standing, spec: ev.LoadingSpec = SPEC) -> None:
    find = host.finds.pop()
    host.feed(ev.SpecFound(find.model_id, find.generation, spec, find.source.path, standing))


def up(host: Driver, standing: Standing) -> None:
    find = host.finds[-1]
    found(host, standing)
    assert find
    host.come_up(ev.Memory(1, 1000, 500, None, 1000))


def test_what_is_said_counts_more_than_what_stands():
    asked = ev.LoadSource("/m", ev.STANDALONE, None, None, {"mark": "."})
    assert KEPT.under(asked) == ev.LoadSource("/m", "talker", "f", "i", {"greeting": "Yo", "mark": "."})
    own = ev.LoadSource("/m", "own", "g", "j", {"greeting": "Hi"})
    assert KEPT.under(own) == own
    assert Standing().under(asked) == asked
    assert standing_of(own, 3) == Standing("own", "g", "j", {"greeting": "Hi"}, 3)
    assert standing_of(asked, None) == Standing(options={"mark": "."})


def test_what_is_declared_counts_more_than_what_was_deployed():
    declared = Standing(None, None, "j", {"greeting": "Hi"}, 0, False, ev.Limits(400, None, 0.0, 2))
    expected = Standing("talker", "f", "j", {"greeting": "Hi"}, 0, False, ev.Limits(400, True, 0.0, 2), True)
    assert declared.over(KEPT._replace(limits=ev.Limits(500, True, 9.0, 3))) == expected
    assert Standing().over(KEPT) == KEPT


def test_limits_from_outside_count_more_than_those_of_the_model():
    spec = SPEC._replace(memory=ev.MemoryPolicy(500, True, 9.0), cpu_threads=3)
    assert limited(spec, ev.Limits(), "preload.m") == spec
    changed = limited(spec, ev.Limits(400, False, 0.0, 2), "preload.m")
    assert (changed.memory, changed.cpu_threads) == (ev.MemoryPolicy(400, False, 0.0), 2)
    assert limited(spec, ev.Limits(400), "preload.m").origins == {"memory_limit": "preload.m.memory_limit"}


@pytest.mark.parametrize("how", ["lazy", "sync", "load"])
def test_every_load_takes_what_stands(how):
    host = Driver(dataclasses.replace(LAZY, lazy_load_retries=0))
    if how == "lazy":
        host.retrieve()
    elif how == "sync":
        host.sync()
        host.scanned(("m",))
    else:
        host.load()
    found(host, KEPT)
    assert (host.model().type, host.model().pinned) == ("talker", True)
    for _ in range(2):  # retries that stand, in place of none
        host.started()
        host.not_loaded(REFUSAL)
        host.gone()
        host.retries[1] = 2
        host.pass_time(1.0)
        found(host, KEPT)
    host.come_up(ev.Memory(1, 1000, 500, None, 1000))
    assert host.state() == "READY"
    again = host.load()
    assert host.answer(again).already_loaded
    same = host.load(source=ev.LoadSource("/models/m", "talker", "f", "i", {"greeting": "Yo"}), client=BOB)
    assert host.answer(same).already_loaded
    other = host.load(source=source_of(greeting="Hi"))
    assert isinstance(host.error(other), AlreadyExistsError)


def test_what_a_load_says_of_retries_and_somebody_of_pins_is_not_taken_back(host):
    caller = host.load(retries=0)
    found(host, KEPT)
    host.feed(ev.PinRequested(ev.Caller(BOB, 1), ev.ModelId("m"), is_pinned=False))
    host.feed(ev.PinKept(host.pins.popleft().files_id, None))
    host.started()
    host.not_loaded(REFUSAL)
    host.gone()
    assert host.answer(caller) is REFUSAL
    host.load()
    up(host, Standing())
    host.feed(ev.PinRequested(ev.Caller(BOB, 2), ev.ModelId("m"), is_pinned=True))
    host.exited()
    host.gone()
    host.load()
    found(host, Standing(is_pinned=False))
    assert host.model().pinned


# Pins


def deployed(host: Driver) -> None:
    """Deploy a model; its arguments are found beside its files."""
    host.deploy_up_to("FINDING")
    up(host, Standing(is_kept=True))
    host.done()


def pin(host: Driver, *, is_pinned: bool = True) -> ev.Caller:
    caller = host.caller()
    host.feed(ev.PinRequested(caller, ev.ModelId("m"), is_pinned))
    return caller


def test_a_pin_of_a_deployed_model_is_answered_when_it_is_written_down(host):
    deployed(host)
    caller = pin(host)
    assert host.effects_of(fx.KeepPin) == [fx.KeepPin(2, "m", True)]
    assert host.is_waiting(caller)
    assert host.model().pinned
    host.feed(ev.PinKept(host.pins.popleft().files_id, None))
    assert host.answer(caller).pinned
    failing = pin(host, is_pinned=False)
    host.feed(ev.PinKept(host.pins.popleft().files_id, DISK_FULL))
    assert isinstance(host.error(failing), FailedPreconditionError)
    assert "is not pinned any more, but only until it is loaded the next time" in host.error(failing).message
    failing = pin(host)
    host.feed(ev.PinKept(host.pins.popleft().files_id, DISK_FULL))
    assert "is pinned, but only" in host.error(failing).message


def test_what_was_deployed_is_loaded_again_by_its_files_alone(host):
    host.deploy_up_to("FINDING")
    up(host, KEPT)
    host.done()
    host.exited()
    host.gone()
    assert host.registry.models[ev.ModelId("m")].again == source_of("/models/m")


def test_a_pin_of_another_model_is_answered_at_once(host):
    host.up_to("READY")
    assert host.answer(pin(host)).pinned
    assert not host.pins


def test_the_host_does_not_stop_before_a_pin_is_written(host):
    deployed(host)
    caller = pin(host)
    stop = host.shut_down()
    host.gone()
    assert host.is_waiting(stop)
    host.feed(ev.PinKept(host.pins.popleft().files_id, None))
    assert host.answer(caller).state == "UNLOADED"
    assert host.answer(stop) is None


def test_a_replacement_takes_the_pin_along(host):
    deployed(host)
    pin(host)
    host.feed(ev.PinKept(host.pins.popleft().files_id, None))
    host.deploy("m", replace=True)
    host.done()
    host.commit()
    assert host.effects_of(fx.InstallFiles) == [fx.InstallFiles(3, Standing(is_pinned=True))]


def test_a_pin_while_files_are_moved_is_written_when_they_are_in_their_place(host):
    deployed(host)
    host.deploy("m", replace=True)
    host.done()
    host.commit()
    caller = pin(host)
    assert host.answer(caller).pinned
    assert not host.pins
    host.done()
    up(host, Standing(is_pinned=False, is_kept=True))
    host.done()
    assert [(keep.model_id, keep.is_pinned) for keep in host.pins] == [("m", True)]
    host.gone(ev.WorkerId(1))
    host.feed(ev.PinKept(host.pins.popleft().files_id, None))
    assert host.model().pinned


@pytest.mark.parametrize("ending", ["gives up", "fails"])
def test_a_pin_while_one_deploy_moves_files_is_not_written_by_another_that_ends(host, ending):
    deployed(host)
    deploys = [host.deploy("m", replace=True) for _ in range(2)]
    host.done(3)
    host.commit(3)
    if ending == "gives up":
        host.done(2)
    assert host.answer(pin(host)).pinned
    if ending == "gives up":
        host.abort(2)
    else:
        host.not_done(DISK_FULL, 2)
    host.done(2)
    assert all(not host.is_waiting(caller) for caller in deploys), "the other deploy is over"
    assert not host.pins
    host.done(3)
    up(host, Standing(is_pinned=False, is_kept=True))
    host.done(3)
    assert [(keep.model_id, keep.is_pinned) for keep in host.pins] == [("m", True)]


def test_a_pin_during_an_undeploy_is_written_when_the_files_stay(host):
    deployed(host)
    caller = host.undeploy()
    assert host.answer(pin(host)).pinned
    assert not host.pins
    host.not_done(DISK_FULL)
    assert host.error(caller) is DISK_FULL
    assert [(keep.model_id, keep.is_pinned) for keep in host.pins] == [("m", True)]


# Files that change


def noted(host: Driver, digest: str | None = "one", generation: int = 1) -> None:
    host.feed(ev.FilesNoted(ev.ModelId("m"), generation, digest))


def compared(host: Driver, digest: str | None) -> None:
    wanted = host.comparisons.pop()
    host.feed(ev.FilesCompared(wanted.model_id, wanted.generation, digest))


def test_a_load_that_waits_for_a_look_at_files_is_answered_when_the_host_stops(host):
    host.up_to("READY")
    noted(host)
    caller = host.load()
    host.signal()
    assert host.error(caller).message == "the host is shutting down"
    host.gone()
    assert host.has_stopped


@pytest.mark.parametrize(
    ("digest", "files"), [("one", "as loaded"), ("two", "changed"), ("", "gone"), (None, "unknown")]
)
def test_a_load_of_what_is_loaded_is_answered_after_a_look_at_its_files(host, digest, files):
    host.up_to("READY")
    noted(host)
    callers = [host.load(), host.load(client=BOB)]
    assert host.comparisons == [fx.CompareFiles("m", 1, "/models/m")]
    assert all(map(host.is_waiting, callers))
    compared(host, digest)
    for caller in callers:
        answer = host.answer(caller)
        assert (answer.already_loaded, answer.files) == (True, files)
        assert answer.files_changed == (files in ("changed", "gone"))
    assert len(host.processes) == 1


def test_without_a_digest_or_a_path_it_is_answered_at_once(host):
    host.up_to("READY")
    assert host.answer(host.load()).already_loaded
    noted(host, None)
    assert host.answer(host.load()).files == "unknown"
    host.load("n", source_of(None))
    host.up()
    assert host.answer(host.load("n", source_of(None))).already_loaded


def test_a_change_is_told_once_and_so_is_its_end(host):
    host.up_to("READY")
    noted(host)
    for digest in ("two", "two", "", "one", "one"):
        host.feed(ev.FilesCompared(ev.ModelId("m"), 1, digest))
    reasons = [event.reason for event in host.queries.story("m") if event.cause == "FILES_CHANGED"]
    assert reasons == [
        "its files have changed since it was loaded; it serves what was loaded",
        "its files are again what was loaded",
    ]


@pytest.mark.parametrize("how", ["unloaded", "unloading", "replaced"])
def test_a_load_that_waits_for_a_look_at_what_goes_meanwhile_is_told(host, how):
    deployed(host)
    noted(host)
    caller = host.load()
    if how == "replaced":
        host.deploy("m", replace=True)
        host.done()
        host.commit()
        host.done()
        up(host, Standing(is_kept=True))
        host.done()
    else:
        host.unload()
        if how == "unloaded":
            host.gone()
    compared(host, "two")
    assert isinstance(host.error(caller), AbortedError)
    assert {"unloaded": "is gone", "unloading": "UNLOADING", "replaced": "another"}[how] in host.error(caller).message


def test_what_is_late_changes_nothing(host):
    host.up_to("READY")
    noted(host)
    host.unload()
    host.feed(ev.FilesCompared(ev.ModelId("m"), 1, "two"))
    assert "unload" in host.model().reason
    host.gone()
    noted(host)
    host.feed(ev.FilesCompared(ev.ModelId("m"), 1, "two"))
    assert host.state("m") is None


def test_a_sync_tells_what_has_changed(host):
    for model_id in ("a", "b"):
        host.up_to("READY", model_id)
    host.feed(ev.FilesNoted(ev.ModelId("a"), 1, "one"))
    host.feed(ev.FilesNoted(ev.ModelId("b"), 2, "one"))
    caller = host.sync()
    digests = ((ev.ModelId("a"), "two"), (ev.ModelId("b"), "one"), (ev.ModelId("c"), "one"))
    host.feed(ev.DirectoryScanned(host._scan().sync_id, (), (), digests))
    assert host.answer(caller).changed == ("a",)
    assert [host.model(id).files for id in ("a", "b")] == ["changed", "as loaded"]


# Names


@pytest.mark.parametrize("name", [KEPT_NAME, KEPT_NAME.upper(), f"{KEPT_NAME}/x", f"{KEPT_NAME}.new"])
def test_the_hosts_own_file_is_no_file_of_a_deploy(name):
    for names, folders in ((["m", name], ()), (["m"], (name,))):
        with pytest.raises(InvalidArgumentError, match="is the host's own"):
            check_files(names, folders)
    check_files(["m", f"sub/{KEPT_NAME}"])


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (["m"], "as the folder of another file"),
        (["a/../b"], "is no name of a file or folder"),
        (["a"] * MAX_FILES, f"a deploy may have {MAX_FILES} files, and 1 and {MAX_FILES} empty folders were given"),
    ],
    ids=["a file", "outside", "too many"],
)
def test_empty_folders_are_checked(folders, words):
    check_files(["m"], ["a/b", "c"])
    with pytest.raises(InvalidArgumentError, match=words):
        check_files(["m"], folders)
