"""What the protocol tells of the server and its models: metadata, states, statistics.

What a record does not have is left out, and no number is invented: workers do not batch, and do not tell apart how long
inputs, the model and outputs took.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from hostd import NotFoundError, __version__
from hostd.fronts.datatypes import BYTES, DTYPES
from hostd.fronts.models import UNKNOWN
from hostd.records import SERVING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from hostd import MethodInfo, ModelInfo, TensorInfo

VERSION: Final = "1"
"""The version of every model: a host has one of each id, and the generation that it counts is of no use to a client."""

OF_HTTP: Final = (
    "binary_tensor_data",
    "generate",
    "model_repository",
    "parameters",
    "statistics",
    "system_shared_memory",
)
"""The extensions of the protocol that the HTTP front has."""

OF_GRPC: Final = ("model_configuration", "model_repository", "parameters", "statistics", "system_shared_memory")
"""And those of the gRPC front."""

_TYPE_OF_TEXT: Final = "TYPE_STRING"
"""What a configuration calls BYTES; all other datatypes it knows by their names."""

_STATES: Final[Mapping[str, str]] = MappingProxyType(
    {**dict.fromkeys(SERVING, "READY"), "LOADING": "LOADING", "UNLOADING": "UNLOADING"}
)
"""The words of Triton's repository; whatever else a host says is UNAVAILABLE, with the reason."""

_MILLISECONDS: Final = 1000


def check_version(model_id: str, version: str) -> None:
    """Raise `NotFoundError` for a version that no model has."""
    if version not in ("", VERSION):
        raise NotFoundError(
            f"{UNKNOWN}: '{model_id}' version {version} is not found: every model has version {VERSION}"
        )


def server_metadata(extensions: Sequence[str]) -> dict[str, Any]:
    """Return the metadata of a server with these extensions."""
    return {"name": "hostd", "version": __version__, "extensions": extensions}


def model_metadata(info: ModelInfo, method: MethodInfo | None) -> dict[str, Any]:
    """Return the metadata of a model, with what a method takes and returns; None for one that is not loaded."""
    return {
        "name": info.id,
        "versions": [VERSION],
        "platform": info.loader or info.type,
        "inputs": _tensors(method.inputs if method else ()),
        "outputs": _tensors(method.outputs if method else ()),
    }


def model_config(info: ModelInfo, method: MethodInfo | None) -> dict[str, Any]:
    """Return what Triton's configuration of a model would say of a method; it is never batched by the host."""
    platform = info.loader or info.type
    return {
        "name": info.id,
        "platform": platform,
        "backend": platform,
        "max_batch_size": 0,
        "input": [{**_configured(t), "optional": t.optional} for t in (method.inputs if method else ())],
        "output": [_configured(t) for t in (method.outputs if method else ())],
        "model_transaction_policy": {"decoupled": method is not None and method.streams},
    }


def model_statistics(info: ModelInfo) -> dict[str, Any]:
    """Return the statistics of a model; as Triton's they only grow, over its reloads and evictions too."""
    found: dict[str, Any] = {
        "name": info.id,
        "version": VERSION,
        "inference_count": info.succeeded,
        "execution_count": info.executions,
        "inference_stats": {
            "success": {"count": info.succeeded, "ns": info.success_ns},
            "fail": {"count": info.errors, "ns": info.fail_ns},
            "queue": {"count": info.executions, "ns": info.queue_ns},
            "compute_infer": {"count": info.executions, "ns": info.compute_ns},
        },
        "batch_stats": [],
    }
    if info.last_used_s is not None:
        found["last_inference"] = int(info.last_used_s * _MILLISECONDS)
    return found


def index_of(infos: Iterable[ModelInfo], *, only_ready: bool) -> list[dict[str, str]]:
    """Return the repository's index: each model with its state, and the reason where it is not ready."""
    entries = []
    for info in infos:
        state = _STATES.get(info.state, "UNAVAILABLE")
        if state == "READY" or not only_ready:
            reason = "" if state == "READY" else f"{info.state}: {info.reason}" if info.reason else info.state
            entries.append({"name": info.id, "version": VERSION, "state": state, "reason": reason})
    return entries


def _tensors(tensors: Iterable[TensorInfo]) -> list[dict[str, Any]]:
    return [{"name": t.name, "datatype": t.datatype, "shape": _shape(t.shape)} for t in tensors]


def _configured(tensor: TensorInfo) -> dict[str, Any]:
    known = f"TYPE_{tensor.datatype}" if tensor.datatype in DTYPES else "TYPE_INVALID"
    datatype = _TYPE_OF_TEXT if tensor.datatype == BYTES else known
    return {"name": tensor.name, "data_type": datatype, "dims": _shape(tensor.shape)}


def _shape(shape: tuple[int, ...] | None) -> list[int]:
    """Return a shape; [-1] for one that is not known, [1] for a single value, which the protocol does not have."""
    return [-1] if shape is None else list(shape) or [1]
