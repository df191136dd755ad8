"""The digits model in BentoML: `python -m bentoml serve benchmarks.peers.bentoml_app:Digits`; MODEL_FILE names it."""

import os

import bentoml
import joblib
import numpy as np


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Digits:
    """One worker, no batching."""

    def __init__(self) -> None:
        self.model = joblib.load(os.environ["MODEL_FILE"])

    @bentoml.api
    def predict(self, x: np.ndarray) -> np.ndarray:
        """Call the model."""
        return self.model.predict(x)
