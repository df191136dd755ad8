"""What a deploy and an undeploy do when the system says no: typed errors with its words, and nothing left.

Root may do anything, so what needs permission runs in a child that is another user. Full disks are in
`test_staging_disks`, and that any call may fail is in `test_staging_kills`.
"""

import ctypes
import errno
import functools
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
from helpers import REPOSITORY
from kernels import KERNELS
from staging_rig import FILES, deploy, names, on, tree

from hostd.shell.linux.syscalls import error_of
from hostd_workers.wire.errors import FailedPreconditionError, HostError, InvalidArgumentError, ResourceExhaustedError


@pytest.mark.parametrize(
    ("codes", "kind"),
    [
        ((errno.EACCES, errno.EPERM, errno.EROFS), FailedPreconditionError),
        ((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE), ResourceExhaustedError),
        ((errno.EIO, errno.ESTALE, errno.ENODEV, errno.EXDEV), HostError),
    ],
)
def test_c30_an_error_of_the_system_has_a_status_and_the_systems_words(codes, kind):
    for code in codes:
        error = error_of(OSError(code, os.strerror(code), "weights"), "cannot deploy 'm'")
        assert type(error) is kind
        assert error.message == f"cannot deploy 'm': {os.strerror(code)} [{errno.errorcode[code]}] ('weights')"
        assert error.details == {"errno": code}


PRELUDE = """
import os, sys
from pathlib import Path
from hostd.shell.repository.directory import ModelsDirectory
from hostd.shell.deploys.staging import Staging
from hostd_workers.wire.errors import *
from path_corpus import canary
from kernels import KERNELS
from staging_rig import finish

models = Path(sys.argv[2])
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

def refused(act, *words, look=canary):
    before = look(models)
    try:
        act()
    except FailedPreconditionError as error:
        assert all(word in error.message for word in words), error.message
        assert look(models) == before, "something changed"
    else:
        raise AssertionError("it was not refused")

def begin(model_id, replace=False):
    return staging.begin(model_id, [("a", 1)], replace=replace)

"""


@pytest.fixture(params=KERNELS)
def as_somebody(request):
    return functools.partial(_as_somebody, request.param)


def _as_somebody(kernel, source, *, needs_root=False):
    """Run this in a program that may become another user; it makes a models directory of its own."""
    if needs_root and os.geteuid() != 0:
        pytest.skip("only root can make files of other users")
    base = Path(tempfile.mkdtemp(prefix="hostd-t-"))  # not pytest's own directory: others may not enter that
    try:
        base.chmod(0o755)
        (base / "models").mkdir()
        done = subprocess.run(
            [sys.executable, "-c", PRELUDE + textwrap.dedent(source), kernel, str(base / "models")],
            env={**os.environ, "PYTHONPATH": f"{REPOSITORY}:{Path(__file__).parent}"},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    finally:
        subprocess.run(["chmod", "-R", "u+rwx", base], check=True)
        subprocess.run(["rm", "-r", base], check=True)


def test_c30_without_write_permission_a_deploy_is_refused_at_once(as_somebody):
    as_somebody("""
        (models / "team").mkdir()
        os.chmod(models / "team", 0o555)
        os.chmod(models, 0o555)
        become_nobody()
        refused(lambda: begin("m"), "may not write", "mode")
        refused(lambda: begin("team/m"), "may not write")
    """)


def test_c30_a_folder_without_permission_is_refused_before_the_upload(as_somebody):
    as_somebody("""
        for name, mode in (("closed", 0o555), ("dark", 0o000)):
            (models / name).mkdir()
            os.chmod(models / name, mode)
        os.chmod(models, 0o777)
        become_nobody()
        refused(lambda: begin("closed/m"), "may not write")
        for act in (lambda: begin("dark/m"), lambda: staging.remove("dark/m"), lambda: staging.check("dark/m"),
                    lambda: staging.remove("dark"), lambda: ModelsDirectory(models).locate("dark/m"),
                    lambda: ModelsDirectory(models).locate("dark")):
            refused(act, look=os.listdir)
    """)


def test_c31_directories_that_their_owner_may_not_write_are_removed_and_come_back_as_they_were(as_somebody):
    as_somebody("""
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
        finish(staging.remove("team/m"))
        assert os.listdir(models) == []
    """)


def test_c31_what_another_user_protects_is_not_removed_in_part(as_somebody):
    as_somebody(
        needs_root=True,
        source="""
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
    )


def test_c30_c31_a_sticky_models_directory_keeps_others_models_and_that_is_said_before(as_somebody):
    """Before an undeploy unloads anything, and before a file of a replacement travels."""
    as_somebody(
        needs_root=True,
        source="""
        os.chmod(models, 0o1777)
        model("mine", owner=NOBODY)
        for name in ("m", "team/m"):
            model(name)
            os.chmod(models / name, 0o777)
            os.chmod(models / name / "sub", 0o777)
        (models / "file").write_text("x")
        os.chmod(models / "team", 0o1777)
        become_nobody()
        for name in ("m", "team/m", "file"):
            for act in (lambda: staging.check(name), lambda: staging.remove(name), lambda: begin(name, replace=True)):
                refused(act, "sticky")
        finish(staging.remove("mine"))
        assert sorted(os.listdir(models)) == ["file", "m", "team"]
    """,
    )


def test_a_file_system_that_folds_case_refuses_the_second_file(models, kernel):
    """None is at hand, so one file is made under the other's name, as such a file system would find it."""
    staging = on(models, kernel)
    upload = staging.begin("m", [("README", 1), ("readme", 1)], replace=False)
    upload.write(0, 0, b"x")
    (tree_dir,) = [path for path in (models / ".hostd-staging").iterdir() if path.is_dir()]
    (tree_dir / "README").rename(tree_dir / "readme")
    with pytest.raises(InvalidArgumentError, match="one file on this file system"):
        upload.write(1, 0, b"y")
    upload.roll_back()
    assert names(models) == []


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_that_cannot_reserve_or_flush_directories_is_written_without(models, kernel, monkeypatch, code):
    libc, real = kernel._libc, os.fsync
    calls = {"syscall": libc.syscall, "renameat2": libc.renameat2}
    kernel._libc = type("Libc", (), {"fallocate64": lambda *_: ctypes.set_errno(code) or -1, **calls})()

    def fsync(fd):
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            raise OSError(errno.EINVAL, "no such thing")
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    assert tree(deploy(on(models, kernel))) == FILES
