"""All services of the gRPC front: for each method the role that it needs, and what answers it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostd.fronts.access import Role
from hostd.fronts.grpc.serving import served
from hostd.fronts.models import Models
from hostd.fronts.oip.grpc.calls import Calls
from hostd.fronts.oip.grpc.control import Control, no_log_settings, no_trace
from hostd.fronts.oip.grpc.health import Health
from hostd.fronts.oip.grpc.memory import Memory, no_cuda
from hostd.fronts.oip.grpc.messages import HEALTH, INFERENCE, REFLECTION, rpcs_of
from hostd.fronts.oip.grpc.reflection import V1, reflect
from hostd.fronts.oip.inference import Inference
from hostd.fronts.oip.service import Service
from hostd.fronts.oip.shm import Regions

if TYPE_CHECKING:
    from hostd import AsyncClient
    from hostd.fronts.bodies import Bodies
    from hostd.fronts.grpc.serving import Handler, Methods


def methods(client: AsyncClient, max_body_bytes: int, bodies: Bodies) -> Methods:
    """Return what a server serves for a client's host; for one event loop.

    A request reads at most `max_body_bytes` of shared memory; what is taken of a stream of messages counts in `bodies`.
    """
    models = Models(client)
    regions = Regions(max_body_bytes)
    service = Service(client, models)
    health = Health(service)
    of_health: dict[str, tuple[Role, Handler]] = {
        "Check": (Role.NONE, health.check),
        "Watch": (Role.NONE, health.watch),
    }
    of_reflection: dict[str, tuple[Role, Handler]] = {"ServerReflectionInfo": (Role.NONE, reflect)}
    inference = _of_inference(Calls(Inference(client, models), regions, bodies), Control(service), Memory(regions))
    found = served(INFERENCE, rpcs_of(INFERENCE), inference) | served(HEALTH, rpcs_of(HEALTH), of_health)
    for name in (REFLECTION, V1):
        found |= served(name, rpcs_of(REFLECTION), of_reflection)
    return found


def _of_inference(calls: Calls, control: Control, memory: Memory) -> dict[str, tuple[Role, Handler]]:
    return {
        "ServerLive": (Role.NONE, control.live),
        "ServerReady": (Role.NONE, control.ready),
        "ServerMetadata": (Role.NONE, control.metadata),
        "ModelReady": (Role.READ, control.model_ready),
        "ModelMetadata": (Role.READ, control.model_metadata),
        "ModelConfig": (Role.READ, control.model_config),
        "ModelStatistics": (Role.READ, control.statistics),
        "ModelInfer": (Role.CALL, calls.infer),
        "ModelStreamInfer": (Role.CALL, calls.stream),
        "RepositoryIndex": (Role.READ, control.index),
        "RepositoryModelLoad": (Role.LOAD, control.load),
        "RepositoryModelUnload": (Role.LOAD, control.unload),
        "SystemSharedMemoryStatus": (Role.LOAD, memory.status),
        "SystemSharedMemoryRegister": (Role.LOAD, memory.register),
        "SystemSharedMemoryUnregister": (Role.LOAD, memory.unregister),
        "CudaSharedMemoryStatus": (Role.NONE, no_cuda),
        "CudaSharedMemoryRegister": (Role.NONE, no_cuda),
        "CudaSharedMemoryUnregister": (Role.NONE, no_cuda),
        "TraceSetting": (Role.NONE, no_trace),
        "LogSettings": (Role.NONE, no_log_settings),
    }
