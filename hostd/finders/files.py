"""Recognising a model by its files: by their names, and where a name says too little by a file's first bytes.

Covers which loader fits. What fits none or several is not guessed: it has to be said in a `model.yaml`.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from hostd.config.spec import NAME as SETTINGS
from hostd.config.spec import ModelSpec
from hostd.finders.hub import refuse_hub_directory
from hostd.finders.protocol import looking_at
from hostd_workers.wire.errors import InvalidArgumentError
from hostd_workers.wire.light import pattern

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = "model.py"
MLFLOW = "MLmodel"
LOADER_BY_SUFFIX = {
    ".joblib": "sklearn",
    ".pkl": "sklearn",
    ".pickle": "sklearn",
    ".skops": "sklearn",
    ".onnx": "onnx",
    ".pt": "torch",
    ".pth": "torch",
    ".pt2": "torch",
    ".ts": "torch",
    ".torchscript": "torch",
    ".ubj": "xgboost",
    ".xgb": "xgboost",
    ".lgb": "lightgbm",
    ".lightgbm": "lightgbm",
}
"""No .json and no .bin: half of all tools write these."""

_LIGHTGBM_TEXT = "model.txt"
_LIGHTGBM_HEAD = pattern(rb"tree\r?\n")  # the first line that LightGBM writes (GBDT::SaveModelToString)

_TRANSFORMERS = "config.json"
# What `save_pretrained` of a model or of a tokenizer writes beside it.
_PRETRAINED = pattern(
    r".*\.safetensors|pytorch_model.*\.bin|.*\.index\.json|tokenizer\.json|tokenizer_config\.json|tokenizer\.model"
)
# What transformers' Trainer keeps in a checkpoint to go on from; torch could read it, but it is no model.
_TRAINER_STATE = pattern(r"(optimizer|scheduler|scaler|rng_state.*)\.(pt|pth)")


class FilesFinder:
    """Recognises a `model.py`, a directory of transformers, or a model file by its suffix. The id does not matter."""

    looks_for = f"a {SOURCE}, a {_TRANSFORMERS} with weights, or a file *{', *'.join(LOADER_BY_SUFFIX)}"

    def find(self, model_id: str, path: str | None) -> ModelSpec | None:  # noqa: ARG002 - other finders know ids
        """Return the specification of the file or directory `path`; None if it has none of the files.

        Raises NotFoundError if nothing is at `path`, FailedPreconditionError if the host may not look at it, and
        InvalidArgumentError for a directory that could be two kinds of model, or is one of the hub's cache.
        """
        if not path:
            return None
        with looking_at(path):
            names = file_names(path)
            if names is not None:
                refuse_hub_directory(path)
                loader = _loader_of(Path(path).absolute(), names)
            elif stat.S_ISREG(mode_of(path)):
                loader = "python" if path.endswith(".py") else _loader_of_file(Path(path))
            else:
                return None
        return ModelSpec(loader) if loader else None


class MlflowFinder:
    """Recognises a directory that MLflow saved, by its `MLmodel`."""

    looks_for = f"an {MLFLOW}"

    def find(self, model_id: str, path: str | None) -> ModelSpec | None:  # noqa: ARG002 - as above
        """Return the specification of the directory `path`; None if it has no `MLmodel`. Raises as `FilesFinder`."""
        if not path:
            return None
        with looking_at(path):
            return ModelSpec("mlflow") if MLFLOW in (file_names(path) or ()) else None


def mode_of(path: str) -> int:
    """Return the mode of what is at `path`; raises OSError, and ValueError for a null byte."""
    return os.stat(path).st_mode  # noqa: PTH116 - as PathLike a path with a null byte would read as absent


def file_names(path: str) -> list[str] | None:
    """Return the sorted names of the visible files in a directory, None if it is no directory; raises as `mode_of`."""
    if not stat.S_ISDIR(mode_of(path)):
        return None
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_file())


def _loader_of(directory: Path, names: list[str]) -> str | None:
    if SOURCE in names:
        return "python"
    found = {loader: name for name, loader in _candidates(directory, names)}
    if len(found) > 1:
        both = " and ".join(f"{name} ({loader})" for loader, name in found.items())
        raise InvalidArgumentError(f"{directory} has {both}: say which with 'loader' in a {SETTINGS}")
    return next(iter(found), None)


def _candidates(directory: Path, names: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the files that say which loader fits, with the loader."""
    is_pretrained = _TRANSFORMERS in names and any(map(_PRETRAINED.fullmatch, names))
    if is_pretrained:
        yield _TRANSFORMERS, "transformers"
    for name in names:
        if is_pretrained and _TRAINER_STATE.fullmatch(name):
            continue
        if loader := _loader_of_file(directory / name):
            yield name, loader


def _loader_of_file(file: Path) -> str | None:
    if file.name == _LIGHTGBM_TEXT:
        return "lightgbm" if _LIGHTGBM_HEAD.match(_head(file)) else None
    return LOADER_BY_SUFFIX.get(file.suffix.lower())


def _head(file: Path) -> bytes:
    # Not blocking: opening a FIFO, which may have come there since, waits for somebody to write.
    handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(handle, "rb", buffering=0) as stream:  # noqa: PTH123 - from a descriptor
        return stream.read(16) or b""
