"""What a start finds in a staging area: interrupted operations, remains, and strange things.

That an operation may be killed anywhere is in `test_staging_kills`; other hosts are in `test_staging_hosts`.
"""

from __future__ import annotations

import json
import os

import pytest
from kernels import KERNELS, Watched
from path_corpus import canary
from staging_rig import FILES, begin, deploy, names, tree

from hostd.core.names import STAGING_NAME
from hostd.shell.directory import ModelsDirectory
from hostd.shell.journal import Journal
from hostd.shell.staging import Staging
from hostd.shell.syscalls import SystemCalls
from workers.wire.errors import (
    FailedPreconditionError,
    HostError,
)

TOKEN = "0123456789abcdef"


@pytest.fixture(params=KERNELS)
def kernel(request):
    return KERNELS[request.param]()


@pytest.fixture
def models(tmp_path):
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture
def staging(models, kernel):
    return Staging(ModelsDirectory(models, calls=kernel))


def interrupt(upload):
    """Let go of an operation as a killed host does."""
    for fd in (upload._tree_fd, upload._area.staging_fd, upload._area.models_fd, upload._journal._fd):
        os.close(fd)


def test_nothing_to_recover_says_nothing_and_makes_nothing(staging, models):
    assert staging.recover() == []
    assert names(models) == []


def test_c30_what_was_interrupted_is_undone_and_said(staging, models):
    upload = begin(staging, "team/m")
    upload.install()
    interrupt(upload)
    assert staging.recover() == ["undid the interrupted deploy of 'team/m'"]
    assert names(models) == []


def test_c30_what_was_confirmed_stays_and_is_tidied_up(staging, models):
    deploy(staging, "m", {"model.yaml": b"old"})
    upload = begin(staging, replace=True)
    upload.install()
    upload.confirm()
    interrupt(upload)
    assert staging.recover() == ["tidied up after the interrupted deploy of 'm'"]
    assert tree(models) == {f"m/{name}": content for name, content in FILES.items()}


def test_c30_an_entry_that_was_cut_anywhere_before_the_move_is_recovered(models, kernel):
    """A power cut may leave any beginning of a line that was not flushed; nothing moves before it is."""
    staging = Staging(ModelsDirectory(models, calls=kernel))
    deploy(staging, "m", {"model.yaml": b"old"})
    before = canary(models)
    cut, length = 0, 1
    while cut <= length:
        upload = begin(staging, replace=True)
        upload._journal.note(tree=os.fstat(upload._tree_fd).st_ino, first_made=0)
        (entry,) = (models / STAGING_NAME).glob("*.json")
        length = len(entry.read_bytes())
        interrupt(upload)
        os.truncate(entry, cut)
        assert len(staging.recover()) == 1
        assert canary(models) == before, f"cut at {cut} of {length}"
        cut += 1
    assert length > 80


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


def test_an_entry_with_strange_notes_is_undone_as_far_as_it_is_understood(staging, models):
    planted_entry(models, {"state": 0, "operation": "deploy", "model_id": "m"}, [1], {"tree": "x"}, {"new": 1})
    (models / "m").mkdir()
    assert staging.recover() == ["undid the interrupted deploy of 'm'"]
    assert names(models) == ["m"]


def test_trees_without_an_entry_are_removed_and_strange_names_are_not(staging, models):
    area = models / STAGING_NAME
    (area / TOKEN / "x").mkdir(parents=True)
    (area / f"{TOKEN}-spare").write_text("x")
    (area / "notes.txt").write_text("somebody's")
    said = staging.recover()
    assert sorted(said) == [f"removed {name}, which no operation knows" for name in (TOKEN, f"{TOKEN}-spare")]
    assert names(area) == ["notes.txt"]
    deploy(staging)
    assert names(area) == ["notes.txt"]


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


def test_c25_a_models_directory_that_is_gone_is_said(tmp_path):
    staging = Staging(ModelsDirectory(tmp_path / "gone"))
    for act in (staging.recover, lambda: begin(staging), lambda: staging.remove("m"), lambda: staging.check("m")):
        with pytest.raises(FailedPreconditionError, match="is not there; create it"):
            act()


def test_c30_a_roll_back_that_failed_may_be_repeated_or_recovered(models, kernel):
    fails = []

    def before(name, arguments):
        if name in fails:
            raise OSError(5, "Input/output error")

    staging = Staging(ModelsDirectory(models, calls=Watched(kernel, before)))
    for finish in ("roll_back", "recover"):
        upload = begin(staging, "team/m")
        upload.install()
        fails.append("rmdir")
        with pytest.raises(HostError, match="Input/output error"):
            upload.roll_back()
        fails.clear()
        if finish == "roll_back":
            upload.roll_back()
        else:
            assert len(staging.recover()) == 1
            upload.roll_back()
        assert names(models) == []


def test_c30_what_was_undone_is_not_undone_again_when_its_inode_is_used_again(models, kernel):
    """Between the end of the new tree and the end of its entry another host may deploy, and get the same inode."""
    fails = []

    def before(name, arguments):
        if name in fails and arguments[0].endswith(".json"):
            raise OSError(5, "Input/output error")

    staging = Staging(ModelsDirectory(models, calls=Watched(kernel, before)))
    upload = begin(staging)
    upload.install()
    fails.append("unlink")
    with pytest.raises(HostError):
        upload.roll_back()
    fails.clear()
    (models / "m").mkdir()
    (entry,) = (models / STAGING_NAME).glob("*.json")
    with entry.open("a") as notes:
        notes.write(json.dumps({"tree": (models / "m").stat().st_ino, "first_made": 0}) + "\n")
    assert staging.recover() == ["tidied up after the interrupted deploy of 'm'"]
    assert names(models) == ["m"]


def test_c30_a_clean_that_failed_may_be_repeated_or_recovered(models, kernel):
    fails = []

    def before(name, arguments):
        if name in fails:
            raise OSError(5, "Input/output error")

    staging = Staging(ModelsDirectory(models, calls=Watched(kernel, before)))
    for finish in ("clean", "recover"):
        deploy(staging, "m", {"model.yaml": b"old"}, replace=True)
        upload = begin(staging, replace=True)
        upload.install()
        upload.confirm()
        fails.append("unlink")
        with pytest.raises(HostError, match="Input/output error"):
            upload.clean()
        fails.clear()
        if finish == "clean":
            upload.clean()
        else:
            assert len(staging.recover()) == 1
            upload.clean()
        assert names(models) == ["m"]
        assert tree(models / "m") == FILES


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


def test_c32_the_old_model_comes_back_even_if_the_new_one_was_taken_away(staging, models):
    deploy(staging, "team/m", {"model.yaml": b"old"})
    upload = begin(staging, "team/m", replace=True)
    upload.install()
    (models / "team").rename(models / "elsewhere")
    upload.roll_back()
    assert tree(models / "team" / "m") == {"model.yaml": b"old"}
