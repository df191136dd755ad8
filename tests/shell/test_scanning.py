"""Scans of real directories: what is found, gone, not looked at again; and nothing is ever gone by mistake."""

import contextlib
import errno
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap

import pytest
from helpers import REPOSITORY, line_of, program
from walking_rig import Rig, again_and_again

from hostd.shell.repository import completeness
from hostd.shell.repository import scanner as scanning
from hostd.shell.repository.scanner import DirectoryUnavailableError, Scanner, is_inside


@pytest.fixture(autouse=True)
def _all_changes_show(monkeypatch):
    """Trust the times of what was changed just now: the file systems of tests have fine clocks."""
    monkeypatch.setattr(completeness, "RECENT_NS", 0)


@pytest.fixture
def rig(tmp_path):
    (tmp_path / "models").mkdir()
    return Rig(tmp_path / "models")


def test_c24_new_directories_and_files_that_a_finder_knows_are_found_and_not_what_is_loaded(rig):
    rig.add("a")
    rig.add("loaded")
    (rig.path / "model.onnx").touch()
    scan = rig.scan("loaded")
    assert sorted(scan.found) == [("a", str(rig.path / "a")), ("model.onnx", str(rig.path / "model.onnx"))]
    assert (scan.gone, scan.ignored) == ((), 0)


def test_c24_what_is_no_model_is_ignored(rig):
    rig.add(".hidden-model")
    rig.add(scanning.STAGING)
    (rig.path / "notes.txt").touch()
    (rig.path / "empty").mkdir()
    (rig.path / "model-link").symlink_to(rig.add("model-real"))
    os.mkfifo(rig.path / "model-pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        directory = os.open(rig.path, os.O_RDONLY)
        bound.bind(f"/proc/self/fd/{directory}/model-socket")  # a socket's path may have 107 bytes
        os.close(directory)
    scan = rig.scan()
    assert [name for name, _ in scan.found] == ["model-real"]
    assert scan.ignored == 5
    assert not set(rig.asked) & {".hidden-model", scanning.STAGING, "model-link", "model-pipe", "model-socket"}


def test_c17_c24_nested_models_and_a_staging_directory_of_another_name_are_not_found(rig):
    rig.add("staging")
    rig.add("team/nested")
    assert rig.found() == ["staging"]
    assert dict(Scanner(rig.path, lambda *_: True, "staging").scan({}, False).found).keys() == {"team"}


def test_names_that_cannot_be_ids_are_ignored_with_one_warning_each(rig, caplog):
    os.mkdir(os.fsencode(rig.path) + b"/model-\xff")
    bad = rig.add("model\nmodel")
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            assert rig.scan() == ((), (), 2)
            (bad / f"changed-{number}").touch()
    assert len(caplog.messages) == 2
    assert all(message.isascii() and "\n" not in message for message in caplog.messages)


def test_what_changes_is_asked_about_again_and_what_does_not_is_asked_about_once(rig):
    rig.add("a")
    for name in ("late", "early"):
        (rig.path / name).mkdir()
    for _ in range(5):
        assert rig.found() == ["a"]
    (rig.path / "late" / "model.py").touch()
    assert rig.found() == ["a", "late"]
    assert rig.asked == {"a": 1, "late": 2, "early": 1}


def test_what_changed_just_now_is_asked_about_again(rig, monkeypatch):
    monkeypatch.setattr(completeness, "RECENT_NS", 10**15)
    rig.add("a")
    for _ in range(3):
        assert rig.found() == ["a"]
    assert rig.asked == {"a": 3}
    for number in range(2 * scanning.BREATH_EVERY):
        (rig.path / f"model-{number}").touch()
    assert len(rig.found()) == 2 * scanning.BREATH_EVERY + 1, "however many there are"


REPAIRS = {
    "a file came": lambda m: (m / "new").touch(),
    "a file was written in place": lambda m: (m / "model.py").write_text("22"),
    "a file below came": lambda m: (m / "deep" / "new").touch(),
    "a file below was written in place": lambda m: (m / "deep" / "file").write_text("22"),
    "a file may be read now": lambda m: (m / "deep" / "file").chmod(0o640),
}


@pytest.mark.parametrize("repair", REPAIRS.values(), ids=REPAIRS)
def test_a_failed_entry_is_found_again_after(repair, rig):
    model = rig.add("a")
    (model / "deep").mkdir()
    (model / "deep" / "file").write_text("1")
    rig.fail("a")
    repair(model)
    assert rig.found() == ["a"]
    assert rig.found() == ["a"], "it is found until it was loaded"
    rig.fail("a")


def test_only_an_explicit_sync_finds_failed_entries_again(rig):
    rig.add("a")
    rig.add("b")
    rig.fail("a")
    assert [rig.found() for _ in range(3)] == [["b"]] * 3
    assert rig.found(retry_all=True) == ["a", "b"]


def test_an_entry_that_was_repaired_while_it_failed_is_tried_again(rig):
    model = rig.add("a")
    assert rig.found() == ["a"]
    (model / "model.py").write_text("repaired")
    rig.scanner.note_failed("a")
    assert rig.found() == ["a"]


def test_an_entry_that_changes_itself_whenever_it_fails_is_given_up(rig):
    model = rig.add("a")
    tries = 0
    for _ in range(20):
        if rig.found() == ["a"]:
            tries += 1
            (model / f"log-{tries}").touch()
            rig.scanner.note_failed("a")
    assert tries == scanning.SELF_CHANGES
    (model / "model.py").write_text("repaired")
    assert rig.found() == ["a"]


def test_with_many_failed_entries_scans_take_turns_and_miss_none(rig, monkeypatch):
    names = [f"m{number:02}" for number in range(20)]
    for name in names:
        rig.add(name)
    rig.found()
    for name in names:
        rig.scanner.note_failed(name)
    walked = []
    monkeypatch.setattr(scanning, "walk", lambda path: walked.append(path) or completeness.walk(path))
    monkeypatch.setattr(scanning, "LOOKS_AT_FAILED", 5)
    (rig.path / "m13" / "model.py").write_text("repaired")
    found = [rig.found() for _ in range(4)]
    assert len(walked) == 20
    assert ["m13"] in found
    (rig.path / "m07" / "new").touch()
    assert "m07" in rig.found(), "what changed at the top need not wait for its turn"


def test_a_failed_entry_that_vanishes_is_forgotten(rig):
    model = rig.add("a")
    rig.fail("a")
    rig.scanner.note_failed("team/nested")
    shutil.rmtree(model)
    rig.found()
    assert repr(rig.scanner).endswith(" 0 entries, 0 failed>")
    rig.add("a")
    assert rig.found() == ["a"]


def test_c24_a_loaded_model_without_its_files_is_gone_and_those_from_elsewhere_are_left_alone(rig, tmp_path):
    shutil.rmtree(rig.add("a"))
    rig.add("b")
    assert rig.scan("a", "b").gone == ("a",)
    elsewhere = {"x": str(tmp_path / "models2" / "x"), "y": "/nowhere/y", "z": str(rig.path / ".." / "z")}
    assert rig.scan(**elsewhere, root=str(rig.path)).gone == ()


def test_c17_a_nested_model_is_gone_when_it_or_what_it_lies_in_is_but_not_when_it_cannot_be_looked_at(rig):
    nested = rig.add("team/nested")
    assert rig.scan("team/nested").gone == ()
    shutil.rmtree(nested)
    assert rig.scan("team/nested").gone == ("team/nested",)
    nested.parent.rmdir()
    nested.parent.touch()
    assert rig.scan("team/nested").gone == ("team/nested",)
    nested.parent.unlink()
    nested.parent.symlink_to("team")
    assert rig.scan("team/nested").gone == ()


def test_c24_a_model_that_was_loaded_by_another_spelling_of_its_path_is_gone_with_it(rig, tmp_path):
    (tmp_path / "link").symlink_to(rig.path)
    through_link = Rig(tmp_path / "link")
    for path in (tmp_path / "link" / "a", rig.path / ".." / "models" / "a", f"{rig.path}//./a/"):
        shutil.rmtree(rig.add("a"))
        assert rig.scan(a=str(path)).gone == ("a",)
        assert through_link.scan(a=str(path)).gone == ("a",)


INSIDE = ["models/x", "models/x/y", "models/x/", "models//x", "link/x", "models/out"]
OUTSIDE = ["models/x/..", "models/x/../../other", "models", "models/", "models/.", "models2/x", "modelsx"]


@pytest.mark.parametrize("path", [*INSIDE, *OUTSIDE, "models/out/x", "other/in"])
def test_c24_a_path_is_inside_by_whole_components(path, tmp_path):
    for name in ("models/x", "models2", "other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to("models")
    (tmp_path / "models" / "out").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "in").symlink_to(tmp_path / "models" / "x")
    for directory in ("models", "models/", "link", "other/../models"):
        assert is_inside(f"{tmp_path}/{path}", f"{tmp_path}/{directory}") is (path in INSIDE)
    assert is_inside("/x", "/")


def unavailable(rig, *loaded):
    with pytest.raises(DirectoryUnavailableError) as caught:
        rig.scan(*loaded)
    return str(caught.value)


def test_c25_without_the_directory_nothing_is_gone_and_nothing_is_forgotten(rig):
    rig.add("a")
    rig.fail("a")
    rig.path.rename(rig.path.parent / "away")
    assert unavailable(rig, "b") == f"{rig.path} cannot be read: No such file or directory"
    rig.path.touch()
    assert "Not a directory" in unavailable(rig, "b")
    rig.path.unlink()
    (rig.path.parent / "away").rename(rig.path)
    asked = rig.asked.copy()
    assert rig.scan("b") == ((), ("b",), 0)
    assert rig.asked == asked


def test_c25_another_directory_that_is_empty_looks_like_a_missing_mount(rig):
    shutil.rmtree(rig.add("a"))
    for _ in range(2):
        assert rig.scan("a").gone == ("a",), "it is the same"
    rig.add("b")
    rig.path.rename(rig.path.parent / "away")
    rig.path.mkdir()
    assert rig.scan(x="/elsewhere/x") == ((), (), 0), "nothing came from it"
    rig.path.rmdir()
    rig.add("c")
    rig.found()
    rig.path.rename(rig.path.parent / "gone")
    rig.add(".hidden")
    for _ in range(2):
        assert "is something to be mounted there?" in unavailable(rig, "c")
    rig.add("d")
    assert rig.scan("c").gone == ("c",)


MOUNTED = """
    import json, os, subprocess, sys
    from hostd.shell.repository.scanner import DirectoryUnavailableError, Scanner

    path = sys.argv[1]
    subprocess.run(["mount", "-t", "tmpfs", "models", path], check=True)
    os.mkdir(path + "/a")
    scanner = Scanner(path, lambda *_: True)
    said = [scanner.scan({}, False).found]
    subprocess.run(["umount", path], check=True)
    try:
        said.append(scanner.scan({"a": path + "/a"}, False).gone)
    except DirectoryUnavailableError as error:
        said.append(str(error))
    print(json.dumps(said))
"""

FORBIDDEN = """
    import os, sys
    from hostd.shell.repository.scanner import DirectoryUnavailableError, Scanner

    path, mode = sys.argv[1], int(sys.argv[2], 8)
    os.chmod(path, mode)
    if os.geteuid() == 0:  # no mode stops root
        os.setgroups([])
        os.setegid(65534)
        os.seteuid(65534)
    try:
        print(Scanner(path, lambda *_: True).scan({"a": path + "/a"}, False))
    except DirectoryUnavailableError as error:
        print(error)
"""


def test_c25_a_directory_that_was_unmounted_unloads_nothing(rig):
    private = ["unshare", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*private, "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    command = [*private, sys.executable, "-c", textwrap.dedent(MOUNTED), str(rig.path)]
    output = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=True, capture_output=True)
    found, then = json.loads(output.stdout)
    assert found == [["a", f"{rig.path}/a"]]
    assert "is something to be mounted there?" in then


@pytest.mark.parametrize("mode", ["000", "666", "333"])
def test_c25_a_directory_that_may_not_be_listed_or_searched_unloads_nothing(mode):
    with tempfile.TemporaryDirectory() as base:  # pytest's own are closed to other users
        os.chmod(base, 0o755)
        models = os.path.join(base, "models")
        os.mkdir(models)
        os.mkdir(os.path.join(models, "b"))
        with program(FORBIDDEN, models, mode) as process:
            assert line_of(process) == f"{models} cannot be read: Permission denied"
        os.chmod(models, 0o755)


def test_c25_a_listing_that_breaks_off_unloads_nothing(rig, monkeypatch):
    """As of one on a file server that goes away."""
    for name in "ab":
        rig.add(name)
    rig.found()
    scandir = os.scandir

    @contextlib.contextmanager
    def half(*args):
        def listed(whole):
            yield next(whole)
            raise OSError(errno.EIO, "Input/output error")

        with scandir(*args) as whole:
            yield listed(whole)

    with monkeypatch.context() as broken:
        broken.setattr(os, "scandir", half)
        assert unavailable(rig, "c") == f"{rig.path} cannot be read: Input/output error"
    assert rig.scan("c").gone == ("c",)
    assert rig.asked == {"a": 1, "b": 1}


def test_c25_a_directory_that_is_replaced_during_the_scan_unloads_nothing(rig):
    rig.add("a")

    def recognises(model_id, path):
        rig.path.rename(rig.path.parent / "away")
        rig.path.mkdir()
        return True

    with pytest.raises(DirectoryUnavailableError, match="became another directory while it was read"):
        Scanner(rig.path, recognises).scan({"b": f"{rig.path}/b"}, False)


def test_entries_that_vanish_while_they_are_listed_are_left_out(rig):
    def come_and_go():
        for number in range(20):
            rig.add(f"m{number}")
        for number in range(20):
            shutil.rmtree(rig.path / f"m{number}")

    rig.add("stays")
    scanner = Scanner(rig.path, lambda *_: True)
    with again_and_again(come_and_go):
        scans = [scanner.scan({"gone": f"{rig.path}/gone"}, False) for _ in range(300)]
    assert all(scan.gone == ("gone",) and "stays" in dict(scan.found) for scan in scans)
