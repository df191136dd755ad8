"""What tests of deploys on the disk share: files to deploy, whole deploys and undeploys, and looking at what is there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from kernels import Watched

from hostd.shell.deploys.staging import Staging
from hostd.shell.repository.directory import ModelsDirectory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hostd.shell.deploys.staging import Removal, Upload
    from hostd.shell.linux.syscalls import SystemCalls

FILES = {"model.yaml": b"loader: python\n", "weights/0.bin": b"\1" * 70_000, "weights/deep/1.bin": b"", ".dot": b"2"}


def sizes(files: dict[str, bytes]) -> list[tuple[str, int]]:
    return [(name, len(content)) for name, content in files.items()]


def begin(
    staging: Staging, model_id: str = "m", files: dict[str, bytes] | None = None, *, replace: bool = False
) -> Upload:
    """Begin a deploy and write all of it; it is not installed."""
    files = FILES if files is None else files
    upload = staging.begin(model_id, sizes(files), replace=replace)
    for index, content in enumerate(files.values()):
        upload.write(index, 0, content)
    return upload


def installed(
    staging: Staging, model_id: str = "m", files: dict[str, bytes] | None = None, *, replace: bool = False
) -> Upload:
    upload = begin(staging, model_id, files, replace=replace)
    upload.install()
    return upload


def finish(operation: Upload | Removal) -> None:
    operation.confirm()
    operation.clean()


def deploy(
    staging: Staging, model_id: str = "m", files: dict[str, bytes] | None = None, *, replace: bool = False
) -> Path:
    upload = begin(staging, model_id, files, replace=replace)
    place = upload.install()
    finish(upload)
    return place


def undeploy(staging: Staging, model_id: str = "m") -> None:
    finish(staging.remove(model_id))


def on(models: Path, kernel: SystemCalls, before: Callable[[str, tuple[Any, ...]], object] | None = None) -> Staging:
    """Return a staging area on a kernel, of each of whose calls a test hears before."""
    return Staging(ModelsDirectory(models, calls=kernel if before is None else Watched(kernel, before)))


class Fails(set[str]):
    """Names of system calls that fail."""

    def __call__(self, name: str, _: object) -> None:
        if name in self:
            raise OSError(5, "Input/output error")


OLD = {"model.yaml": b"old"}
ENDLESS = 10_000


def tree(directory: Path) -> dict[str, bytes]:
    """Return the contents of all files below a directory, by name."""
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))
