"""Finders: from a model's id and path to what its worker has to load, and how.

Covers the built-in finder (`model.yaml`, then the files themselves) and the table of finders by name. Looks at
names and at one small file; it never imports or runs anything of the model's. The keys of `model.yaml` are in
`model_yaml`.
"""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hostd.model_yaml import NAME as SETTINGS
from hostd.model_yaml import ModelSpec, read_settings
from workers.wire.errors import FailedPreconditionError, HostError, InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DEFAULT_FINDER", "FINDERS", "FilesFinder", "Finder", "ModelSpec", "find_spec"]

DEFAULT_FINDER = "files"
SOURCE = "model.py"
LOADER_BY_SUFFIX = {
    ".joblib": "sklearn",
    ".pkl": "sklearn",
    ".pickle": "sklearn",
    ".skops": "sklearn",
    ".onnx": "onnx",
}
_MISSPELT = ("model.yml", "Model.yaml", "models.yaml")


class Finder(Protocol):
    """Recognises models. Called in a thread of the host for each load, so it may look at a disk, but must not hang."""

    @property
    def looks_for(self) -> str:
        """What it recognises, for the error that says it was not there."""
        ...

    def find(self, model_id: str, path: str | None) -> ModelSpec | None:
        """Return what to load, or None if this is nothing that it knows.

        Raises a `HostError` for a model that it knows and that is wrong.
        """
        ...


class FilesFinder:
    """Reads `model.yaml`, then recognises a `model.py` or a model file by its suffix. The id does not matter."""

    looks_for = f"a {SETTINGS}, a {SOURCE}, or a file *{', *'.join(LOADER_BY_SUFFIX)}"

    def find(self, model_id: str, path: str | None) -> ModelSpec | None:  # noqa: ARG002 - other finders know ids
        """Return the specification of the file or directory `path`; None if it has none of the files.

        Raises NotFoundError if nothing is at `path`, FailedPreconditionError if the host may not look at it, and
        InvalidArgumentError for a wrong `model.yaml` or a directory that could be two kinds of model.
        """
        if not path:
            return None
        try:
            mode = os.stat(path).st_mode  # noqa: PTH116 - as PathLike a path with a null byte would read as absent
            if not stat.S_ISDIR(mode):
                return _of_file(Path(path)) if stat.S_ISREG(mode) else None
            return _of_directory(Path(path).absolute())
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFoundError(f"there is nothing at {path}", details={"path": path}) from error
        except (OSError, ValueError) as error:
            kind: type[HostError] = FailedPreconditionError if isinstance(error, OSError) else InvalidArgumentError
            raise kind(f"cannot look at {path!r}: {error}", details={"path": path}) from error


def _of_file(file: Path) -> ModelSpec | None:
    loader = "python" if file.suffix == ".py" else LOADER_BY_SUFFIX.get(file.suffix.lower())
    return ModelSpec(loader) if loader else None


def _of_directory(directory: Path) -> ModelSpec | None:
    with os.scandir(directory) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_file())
    if SETTINGS not in names:
        if misspelt := [name for name in names if name in _MISSPELT]:
            raise InvalidArgumentError(f"{directory / misspelt[0]} is not read: rename it to {SETTINGS}")
        loader = _loader_of(directory, names)
        return ModelSpec(loader) if loader else None
    spec = read_settings(directory / SETTINGS)
    if spec.loader:
        return spec
    loader = _loader_of(directory, names)
    if loader is None:
        raise InvalidArgumentError(
            f"{directory / SETTINGS} names no loader, and no file beside it tells which; say it with 'loader'"
        )
    return replace(spec, loader=loader)


def _loader_of(directory: Path, names: list[str]) -> str | None:
    if SOURCE in names:
        return "python"
    found = {loader: name for name in names if (loader := LOADER_BY_SUFFIX.get(Path(name).suffix.lower()))}
    if len(found) > 1:
        both = " and ".join(f"{name} ({loader})" for loader, name in found.items())
        raise InvalidArgumentError(f"{directory} has {both}: say which with 'loader' in a {SETTINGS}")
    return next(iter(found), None)


FINDERS: dict[str, Finder] = {DEFAULT_FINDER: FilesFinder()}
"""The built-in finders by name."""


def find_spec(
    model_id: str, path: str | None, finder_name: str | None = None, *, finders: Mapping[str, Finder] = FINDERS
) -> ModelSpec:
    """Return what to load for a model, asked of the finder of that name (None: the default one).

    Blocks on the disk: call it in a thread. Raises InvalidArgumentError for an unknown finder and for a model that it
    does not recognise, and what the finder raises.
    """
    name = finder_name or DEFAULT_FINDER
    finder = finders.get(name)
    if finder is None:
        raise InvalidArgumentError(f"there is no finder {name!r}; known are {', '.join(sorted(finders))}")
    spec = finder.find(model_id, path)
    if spec is None:
        where = path or "no path"
        raise InvalidArgumentError(
            f"the finder {name!r} recognises no model {model_id!r} at {where}; it looks for {finder.looks_for}",
            details={"path": path, "finder": name},
        )
    return spec
