"""What all loaders do alike, whether or not their libraries are there: paths, missing libraries, threads."""

import os
import sys

import pytest

from hostd_workers.api import MissingDependencyError
from hostd_workers.plugins import load_with
from hostd_workers.wire.errors import InvalidArgumentError, NotFoundError

FILES = {
    "sklearn": "m.joblib",
    "onnx": "m.onnx",
    "torch": "m.pt",
    "xgboost": "m.json",
    "lightgbm": "m.txt",
    "mlflow": "MLmodel",
    "transformers": "config.json",
}


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """Some loaders set variables for the whole process, which is a worker's right, not a test's."""
    monkeypatch.setattr(os, "environ", os.environ.copy())


@pytest.mark.parametrize("loader", [*FILES, "python"])
def test_what_is_not_there_is_a_typed_error(tmp_path, loader):
    with pytest.raises(NotFoundError, match="absent"):
        load_with(loader, str(tmp_path / "absent"), {})
    with pytest.raises(InvalidArgumentError, match="there is no "):
        load_with(loader, str(tmp_path), {})
    with pytest.raises(InvalidArgumentError, match="no path"):
        load_with(loader, None, {})


LIBRARIES = {
    "sklearn": ["sklearn", "joblib"],
    "onnx": ["onnxruntime"],
    "torch": ["torch"],
    "xgboost": ["xgboost"],
    "lightgbm": ["lightgbm"],
    "mlflow": ["pandas", "mlflow"],
    "transformers": ["torch"],
}


@pytest.mark.parametrize(("loader", "library"), [(loader, one) for loader in FILES for one in LIBRARIES[loader]])
def test_a_missing_library_names_the_extra_that_brings_it(tmp_path, monkeypatch, loader, library):
    (tmp_path / FILES[loader]).write_bytes(b"this is no model")
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, "mlflow.pyfunc", raising=False)
    extra = "learn" if loader == "sklearn" else loader
    with pytest.raises(MissingDependencyError, match=rf"'{library}[.'].*install it with.*{extra}"):
        load_with(loader, str(tmp_path), {})


@pytest.mark.parametrize("threads", [0, -1, "2", True, 1.5])
@pytest.mark.parametrize("loader", ["torch", "xgboost", "lightgbm", "transformers"])
def test_threads_must_be_a_number(tmp_path, loader, threads):
    (tmp_path / FILES[loader]).write_bytes(b"this is no model")
    with pytest.raises(InvalidArgumentError, match="threads must be a number from 1 on"):
        load_with(loader, str(tmp_path), {"threads": threads})
