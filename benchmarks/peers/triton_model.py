"""The digits model in Triton's Python backend, which names this file `model.py` and the class `TritonPythonModel`.

The backend's interpreter ignores PYTHONPATH, and with that the packages of Triton's environment. They must come first:
with another NumPy beside those packages answers are empty.
"""

import json
import os
import sys
from typing import Any

sys.path.insert(0, os.environ["PYTHONPATH"])

import joblib
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """One instance, no batching."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model."""
        self.model = joblib.load(json.loads(args["model_config"])["parameters"]["file"]["string_value"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Call the model."""
        inputs = [pb_utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        outputs = [pb_utils.Tensor("y", self.model.predict(rows)) for rows in inputs]
        return [pb_utils.InferenceResponse([output]) for output in outputs]
