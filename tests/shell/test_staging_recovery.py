"""What a start finds in a staging area: interrupted operations, which are undone or tidied up, and what no host left so.

That an operation may be killed anywhere is in `test_staging_kills`, other hosts in `test_staging_hosts`.
"""

import contextlib
import json
import os

import pytest
from kernels import Watched
from path_corpus import canary
from staging_rig import ENDLESS, FILES, OLD, Fails, begin, deploy, installed, names, on, tree, undeploy

from hostd.core.names import STAGING_NAME
from hostd.shell.deploys.journal import Journal
from hostd.shell.deploys.staging import Staging
from hostd.shell.linux.syscalls import SystemCalls
from hostd.shell.repository.directory import ModelsDirectory
from hostd_workers.wire.errors import FailedPreconditionError, HostError

IO_ERROR = "Input/output error"


def interrupt(upload):
    """Let go of an operation as a killed host does."""
    for fd in (upload._tree_fd, upload._area.staging_fd, upload._area.models_fd, upload._journal._fd):
        os.close(fd)


@pytest.fixture
def fails():
    return Fails()


@pytest.fixture
def failing(models, kernel, fails):
    """A staging area of which some calls fail."""
    return on(models, kernel, fails)


def test_c30_what_was_interrupted_is_undone_and_what_was_confirmed_is_tidied_up(staging, models):
    assert staging.recover() == []
    assert names(models) == []
    interrupt(installed(staging, "team/m"))
    assert staging.recover() == ["undid the interrupted deploy of 'team/m'"]
    assert names(models) == []
    deploy(staging, "m", OLD)
    upload = installed(staging, replace=True)
    upload.confirm()
    interrupt(upload)
    assert staging.recover() == ["tidied up after the interrupted deploy of 'm'"]
    assert tree(models) == {f"m/{name}": content for name, content in FILES.items()}


def test_c30_an_entry_that_was_cut_anywhere_before_the_move_is_recovered(staging, models):
    """A power cut may leave any beginning of a line that was not flushed; nothing moves before it is."""
    deploy(staging, "m", OLD)
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


def test_c30_an_entry_that_could_not_be_read_is_recovered_when_it_can(models, failing, fails):
    """Its lock must be let go of, or nobody could, until the end of this process."""
    interrupt(begin(Staging(ModelsDirectory(models))))
    fails.add("pread")
    (said,) = failing.recover()
    assert IO_ERROR in said
    fails.clear()
    assert failing.recover() == ["undid the interrupted deploy of 'm'"]
    assert names(models) == []


@pytest.mark.parametrize("ending", ["undo", "tidy up"])
def test_c30_whichever_call_of_a_recovery_fails_the_next_one_does_it(models, kernel, ending):
    point, failed = 0, []

    def before(name, _):
        if len(failed) < point:
            failed.append(name)
            if len(failed) == point:
                raise OSError(5, IO_ERROR)

    sound = Staging(ModelsDirectory(models))
    for point in range(1, ENDLESS):
        deploy(sound, "team/m", OLD, replace=True)
        upload = installed(sound, "team/m", replace=True)
        if ending == "tidy up":
            upload.confirm()
        interrupt(upload)
        failed.clear()
        with contextlib.suppress(HostError):
            on(models, kernel, before).recover()
        has_failed = len(failed) == point
        sound.recover()
        assert tree(models / "team" / "m") == (OLD if ending == "undo" else FILES), failed[-1]
        assert names(models) == ["team"], failed[-1]
        if not has_failed:
            break
    assert point > 20


@pytest.mark.parametrize("finish", ["repeated", "recovered"])
@pytest.mark.parametrize(("step", "call"), [("roll_back", "rmdir"), ("clean", "unlink")])
def test_c30_a_roll_back_or_a_clean_that_failed_may_be(models, failing, fails, step, call, finish):
    if step == "clean":
        deploy(failing, "team/m", OLD)
    upload = installed(failing, "team/m", replace=step == "clean")
    if step == "clean":
        upload.confirm()
    fails.add(call)
    with pytest.raises(HostError, match=IO_ERROR):
        getattr(upload, step)()
    fails.clear()
    if finish == "recovered":
        assert len(failing.recover()) == 1
    getattr(upload, step)()
    assert names(models) == (["team"] if step == "clean" else [])
    assert tree(models / "team" / "m") == (FILES if step == "clean" else {})


@pytest.mark.parametrize("act", ["replace", "undeploy"])
def test_c30_c31_a_commitment_that_failed_is_none_although_its_byte_was_written(models, kernel, fails, act):
    """As fsync(2) has it: an error, and the page cache holds the data. Then undoing fails, too, and a recovery comes."""

    def before(name, arguments):
        if name == "pwrite" and arguments[1] == b"1":
            os.pwrite(*arguments)
            fails.update(["rename", "renameat2"])
            raise OSError(5, IO_ERROR)
        fails(name, arguments)

    sound, staging = Staging(ModelsDirectory(models)), on(models, kernel, before)
    deploy(sound, "m", OLD)
    operation = staging.remove("m") if act == "undeploy" else installed(staging, replace=True)
    for step in (operation.confirm, operation.roll_back):
        with pytest.raises(HostError, match=IO_ERROR):
            step()
    assert len(sound.recover()) == 1
    assert tree(models / "m") == OLD
    assert names(models) == ["m"]


def test_c30_what_was_undone_is_not_undone_again_when_its_inode_is_used_again(models, kernel, fails):
    """Between the end of the new tree and the end of its entry another host may deploy, and get the same inode."""
    staging = on(models, kernel, lambda name, arguments: str(arguments[0]).endswith(".json") and fails(name, arguments))
    upload = installed(staging)
    fails.add("unlink")
    with pytest.raises(HostError):
        upload.roll_back()
    fails.clear()
    (models / "m").mkdir()
    (entry,) = (models / STAGING_NAME).glob("*.json")
    with entry.open("a") as notes:
        notes.write(json.dumps({"tree": (models / "m").stat().st_ino, "first_made": 0}) + "\n")
    assert staging.recover() == ["tidied up after the interrupted deploy of 'm'"]
    assert names(models) == ["m"]


def test_c32_the_old_model_comes_back_even_if_the_new_one_was_taken_away(staging, models):
    deploy(staging, "team/m", OLD)
    upload = installed(staging, "team/m", replace=True)
    (models / "team").rename(models / "elsewhere")
    upload.roll_back()
    assert tree(models / "team" / "m") == OLD


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
    place = models / "team" / "group" / "m"
    place.mkdir(parents=True)
    before, undeploy_it = canary(models), {"state": 0, "operation": "undeploy", "model_id": "team/group/m"}
    planted_entry(models, undeploy_it, *({"opened_up": [place.stat().st_ino, mode]} for mode in (-1, 1 << 12, 1 << 80)))
    assert staging.recover() == ["undid the interrupted undeploy of 'team/group/m'"]
    assert canary(models) == before
    deploy_it = undeploy_it | {"operation": "deploy"}
    planted_entry(models, deploy_it, [1], {"tree": "x"}, {"new": 1})
    assert staging.recover() == ["undid the interrupted deploy of 'team/group/m'"]
    assert canary(models) == before
    place.rmdir()
    planted_entry(models, deploy_it, {"tree": 1, "first_made": -5})
    assert staging.recover() == ["undid the interrupted deploy of 'team/group/m'"]
    assert names(models / "team") == ["group"], "folders that were there before are not removed"


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
    area = models / STAGING_NAME
    area.symlink_to(tmp_path / "outside") if kind == "link" else area.write_text("")
    before = canary(tmp_path)
    for act in (staging.recover, lambda: begin(staging)):
        with pytest.raises(FailedPreconditionError, match="is not a directory; remove it"):
            act()
    assert canary(tmp_path) == before


PLANTED = {"link": lambda place: place.symlink_to("/etc/hostname"), "directory": os.mkdir, "fifo": os.mkfifo}


@pytest.mark.parametrize("kind", PLANTED)
def test_c30_what_is_only_called_like_an_entry_is_left_alone_and_stops_nobody(staging, models, kind):
    """What opens a fifo as if it were a file waits for ever, and with it one of few threads."""
    (models / STAGING_NAME).mkdir()
    PLANTED[kind](models / STAGING_NAME / f"{TOKEN}.json")
    (said,) = staging.recover()
    assert ("cannot recover the interrupted operation" in said) is (kind != "fifo")
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
        assert Journal.open(calls, at, TOKEN) is None, "what had the lock before has removed it"
    finally:
        os.close(at)
