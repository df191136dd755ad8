"""The demo's models: trained, saved, and called in process for comparison.

Imports scikit-learn, so it is imported only once the demo knows that it is there.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib  # type: ignore[import-untyped]
import numpy as np
from sklearn import datasets  # type: ignore[import-untyped]
from sklearn.ensemble import RandomForestClassifier  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]
from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from numpy.typing import NDArray

TABLE_MIB = 320
_SEED = 0
_WORD = re.compile(r"(?<!\S)[A-Za-z][a-z'-]*[.,]?(?!\S)")
_TREES = 200
_ONNX_LIBRARIES = ("onnxruntime", "skl2onnx")

Labels = Callable[["NDArray[Any]"], "NDArray[Any]"]


@dataclass(frozen=True)
class Digits:
    """Scanned digits, 64 pixels each: those to learn from and those held out."""

    learn: NDArray[Any]
    learn_labels: NDArray[Any]
    held_out: NDArray[Any]
    held_out_labels: NDArray[Any]


@dataclass(frozen=True)
class Classifier:
    """A digits model on disk.

    `in_process` loads the file into this process and returns what predicts with it; `labels` picks the labels out of
    what the hosted model answers. `dtype` is what the model takes.
    """

    id: str
    path: Path
    title: str
    in_process: Callable[[], Labels]
    labels: Callable[[Any], NDArray[Any]] = np.asarray
    dtype: str = "float64"


def digits() -> Digits:
    """Return the digits data set that comes with scikit-learn, a quarter of it held out."""
    data = datasets.load_digits()
    parts = train_test_split(data.data, data.target, test_size=0.25, random_state=_SEED, stratify=data.target)
    learn, held_out, learn_labels, held_out_labels = parts
    return Digits(learn, learn_labels, held_out, held_out_labels)


def train(folder: Path, data: Digits) -> list[Classifier]:
    """Train and save the classifiers below `folder`; the one in ONNX only where its libraries are."""
    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    forest = RandomForestClassifier(_TREES, random_state=_SEED)
    made = [
        _saved(folder / "regression", regression.fit(data.learn, data.learn_labels), "logistic regression"),
        _saved(folder / "forest", forest.fit(data.learn, data.learn_labels), f"random forest, {_TREES} trees"),
    ]
    if not missing_for_onnx():
        made.append(_exported(folder / "regression-onnx", regression, data))
    return made


def missing_for_onnx() -> list[str]:
    """Return the libraries that an ONNX export would need and that are not here."""
    return [library for library in _ONNX_LIBRARIES if importlib.util.find_spec(library) is None]


def write_babbler(folder: Path) -> Path:
    """Write the model that holds memory and streams: a `model.py`, what it learns from, and a `model.yaml`."""
    path = folder / "babbler"
    path.mkdir()
    shutil.copyfile(Path(__file__).with_name("babbler.py"), path / "model.py")
    learnt_from = (datasets.load_digits, datasets.load_iris, datasets.load_wine, datasets.load_breast_cancer)
    words = (word for load in learnt_from for word in _WORD.findall(str(load().DESCR)))
    (path / "corpus.txt").write_text(" ".join(words), "utf-8")
    (path / "model.yaml").write_text(f"loader: python\noptions:\n  table_mib: {TABLE_MIB}\n", "utf-8")
    return path


def _saved(path: Path, estimator: Any, title: str) -> Classifier:
    path.mkdir()
    file = path / "model.joblib"
    joblib.dump(estimator, file)

    def in_process() -> Labels:
        predict: Labels = joblib.load(file).predict
        return predict

    return Classifier(path.name, path, title, in_process)


def _exported(path: Path, estimator: Any, data: Digits) -> Classifier:
    from skl2onnx import to_onnx  # type: ignore[import-untyped]  # noqa: PLC0415 - only where it is installed

    path.mkdir()
    file = path / "model.onnx"
    # Without ZipMap the probabilities are one array, not a map per digit.
    exported = to_onnx(estimator, data.learn[:1].astype(np.float32), options={"zipmap": False})
    file.write_bytes(exported.SerializeToString())

    def in_process() -> Labels:
        import onnxruntime  # type: ignore[import-untyped]  # noqa: PLC0415 - as above

        session = onnxruntime.InferenceSession(str(file))
        (name,) = (port.name for port in session.get_inputs())
        return lambda pixels: np.asarray(session.run(["label"], {name: pixels})[0])

    return Classifier(
        path.name,
        path,
        "the same regression, in ONNX",
        in_process,
        labels=lambda answer: np.asarray(answer["label"]),
        dtype="float32",
    )
