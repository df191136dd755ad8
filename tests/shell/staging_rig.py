"""What tests of deploys on the disk share: files to deploy, whole deploys and undeploys, and looking at what is there."""

import os

from kernels import Watched

from hostd.shell.deploys.staging import Staging
from hostd.shell.repository.directory import ModelsDirectory

FILES = {"model.yaml": b"loader: python\n", "weights/0.bin": b"\1" * 70_000, "weights/deep/1.bin": b"", ".dot": b"2"}


def sizes(files):
    return [(name, len(content)) for name, content in files.items()]


def begin(staging, model_id="m", files=None, *, replace=False):
    """Begin a deploy and write all of it; it is not installed."""
    files = FILES if files is None else files
    upload = staging.begin(model_id, sizes(files), replace=replace)
    for index, content in enumerate(files.values()):
        upload.write(index, 0, content)
    return upload


def installed(staging, model_id="m", files=None, *, replace=False):
    upload = begin(staging, model_id, files, replace=replace)
    upload.install()
    return upload


def finish(operation):
    operation.confirm()
    operation.clean()


def deploy(staging, model_id="m", files=None, *, replace=False):
    upload = begin(staging, model_id, files, replace=replace)
    place = upload.install()
    finish(upload)
    return place


def undeploy(staging, model_id="m"):
    finish(staging.remove(model_id))


def on(models, kernel, before=None):
    """Return a staging area on a kernel, and have a test hear of each call before."""
    return Staging(ModelsDirectory(models, calls=kernel if before is None else Watched(kernel, before)))


class Fails(set[str]):
    """Names of system calls that fail."""

    def __call__(self, name, _):
        if name in self:
            raise OSError(5, "Input/output error")


OLD = {"model.yaml": b"old"}
ENDLESS = 10_000


def tree(directory):
    """Return the contents of all files below a directory, by name."""
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }


def names(directory):
    return sorted(os.listdir(directory))
