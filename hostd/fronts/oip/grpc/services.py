"""All services of the gRPC front: for each method the role that it needs, and what answers it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostd.fronts.access import Role
from hostd.fronts.models import Models
from hostd.fronts.oip.grpc.calls import Calls
from hostd.fronts.oip.grpc.control import Control, no_log_settings, no_trace
from hostd.fronts.oip.grpc.health import Health
from hostd.fronts.oip.grpc.memory import Memory, no_cuda
from hostd.fronts.oip.grpc.messages import HEALTH, INFERENCE, REFLECTION, rpcs_of
from hostd.fronts.oip.grpc.reflection import V1, reflect
from hostd.fronts.oip.grpc.serving import served
from hostd.fronts.oip.inference import Inference
from hostd.fronts.oip.service import Service
from hostd.fronts.oip.shm import Regions

if TYPE_CHECKING:
    import grpc

    from hostd import AsyncClient
    from hostd.fronts.access import Access
    from hostd.fronts.bodies import Bodies
    from hostd.fronts.oip.grpc.serving import Handler


def handlers(client: AsyncClient, access: Access, max_body_bytes: int, bodies: Bodies) -> list[grpc.GenericRpcHandler]:
    """Return what a server of `grpc.aio` serves for a client's host; for one event loop.

    A request reads at most `max_body_bytes` of shared memory; its message, which the server bounds, counts in `bodies`.
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
    return [
        served(INFERENCE, rpcs_of(INFERENCE), inference, access),
        served(HEALTH, rpcs_of(HEALTH), of_health, access),
        *(served(name, rpcs_of(REFLECTION), of_reflection, access) for name in (REFLECTION, V1)),
    ]


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
