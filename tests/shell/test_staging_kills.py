"""Deploys, replacements and undeploys of which each call is killed, or fails, once; recoveries that are killed too."""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from helpers import REPOSITORY
from kernels import KERNELS
from kill_points import SCENARIOS
from path_corpus import canary
from staging_rig import ENDLESS, FILES, deploy, on, sizes, undeploy

from hostd.shell.deploys.staging import Staging
from hostd.shell.repository.directory import ModelsDirectory
from hostd_workers.wire.errors import HostError, ResourceExhaustedError

PROGRAM = Path(__file__).with_name("kill_points.py")
FAST = "/dev/shm"
"""Where an fsync costs nothing: order is what is tested here, and thousands of them are made."""

TIMEOUT_S = 300


@pytest.fixture
def place(tmp_path):
    if not os.access(FAST, os.W_OK):
        yield tmp_path
        return
    directory = tempfile.mkdtemp(prefix="hostd-t-", dir=FAST)
    yield Path(directory)
    subprocess.run(["chmod", "-R", "u+rwx", directory], check=True)
    shutil.rmtree(directory)


def kill_points(place, scenario, kernel, *options):
    done = subprocess.run(
        [sys.executable, str(PROGRAM), scenario, kernel, str(place), *options],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_c30_c31_killed_at_any_call_it_is_done_wholly_or_not_at_all(place, scenario, kernel):
    assert kill_points(place, scenario, kernel) >= 30


@pytest.mark.heavy
@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize(
    ("scenario", "kernel"),
    [("deploy", "new"), ("undeploy", "new"), ("replace a closed model", "old"), ("replace, rolled back", "new")],
)
def test_c30_c31_a_recovery_may_be_killed_at_any_call_too(place, scenario, kernel):
    """At one of three calls, each kill before at others; all of them are `kill_points.py SCENARIO KERNEL DIR --recovery`."""
    assert kill_points(place, scenario, kernel, "--recovery", "3") >= 40


class Attempt:
    """An operation of which one call fails: the one with this number."""

    def __init__(self, models, kernel, point, code):
        self.left, self.code = point, code
        self.failed = None
        self.operation = None
        self.error = None
        self.is_confirmed = False
        self.staging = on(models, kernel, self.fail)

    def fail(self, name, arguments):
        self.left -= 1
        if self.left == -1:
            self.failed = name
            raise OSError(self.code, os.strerror(self.code))

    def go(self, act):
        try:
            if act == "undeploy":
                self.operation = self.staging.remove("team/m")
            else:
                self.operation = self.staging.begin("team/m", sizes(FILES), replace=act == "replace")
                for index, content in enumerate(FILES.values()):
                    self.operation.write(index, 0, content)
                self.operation.install()
            self.operation.confirm()
            self.is_confirmed = True
            self.operation.clean()
        except HostError as error:
            self.error = error

    def end(self):
        """Do what a host does after an error; an area that stays empty is no error, and is removed by the next."""
        if self.error is not None and self.is_confirmed:
            self.operation.clean()
        elif self.error is not None and self.operation is not None:
            self.operation.roll_back()
        if self.failed == "rmdir":
            self.staging.recover()


@pytest.mark.parametrize(("code", "kind"), [(errno.EIO, HostError), (errno.ENOSPC, ResourceExhaustedError)])
@pytest.mark.parametrize("act", ["deploy", "replace", "undeploy"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_c30_c31_whichever_call_fails_the_error_is_typed_and_nothing_is_left(tmp_path, kernel, act, code, kind):
    models = tmp_path / "models"
    models.mkdir()
    sound = Staging(ModelsDirectory(models))
    old = {"model.yaml": b"old", "x/y": b""}
    if act != "deploy":
        deploy(sound, "team/m", old)
    before = canary(models)
    for point in range(ENDLESS):
        attempt = Attempt(models, KERNELS[kernel](), point, code)
        attempt.go(act)
        if attempt.error is not None:
            assert os.strerror(code) in attempt.error.message
            assert type(attempt.error) is kind
        attempt.end()
        what = f"call {point} failed: {attempt.failed}"
        assert not list(models.glob(".*")), f"left something when {what}"
        if attempt.failed is None:
            break
        if attempt.is_confirmed:
            assert canary(models) != before, f"was undone although it was confirmed when {what}"
            undeploy(sound, "team/m") if act == "deploy" else deploy(sound, "team/m", old, replace=True)
        assert canary(models) == before, f"changed something when {what}"
    assert point > 30
