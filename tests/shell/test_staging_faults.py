"""Each system call of a deploy, a replacement and an undeploy fails once: a typed error, and nothing is left."""

import errno
import os

import pytest
from kernels import KERNELS
from path_corpus import canary
from staging_rig import ENDLESS, FILES, deploy, on, sizes, undeploy

from hostd.shell.deploys.staging import Staging
from hostd.shell.repository.directory import ModelsDirectory
from hostd_workers.wire.errors import HostError, ResourceExhaustedError


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
