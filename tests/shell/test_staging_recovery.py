"""What a start finds in a staging area: interrupted operations, other hosts' living ones, remains, and strange things.

That an operation may be killed anywhere is in `test_staging_kills`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from helpers import line_of, program, stop
from kernels import KERNELS, Watched
from path_corpus import canary
from staging_rig import FILES, begin, deploy, names, tree

from hostd.core.names import STAGING_NAME
from hostd.shell.directory import ModelsDirectory
from hostd.shell.journal import Journal
from hostd.shell.staging import Staging
from hostd.shell.syscalls import SystemCalls
from workers.wire.errors import (
    AbortedError,
    FailedPreconditionError,
    HostError,
    NotFoundError,
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


def test_c28_what_this_process_works_on_is_left_alone(staging, models):
    upload = begin(staging)
    before = canary(models)
    assert staging.recover() == []
    assert Staging(ModelsDirectory(models)).recover() == []
    assert canary(models) == before
    upload.install()
    assert staging.recover() == []
    assert tree(models / "m") == FILES
    upload.roll_back()


OTHER_HOST = """
    import sys
    from hostd.shell.directory import ModelsDirectory
    from hostd.shell.staging import Staging
    upload = Staging(ModelsDirectory(sys.argv[1])).begin("m", [("model.yaml", 3)], replace=True)
    upload.write(0, 0, b"new")
    upload.install()
    print("installed", flush=True)
    __import__("signal").pause()
"""


def test_c28_another_living_host_is_left_alone_and_a_dead_one_is_cleared_away(staging, models):
    deploy(staging)
    other = program(OTHER_HOST, models)
    try:
        assert line_of(other) == "installed"
        assert staging.recover() == []
        assert tree(models / "m") == {"model.yaml": b"new"}
        with pytest.raises(AbortedError, match="another deploy of 'm' is under way"):
            staging.remove("m")
        upload = begin(staging, replace=True)
        with pytest.raises(AbortedError, match="try again when it is over"):
            upload.install()
        upload.roll_back()
        assert tree(models / "m") == {"model.yaml": b"new"}
    finally:
        stop(other)
    removal = staging.remove("m")  # recovers first
    removal.roll_back()
    assert tree(models / "m") == FILES
    assert names(models) == ["m"]


def test_c28_an_undeploy_under_way_keeps_others_out_until_it_is_confirmed(staging, models):
    deploy(staging)
    removal = staging.remove("m")
    upload = begin(staging)
    with pytest.raises(AbortedError, match="another undeploy of 'm'"):
        upload.install()
    upload.roll_back()
    with pytest.raises(NotFoundError):
        staging.remove("m")
    removal.confirm()
    assert deploy(staging)
    removal.clean()
    assert tree(models / "m") == FILES


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


def test_c28_an_area_that_another_host_removes_is_made_again(models):
    times = []

    def before(name, arguments):
        if name == "open" and str(arguments[0]).endswith(".json") and len(times) < 3:
            times.append(1)
            os.rmdir(models / STAGING_NAME)

    staging = Staging(ModelsDirectory(models, calls=Watched(SystemCalls(), before)))
    deploy(staging)
    assert len(times) == 3
    assert names(models) == ["m"]


def test_c28_a_folder_that_another_host_removes_is_made_again(models, kernel):
    times = []

    def before(name, arguments):
        is_move = name == "renameat2" or (name == "rename" and "renameat2" not in type(kernel).__dict__)
        if is_move and arguments[2] == "m" and len(times) < 3:
            times.append(1)
            os.rmdir(models / "team")

    staging = Staging(ModelsDirectory(models, calls=Watched(kernel, before)))
    deploy(staging, "team/m")
    assert len(times) == 3
    assert tree(models / "team" / "m") == FILES


def test_c28_an_entry_that_a_recovery_takes_away_at_its_birth_is_made_again(models):
    """Between the making and the locking of an entry another host may hold it for the remains of a crash."""
    times = []

    def before(name, arguments):
        if name == "try_lock" and len(times) < 3:
            times.append(1)
            assert len(Staging(ModelsDirectory(models)).recover()) == 1

    staging = Staging(ModelsDirectory(models, calls=Watched(SystemCalls(), before)))
    deploy(staging)
    assert len(times) == 3
    assert names(models) == ["m"]


def test_an_entry_that_is_gone_is_none(models):
    (models / STAGING_NAME).mkdir()
    at = os.open(models / STAGING_NAME, os.O_RDONLY)
    try:
        assert Journal.open(SystemCalls(), at, TOKEN) is None
        assert Journal.peek(SystemCalls(), at, TOKEN) is None
    finally:
        os.close(at)


def test_c28_someone_elses_newer_model_survives_the_undoing_of_a_replacement(staging, models):
    deploy(staging, "m", {"model.yaml": b"old"})
    upload = begin(staging, replace=True)
    upload.install()
    (models / "m").rename(models / "moved-away")
    (models / "m").mkdir()
    (models / "m" / "newer").write_text("x")
    upload.roll_back()
    assert tree(models / "m") == {"newer": b"x"}
    assert tree(models / "moved-away") == FILES
    assert STAGING_NAME not in names(models)


def test_c32_the_old_model_comes_back_even_if_the_new_one_was_taken_away(staging, models):
    deploy(staging, "team/m", {"model.yaml": b"old"})
    upload = begin(staging, "team/m", replace=True)
    upload.install()
    (models / "team").rename(models / "elsewhere")
    upload.roll_back()
    assert tree(models / "team" / "m") == {"model.yaml": b"old"}


def test_c28_two_hosts_racing_for_one_id_leave_one_model_and_nothing_else(models):
    """Real processes, without any shared memory: at most one is told that it was its."""
    source = """
import sys
from hostd.shell.directory import ModelsDirectory
from hostd.shell.staging import Staging
from workers.wire.errors import HostError
staging = Staging(ModelsDirectory(sys.argv[1]))
for turn in range(30):
    upload = staging.begin(f"m{turn}", [("a", 1)], replace=True) if turn % 2 else None
    try:
        upload = upload or staging.begin(f"m{turn}", [("a", 1)], replace=False)
        upload.write(0, 0, sys.argv[2].encode())
        upload.install()
    except HostError:
        if upload is not None:
            upload.roll_back()
        continue
    upload.confirm()
    upload.clean()
"""
    racers = [
        subprocess.Popen([sys.executable, "-c", source, str(models), letter], stderr=subprocess.PIPE, text=True)
        for letter in "ABC"
    ]
    for racer in racers:
        _, errors = racer.communicate(timeout=100)
        assert racer.returncode == 0, errors
    assert Staging(ModelsDirectory(models)).recover() == []
    assert STAGING_NAME not in names(models)
    assert all(content in (b"A", b"B", b"C") for content in tree(models).values())
