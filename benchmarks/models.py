"""The models that the benchmarks host, written into a directory of the run."""

from __future__ import annotations

import importlib.util
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

GIB = 1 << 30
DIGITS_FEATURES = 64

ECHO = '''"""Gives back what it gets."""


class Echo:
    def echo(self, x):
        return x

    def size_of(self, x):
        return getattr(x, "nbytes", None) or len(x)


def load(path, **options):
    return Echo()
'''

# Written, not only reserved: untouched pages would cost neither the load nor the unload anything.
HOLDER = '''"""Holds memory."""


class Holder:
    def __init__(self):
        self.memory = bytearray(b"\\x01") * {size_bytes}

    def size(self):
        return len(self.memory)


def load(path, **options):
    return Holder()
'''


PARENT = '''"""Has a helper, and a daemonised one, as models with worker pools do."""

import subprocess
import sys

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(3600)"]
DAEMONISE = "import os, subprocess; os.setsid(); subprocess.Popen(%r)"


class Parent:
    def __init__(self):
        self.helper = subprocess.Popen(SLEEP)
        subprocess.run([sys.executable, "-S", "-c", DAEMONISE % (SLEEP,)], check=True)

    def echo(self, x):
        return x


def load(path, **options):
    return Parent()
'''


@contextmanager
def model_directory() -> Iterator[Path]:
    """Make a directory for the models of a run."""
    with tempfile.TemporaryDirectory(prefix="hb-models-") as name:
        yield Path(name)


def write_echo(directory: Path) -> Path:
    """Write the echo model; returns its directory."""
    return _write(directory / "echo", ECHO)


def write_parent(directory: Path) -> Path:
    """Write the model that has helper processes; returns its directory."""
    return _write(directory / "parent", PARENT)


def write_holder(directory: Path, size_bytes: int) -> Path:
    """Write a model that holds `size_bytes` of private memory; returns its directory."""
    return _write(directory / f"holder-{size_bytes}", HOLDER.format(size_bytes=size_bytes))


def write_digits(directory: Path) -> Path:
    """Train and save scikit-learn's digits logistic regression; returns the path of its `.joblib` file."""
    import joblib  # noqa: PLC0415 - only one command needs scikit-learn
    from sklearn.datasets import load_digits  # noqa: PLC0415
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    images, labels = load_digits(return_X_y=True)
    model = LogisticRegression(max_iter=200).fit(images / 16.0, labels)
    path = directory / "digits.joblib"
    joblib.dump(model, path)
    return path


def digits_row() -> Any:
    """Return an image of a digit, as the digits model takes it: an array of one row."""
    import numpy as np  # noqa: PLC0415 - as above

    return np.random.default_rng(0).integers(0, 17, (1, DIGITS_FEATURES)) / 16.0


def import_echo() -> Any:
    """Return the echo model, loaded in this process from the same source."""
    with model_directory() as directory:
        spec = importlib.util.spec_from_file_location("echo_model", write_echo(directory) / "model.py")
        if spec is None or spec.loader is None:
            raise ImportError("the echo model cannot be imported from its file")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.load(None)


def _write(directory: Path, source: str) -> Path:
    directory.mkdir(parents=True)
    (directory / "model.py").write_text(source)
    return directory
