"""The digits model in LitServe: `python -m benchmarks.peers.litserve_app MODEL_FILE PORT`."""

import sys
from typing import Any

import joblib
import litserve
import numpy as np


class Digits(litserve.LitAPI):
    """One worker, no batching."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe's signature
        """Load the model."""
        self.model = joblib.load(sys.argv[1])

    def decode_request(self, request: dict[str, Any]) -> Any:
        """Make the array."""
        return np.asarray(request["x"])

    def predict(self, x: Any) -> Any:
        """Call the model."""
        return self.model.predict(x)

    def encode_response(self, output: Any) -> dict[str, Any]:
        """Make what JSON can say."""
        return {"y": output.tolist()}


if __name__ == "__main__":
    litserve.LitServer(Digits(), accelerator="cpu", workers_per_device=1).run(
        host="127.0.0.1",
        port=int(sys.argv[2]),
        num_api_servers=1,
        log_level="warning",
        access_log=False,
        generate_client_file=False,
    )
