"""What a start finds in a staging area that no host left so: forged, damaged and strange entries, links, other things.

Interrupted operations are in `test_staging_recovery`.
"""

import json
import os

import pytest
from kernels import Watched
from path_corpus import canary
from staging_rig import FILES, begin, deploy, names, tree, undeploy

from hostd.core.names import STAGING_NAME
from hostd.shell.deploys.journal import Journal
from hostd.shell.linux.syscalls import SystemCalls
from hostd_workers.wire.errors import FailedPreconditionError

TOKEN = "0123456789abcdef"


def planted_entry(models, header, *lines):
    (models / STAGING_NAME).mkdir(exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in (header, *lines))
    (models / STAGING_NAME / f"{TOKEN}.json").write_text(text)


@pytest.mark.parametrize(
    "header",
    [
        {"state": 7, "operation": "deploy", "model_id": "m"},
        {"state": 0, "operation": "rename", "model_id": "m"},
        {"state": 0, "operation": "deploy", "model_id": "../outside"},
        {"state": 0, "operation": "undeploy", "model_id": "/etc"},
        {"state": 0, "operation": "undeploy"},
        [1, 2],
        "text",
    ],
    ids=str,
)
def test_c31_an_entry_that_is_not_understood_is_left_alone(staging, models, tmp_path, header):
    (tmp_path / "outside").mkdir()
    planted_entry(models, header, {"tree": (tmp_path / "outside").stat().st_ino, "first_made": 0})
    (models / STAGING_NAME / TOKEN).mkdir()
    before = canary(tmp_path)
    assert staging.recover() == [f"left the entry {TOKEN} alone: this version does not understand it"]
    assert canary(tmp_path) == before


@pytest.mark.parametrize("where", ["header", "note"])
def test_an_entry_of_endless_brackets_stops_no_start(staging, models, where):
    """The parser's RecursionError is no ValueError, and a start waits for the recovery."""
    planted_entry(models, {"state": 0, "operation": "deploy", "model_id": "m"})
    entry, brackets = models / STAGING_NAME / f"{TOKEN}.json", "[" * 60_000 + "\n"
    entry.write_text(brackets if where == "header" else entry.read_text() + brackets)
    (said,) = staging.recover()
    assert said.startswith("left the entry" if where == "header" else "undid the interrupted deploy")


def test_notes_of_what_cannot_be_are_no_notes(staging, models):
    (models / "team" / "group" / "m").mkdir(parents=True)
    before = canary(models)
    modes = [{"opened_up": [(models / "team" / "group" / "m").stat().st_ino, mode]} for mode in (-1, 1 << 12, 1 << 80)]
    planted_entry(models, {"state": 0, "operation": "undeploy", "model_id": "team/group/m"}, *modes)
    assert staging.recover() == ["undid the interrupted undeploy of 'team/group/m'"]
    assert canary(models) == before
    (models / "team" / "group" / "m").rmdir()
    before = canary(models)
    planted_entry(
        models, {"state": 0, "operation": "deploy", "model_id": "team/group/m"}, {"tree": 1, "first_made": -5}
    )
    assert staging.recover() == ["undid the interrupted deploy of 'team/group/m'"]
    assert canary(models) == before, "folders that were there before are not removed"


def test_an_entry_with_strange_notes_is_undone_as_far_as_it_is_understood(staging, models):
    planted_entry(models, {"state": 0, "operation": "deploy", "model_id": "m"}, [1], {"tree": "x"}, {"new": 1})
    (models / "m").mkdir()
    assert staging.recover() == ["undid the interrupted deploy of 'm'"]
    assert names(models) == ["m"]


def test_trees_without_an_entry_are_removed_and_strange_names_are_not(staging, models):
    area = models / STAGING_NAME
    (area / TOKEN / "x").mkdir(parents=True)
    (area / f"{TOKEN}-spare").write_text("x")
    for name in ("notes.txt", "notes.json", f"{TOKEN}0.json"):
        (area / name).write_text("")
    (area / "notes").mkdir()
    strange = [f"{TOKEN}0.json", "notes", "notes.json", "notes.txt"]
    said = staging.recover()
    assert sorted(said) == [f"removed {name}, which no operation knows" for name in (TOKEN, f"{TOKEN}-spare")]
    assert names(area) == strange
    deploy(staging)
    assert names(area) == strange


@pytest.mark.parametrize("kind", ["link", "file"])
def test_c31_a_staging_area_that_is_none_is_said(staging, models, tmp_path, kind):
    (tmp_path / "outside").mkdir()
    if kind == "link":
        (models / STAGING_NAME).symlink_to(tmp_path / "outside")
    else:
        (models / STAGING_NAME).write_text("")
    before = canary(tmp_path)
    for act in (staging.recover, lambda: begin(staging)):
        with pytest.raises(FailedPreconditionError, match="is not a directory; remove it"):
            act()
    assert canary(tmp_path) == before


def test_c31_an_entry_that_is_a_link_is_not_followed(staging, models, tmp_path):
    (tmp_path / "victim").write_text('{"state": 0, "operation": "deploy", "model_id": "m"}\n')
    (models / STAGING_NAME).mkdir()
    (models / STAGING_NAME / f"{TOKEN}.json").symlink_to(tmp_path / "victim")
    (said,) = staging.recover()
    assert "cannot recover the interrupted operation" in said
    assert (tmp_path / "victim").exists()


PLANTED = {"link": lambda place: place.symlink_to("/etc/hostname"), "directory": os.mkdir, "fifo": os.mkfifo}


@pytest.mark.parametrize("kind", PLANTED)
def test_c30_what_is_only_called_like_an_entry_is_left_alone_and_stops_nobody(staging, models, kind):
    """Who opens a fifo as if it were a file waits for ever, and with it one of few threads."""
    (models / STAGING_NAME).mkdir()
    PLANTED[kind](models / STAGING_NAME / f"{TOKEN}.json")
    assert len(staging.recover()) == 1
    assert tree(deploy(staging)) == FILES
    deploy(staging, "m", {"model.yaml": b"new"}, replace=True)
    undeploy(staging)
    assert names(models) == [STAGING_NAME]
    assert names(models / STAGING_NAME) == [f"{TOKEN}.json"]


def test_an_entry_that_is_gone_is_none(models):
    (models / STAGING_NAME).mkdir()
    at = os.open(models / STAGING_NAME, os.O_RDONLY)
    try:
        assert Journal.open(SystemCalls(), at, TOKEN) is None
        assert Journal.peek(SystemCalls(), at, TOKEN) is None
        planted_entry(models, {"state": 0, "operation": "deploy", "model_id": "m"})
        entry = models / STAGING_NAME / f"{TOKEN}.json"
        calls = Watched(SystemCalls(), lambda name, _: name == "try_lock" and entry.unlink())
        assert Journal.open(calls, at, TOKEN) is None, "it was removed by who had the lock before"
    finally:
        os.close(at)
