"""One model for each loader of the light extras and each kind of file that it takes: light_models.py DIRECTORY."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import joblib
import numpy as np
import skops.io
from skl2onnx import to_onnx
from sklearn.linear_model import LinearRegression

PYTHON = """
class Doubler:
    def predict(self, rows):
        return [[2 * value for value in row] for row in rows]


def load(path):
    return Doubler()
"""
ROW = [[3.0, 4.0]]


def main(base: Path) -> None:
    """Write the models, and beside each the input of a call."""
    rows = np.array([[0, 0], [1, 0], [0, 1]], dtype=np.float32)
    fitted = LinearRegression().fit(rows, rows.sum(axis=1))
    content = {
        "python/model.py": PYTHON.encode(),
        "sklearn-pickle/model.pkl": pickle.dumps(fitted),
        "onnx/model.onnx": to_onnx(fitted, rows[:1]).SerializeToString(),
    }
    for name, data in content.items():
        _place(base, name).write_bytes(data)
    joblib.dump(fitted, _place(base, "sklearn-joblib/model.joblib"))
    skops.io.dump(fitted, _place(base, "sklearn-skops/model.skops"))
    (base / "calls.json").write_text(json.dumps({folder.name: ROW for folder in base.iterdir()}), "utf-8")


def _place(base: Path, name: str) -> Path:
    (base / name).parent.mkdir(parents=True)
    return base / name


if __name__ == "__main__":
    main(Path(sys.argv[1]))
