"""Directories that cannot be followed, and that change while they are scanned: nothing is ever gone by mistake."""

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap

import pytest
from helpers import REPOSITORY, line_of, program
from walking_rig import Rig, again_and_again

from hostd.shell.repository import completeness
from hostd.shell.repository.scanner import DirectoryUnavailableError, Scanner


@pytest.fixture
def rig(tmp_path, monkeypatch):
    monkeypatch.setattr(completeness, "RECENT_NS", 0)  # the file systems of tests have fine clocks
    (tmp_path / "models").mkdir()
    return Rig(tmp_path / "models")


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


class HalfAList:
    """A directory with a listing that breaks off, as one on a file server that goes away."""

    def __init__(self, whole):
        self._whole = whole

    def __enter__(self):
        return self._half()

    def __exit__(self, *_):
        self._whole.close()

    def _half(self):
        yield next(self._whole)
        raise OSError(errno.EIO, "Input/output error")


def test_c25_a_listing_that_breaks_off_unloads_nothing(rig, monkeypatch):
    for name in "ab":
        rig.add(name)
    rig.found()
    scandir = os.scandir
    with monkeypatch.context() as broken:
        broken.setattr(os, "scandir", lambda *args: HalfAList(scandir(*args)))
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
