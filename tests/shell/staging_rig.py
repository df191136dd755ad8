"""What tests of deploys on the disk share: files to deploy, whole deploys and undeploys, and looking at what is there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from hostd.shell.deploys.staging import Staging, Upload

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


def deploy(
    staging: Staging, model_id: str = "m", files: dict[str, bytes] | None = None, *, replace: bool = False
) -> Path:
    upload = begin(staging, model_id, files, replace=replace)
    place = upload.install()
    upload.confirm()
    upload.clean()
    return place


def undeploy(staging: Staging, model_id: str = "m") -> None:
    removal = staging.remove(model_id)
    removal.confirm()
    removal.clean()


def tree(directory: Path) -> dict[str, bytes]:
    """Return the contents of all files below a directory, by name."""
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))
