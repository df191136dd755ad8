"""Deploys and undeploys on disks that are full or read-only, and among other file systems.

Each is mounted in a mount namespace of its own, and looked into through /proc. A namespace goes with its only process,
and that with this one, because its input ends: so nothing stays mounted however a test, or its whole run, ends.
"""

import json
import shlex
import subprocess
from pathlib import Path

import pytest
from helpers import line_of
from kernels import KERNELS
from path_corpus import canary
from staging_rig import begin, deploy, names, on

from hostd.shell.deploys.staging import Staging
from hostd.shell.repository.directory import ModelsDirectory
from hostd_workers.wire.errors import FailedPreconditionError, HostError, ResourceExhaustedError

MIB = 1 << 20
SMALL = ("mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=40", "hostd")
REAPER = 'echo ready; while read -r line; do eval "$line" >&2 && echo done || echo failed; done'


class Mounts:
    """A mount namespace: `do` runs a command in it, `seen` says where a path of it is found from here."""

    def __init__(self, process):
        self._process = process

    def do(self, *command):
        self._process.stdin.write(shlex.join(map(str, command)) + "\n")
        self._process.stdin.flush()
        assert line_of(self._process) == "done", command

    def seen(self, path):
        return Path(f"/proc/{self._process.pid}/root{path}")


@pytest.fixture
def mounts():
    try:
        process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", REAPER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    except FileNotFoundError:
        pytest.skip("there is no unshare(1)")
    with process:
        try:
            if process.stdout.readline() != "ready\n":
                pytest.skip("needs the right to mount")
            yield Mounts(process)
        finally:
            process.kill()


@pytest.fixture
def small(mounts, tmp_path):
    """A file system of one MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounts.do(*SMALL, place)
    return mounts.seen(place)


def test_c30_too_big_for_the_disk_is_said_before_a_byte_is_sent(small, kernel):
    staging = on(small, kernel)
    with pytest.raises(ResourceExhaustedError, match=r"it has 2097152 bytes, and .* has room for 1048576"):
        staging.begin("m", [("a", 2 * MIB)], replace=False)
    assert names(small) == []


def test_c30_a_disk_that_fills_up_meanwhile_leaves_nothing(small, kernel):
    staging = on(small, kernel)
    deploy(staging, "old", {"model.yaml": b"x"})
    before = canary(small)
    upload = staging.begin("m", [("a", 1000), ("b", MIB // 2)], replace=False)
    upload.write(0, 0, bytes(1000))
    (small / "filler").write_bytes(bytes(800_000))
    with pytest.raises(ResourceExhaustedError, match="No space left on device"):
        upload.write(1, 0, b"x")
    upload.roll_back()
    (small / "filler").unlink()
    assert canary(small) == before
    deploy(staging)


@pytest.mark.parametrize("act", ["deploy", "undeploy"])
def test_c30_c31_a_read_only_disk_is_said_and_unchanged(mounts, small, tmp_path, kernel, act):
    staging = on(small, kernel)
    deploy(staging)
    before = canary(small)
    mounts.do("mount", "-o", "remount,ro", tmp_path / "small")
    try:
        with pytest.raises(FailedPreconditionError):
            begin(staging, "new") if act == "deploy" else staging.remove("m")
    finally:
        mounts.do("mount", "-o", "remount,rw", tmp_path / "small")
    assert canary(small) == before


def test_c31_another_file_system_at_a_models_place_is_not_taken_for_its_tree(small, kernel):
    """Inode numbers are unique on one file system only."""
    models = small.parent
    entry = models / ".hostd-staging" / "0123456789abcdef.json"
    entry.parent.mkdir()
    header = {"state": 0, "operation": "deploy", "model_id": small.name}
    notes = {"tree": small.stat().st_ino, "first_made": 0}
    entry.write_text(f"{json.dumps(header)}\n{json.dumps(notes)}\n")
    assert on(models, kernel).recover() == ["undid the interrupted deploy of 'small'"]
    assert names(models) == ["small"]


@pytest.mark.parametrize(("kind", "kernel"), [("other", "new"), ("other", "old"), ("same", "new")])
@pytest.mark.parametrize("where", ["m", "m/deep/data"])
def test_c31_what_is_mounted_in_a_model_is_neither_moved_nor_emptied(mounts, models, tmp_path, kernel, kind, where):
    """A volume, say; if it is on the same file system only openat2(2) can know."""
    (models / where).mkdir(parents=True)
    (models / "m" / "model.yaml").write_text("")
    (tmp_path / "volume").mkdir()
    mounts.do(*(SMALL if kind == "other" else ("mount", "--bind", tmp_path / "volume")), models / where)
    seen = mounts.seen(models)
    (seen / where / "precious").write_text("x")
    before = canary(seen)
    staging = Staging(ModelsDirectory(seen, calls=KERNELS[kernel]()))
    for act in (lambda: staging.check("m"), lambda: staging.remove("m"), lambda: begin(staging, replace=True)):
        with pytest.raises(FailedPreconditionError, match=f"something is mounted at '{where}'"):
            act()
    assert canary(seen) == before


def test_c31_what_is_mounted_during_an_undeploy_is_not_emptied(mounts, models, kernel):
    (models / "m" / "deep" / "data").mkdir(parents=True)
    (models / "m" / "model.yaml").write_text("")
    seen = mounts.seen(models)
    removal = on(seen, kernel).remove("m")
    removal.confirm()
    (place,) = models.glob(".hostd-staging/*/deep/data")
    mounts.do(*SMALL, place)
    (mounts.seen(place) / "precious").write_text("x")
    with pytest.raises(HostError, match="Invalid cross-device link"):
        removal.clean()
    assert (mounts.seen(place) / "precious").read_text() == "x"
    mounts.do("umount", place)
    removal.clean()
    assert names(models) == []


def test_c30_a_folder_that_is_mounted_is_refused_before_a_byte_is_sent(mounts, models, kernel):
    """A rename cannot lead there from the staging area."""
    (models / "team").mkdir()
    mounts.do(*SMALL, models / "team")
    staging = on(mounts.seen(models), kernel)
    with pytest.raises(FailedPreconditionError, match="something is mounted at 'team'"):
        begin(staging, "team/m")
    assert names(models) == ["team"]
