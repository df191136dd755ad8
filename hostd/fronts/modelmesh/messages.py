"""The messages of ModelMesh, in the pool of the gRPC fronts."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from hostd.fronts.oip.grpc.messages import add_messages, message

RUNTIME: Final = "mmesh.ModelRuntime"

add_messages(Path(__file__).parent)

LoadResponse: Final = message("mmesh.LoadModelResponse")
UnloadResponse: Final = message("mmesh.UnloadModelResponse")
PredictResponse: Final = message("mmesh.PredictModelSizeResponse")
SizeResponse: Final = message("mmesh.ModelSizeResponse")
StatusResponse: Final = message("mmesh.RuntimeStatusResponse")
