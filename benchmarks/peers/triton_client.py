"""Triton's own client over gRPC, which is told when to call: `python -m benchmarks.peers.triton_client PORT`.

It runs under the interpreter of the environment that Triton is installed in, or for the host under this one.
"""

import sys
from queue import SimpleQueue
from typing import Any

import numpy as np
from tritonclient import grpc

from benchmarks.callers import serve
from benchmarks.floors.lane import die_with_parent
from benchmarks.models import digits_row


class GrpcLane:
    """Calls of the digits model."""

    def __init__(self, port: int) -> None:
        self._client = grpc.InferenceServerClient(f"127.0.0.1:{port}")
        metadata = self._client.get_model_metadata("digits")
        (taken,), (given, *_) = metadata.inputs, metadata.outputs
        self._taken, self._given = taken.name, given.name
        self._row = digits_row()
        self._answers: SimpleQueue[tuple[Any, Any]] = SimpleQueue()

    def call(self) -> None:
        """Send one request and wait for its answer."""
        self._client.infer("digits", [self._input()]).as_numpy(self._given)

    def send(self) -> None:
        """Send one request."""
        self._client.async_infer("digits", [self._input()], lambda result, error: self._answers.put((result, error)))

    def receive(self) -> None:
        """Wait for an answer."""
        result, error = self._answers.get()
        if error is not None:
            raise error
        result.as_numpy(self._given)

    def _input(self) -> Any:
        tensor = grpc.InferInput(self._taken, list(self._row.shape), "FP64")
        tensor.set_data_from_numpy(np.ascontiguousarray(self._row))
        return tensor


if __name__ == "__main__":
    die_with_parent()
    serve(GrpcLane(int(sys.argv[1])))
