"""What a deploy and an undeploy do when the system says no: typed errors with its words, and nothing left.

Root may do anything, so what needs permission runs in a child that is another user; what needs a full or a read-only
disk uses a limit of the process, and a small file system where one can be mounted. That any call may fail is in
`test_staging_faults`.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from helpers import REPOSITORY
from kernels import KERNELS
from path_corpus import canary
from staging_rig import FILES, begin, deploy, names, tree

from hostd.shell.directory import ModelsDirectory
from hostd.shell.staging import Staging
from workers.wire.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    ResourceExhaustedError,
)

MIB = 1 << 20
MS_RDONLY, MS_REMOUNT, MNT_DETACH = 1, 32, 2


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


# A full disk


@pytest.fixture
def small(tmp_path):
    """A file system of one MiB."""
    libc = ctypes.CDLL(None, use_errno=True)
    place = tmp_path / "small"
    place.mkdir()
    if libc.mount(b"hostd", bytes(place), b"tmpfs", 0, b"size=1m,nr_inodes=40") != 0:
        pytest.skip(f"cannot mount a small file system: {os.strerror(ctypes.get_errno())}")

    def remount(flags):
        assert libc.mount(b"hostd", bytes(place), b"tmpfs", MS_REMOUNT | flags, None) == 0

    yield place, remount
    assert libc.umount2(bytes(place), MNT_DETACH) == 0  # also if a test that failed has left something open


def test_c30_too_big_for_the_disk_is_said_before_a_byte_is_sent(small, kernel):
    place, _ = small
    staging = Staging(ModelsDirectory(place, calls=kernel))
    with pytest.raises(ResourceExhaustedError, match=r"it has 2097152 bytes, and .* has room for 1048576"):
        staging.begin("m", [("a", 2 * MIB)], replace=False)
    assert names(place) == []


def test_c30_a_disk_that_fills_up_meanwhile_leaves_nothing(small, kernel):
    place, _ = small
    staging = Staging(ModelsDirectory(place, calls=kernel))
    deploy(staging, "old", {"model.yaml": b"x"})
    before = canary(place)
    upload = staging.begin("m", [("a", 1000), ("b", MIB // 2)], replace=False)
    upload.write(0, 0, bytes(1000))
    (place / "filler").write_bytes(bytes(800_000))
    with pytest.raises(ResourceExhaustedError, match="No space left on device"):
        upload.write(1, 0, b"x")
    upload.roll_back()
    (place / "filler").unlink()
    assert canary(place) == before
    deploy(staging)


def test_c30_a_disk_without_room_for_another_name_leaves_nothing(small, kernel):
    place, _ = small
    staging = Staging(ModelsDirectory(place, calls=kernel))
    files = {f"{index}/{index}": b"" for index in range(40)} | {"model.yaml": b""}
    with pytest.raises(ResourceExhaustedError, match="No space left on device"):
        begin(staging, "m", files)
    assert names(place) == []


@pytest.mark.parametrize("act", ["deploy", "undeploy"])
def test_c30_c31_a_read_only_disk_is_said_and_unchanged(small, kernel, act):
    place, remount = small
    staging = Staging(ModelsDirectory(place, calls=kernel))
    deploy(staging)
    before = canary(place)
    remount(MS_RDONLY)
    try:
        with pytest.raises(FailedPreconditionError):
            begin(staging, "new") if act == "deploy" else staging.remove("m")
    finally:
        remount(0)
    assert canary(place) == before


def test_c30_a_file_that_may_not_be_so_big_leaves_nothing(staging, models):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    upload = staging.begin("m", [("a", 200_000), ("b", 10)], replace=False)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(ResourceExhaustedError, match="File too large"):
            upload.write(0, 0, bytes(200_000))
        upload.write(1, 0, bytes(10))
        with pytest.raises(FailedPreconditionError, match="lacks"):
            upload.install()
        upload.roll_back()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert names(models) == []


def test_c31_another_file_system_at_a_models_place_is_not_taken_for_its_tree(small, kernel):
    """Inode numbers are unique on one file system only."""
    place, _ = small
    models = place.parent
    entry = models / ".hostd-staging" / "0123456789abcdef.json"
    entry.parent.mkdir()
    header = {"state": 0, "operation": "deploy", "model_id": place.name}
    notes = {"tree": place.stat().st_ino, "first_made": 0}
    entry.write_text(f"{json.dumps(header)}\n{json.dumps(notes)}\n")
    assert Staging(ModelsDirectory(models, calls=kernel)).recover() == ["undid the interrupted deploy of 'small'"]
    assert names(models) == ["small"]


# Other users


PRELUDE = """
import os, sys, tempfile
from pathlib import Path
from hostd.shell.directory import ModelsDirectory
from hostd.shell.staging import Staging
from workers.wire.errors import *
from path_corpus import canary
from kernels import KERNELS

base = Path(tempfile.mkdtemp(prefix="hostd-t-"))
base.chmod(0o755)
models = base / "models"
models.mkdir()
staging = Staging(ModelsDirectory(models, calls=KERNELS[sys.argv[1]]()))
NOBODY = 65534

def model(model_id, owner=None):
    (models / model_id / "sub").mkdir(parents=True)
    for name in ("model.yaml", "sub/x"):
        (models / model_id / name).write_text("x")
    if owner is not None:
        for path in (models / model_id, *(models / model_id).rglob("*")):
            os.chown(path, owner, owner)

def become_nobody():
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)

def refused(act, *words):
    before = canary(models)
    try:
        act()
    except FailedPreconditionError as error:
        assert all(word in error.message for word in words), error.message
        assert canary(models) == before, "something changed"
    else:
        raise AssertionError("it was not refused")

def begin(model_id, replace=False):
    return staging.begin(model_id, [("a", 1)], replace=replace)

def undeploy(model_id):
    removal = staging.remove(model_id)
    removal.confirm()
    removal.clean()
"""


def as_somebody(kernel, source, *, needs_root=False):
    """Run this in a program that may become another user; it makes a models directory of its own."""
    if needs_root and os.geteuid() != 0:
        pytest.skip("only root can make files of other users")
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(source) + "\nprint(base)", kernel],
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}:{Path(__file__).parent}"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    base = done.stdout.strip()
    assert "hostd-t-" in base
    subprocess.run(["chmod", "-R", "u+rwx", base], check=True)
    subprocess.run(["rm", "-r", base], check=True)


@pytest.mark.parametrize("kernel", KERNELS)
def test_c30_without_write_permission_a_deploy_is_refused_at_once(kernel):
    as_somebody(
        kernel,
        """
        (models / "team").mkdir()
        os.chmod(models / "team", 0o555)
        os.chmod(models, 0o555)
        become_nobody()
        refused(lambda: begin("m"), "may not write", "mode")
        refused(lambda: begin("team/m"), "may not write")
        """,
    )


@pytest.mark.parametrize("kernel", KERNELS)
def test_c30_a_folder_without_permission_is_refused_before_the_upload(kernel):
    as_somebody(
        kernel,
        """
        for name, mode in (("closed", 0o555), ("dark", 0o000)):
            (models / name).mkdir()
            os.chmod(models / name, mode)
        os.chmod(models, 0o777)
        become_nobody()
        refused(lambda: begin("closed/m"), "may not write")
        for act in (lambda: begin("dark/m"), lambda: staging.remove("dark/m"), lambda: staging.check("dark/m"),
                    lambda: staging.remove("dark"), lambda: ModelsDirectory(models).locate("dark/m"),
                    lambda: ModelsDirectory(models).locate("dark")):
            before = os.listdir(models)
            try:
                act()
            except FailedPreconditionError as error:
                pass
            else:
                raise AssertionError("it was not refused")
            assert os.listdir(models) == before
        """,
    )


@pytest.mark.parametrize("kernel", KERNELS)
def test_c31_directories_that_their_owner_may_not_write_are_removed_and_come_back_as_they_were(kernel):
    as_somebody(
        kernel,
        """
        os.chmod(models, 0o777)
        become_nobody()
        (models / "team").mkdir()
        model("team/m")
        for name in ("team/m/sub", "team/m"):
            os.chmod(models / name, 0o555)
        before = canary(models)
        staging.remove("team/m").roll_back()
        assert canary(models) == before
        upload = begin("team/m", replace=True)
        upload.write(0, 0, b"x")
        upload.install()
        upload.roll_back()
        assert canary(models) == before
        os.chmod(models / "team/m/sub", 0o000)
        undeploy("team/m")
        assert os.listdir(models) == []
        """,
    )


@pytest.mark.parametrize("kernel", KERNELS)
def test_c31_what_another_user_protects_is_not_removed_in_part(kernel):
    as_somebody(
        kernel,
        """
        os.chmod(models, 0o777)
        model("m", owner=NOBODY)
        os.chown(models / "m" / "sub", 0, 0)
        model("theirs")
        os.chown(models / "theirs", NOBODY, NOBODY)
        model("sticky", owner=NOBODY)
        (models / "sticky" / "sub").chmod(0o1777)
        os.chown(models / "sticky" / "sub", 0, 0)
        os.chown(models / "sticky" / "sub" / "x", 0, 0)
        become_nobody()
        for name in ("m", "theirs"):
            refused(lambda: staging.remove(name), "belongs to another user")
            refused(lambda: staging.check(name), "belongs to another user")
            refused(lambda: begin(name, replace=True), "belongs to another user")
        refused(lambda: staging.remove("sticky"), "holds files of other users")
        """,
        needs_root=True,
    )


@pytest.mark.parametrize("kernel", KERNELS)
def test_c30_a_sticky_models_directory_keeps_others_models(kernel):
    as_somebody(
        kernel,
        """
        os.chmod(models, 0o1777)
        model("m")
        os.chmod(models / "m", 0o777)
        os.chmod(models / "m" / "sub", 0o777)
        become_nobody()
        refused(lambda: staging.remove("m"), "Operation not permitted")
        upload = begin("m", replace=True)
        upload.write(0, 0, b"x")
        try:
            upload.install()
        except FailedPreconditionError:
            upload.roll_back()
        else:
            raise AssertionError("it was replaced")
        assert os.listdir(models) == ["m"]
        """,
        needs_root=True,
    )


# Particular file systems


def test_a_file_system_that_folds_case_refuses_the_second_file(models, kernel):
    """None is at hand, so one file is made under the other's name, as such a file system would find it."""
    staging = Staging(ModelsDirectory(models, calls=kernel))
    upload = staging.begin("m", [("README", 1), ("readme", 1)], replace=False)
    upload.write(0, 0, b"x")
    (tree_dir,) = [path for path in (models / ".hostd-staging").iterdir() if path.is_dir()]
    (tree_dir / "README").rename(tree_dir / "readme")
    with pytest.raises(InvalidArgumentError, match="one file on this file system"):
        upload.write(1, 0, b"y")
    upload.roll_back()
    assert names(models) == []


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_that_cannot_reserve_is_written_without(models, kernel, code):
    kernel._libc = type(
        "Libc",
        (),
        {
            "fallocate64": lambda *_: ctypes.set_errno(code) or -1,
            "syscall": kernel._libc.syscall,
            "renameat2": kernel._libc.renameat2,
        },
    )()
    assert tree(deploy(Staging(ModelsDirectory(models, calls=kernel)))) == FILES


def test_a_file_system_without_fsync_of_directories_is_written_without(models, kernel, monkeypatch):
    real = os.fsync

    def fsync(fd):
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            raise OSError(errno.EINVAL, "no such thing")
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    assert tree(deploy(Staging(ModelsDirectory(models, calls=kernel)))) == FILES
