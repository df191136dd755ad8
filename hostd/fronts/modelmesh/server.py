"""The ModelMesh front: its services at one address, as ModelMesh forwards inference to where it loads models.

A gRPC front otherwise; how a server is made is in `grpc_server`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hostd.fronts import grpc_server
from hostd.fronts.access import Role
from hostd.fronts.grpc.serving import served
from hostd.fronts.modelmesh.messages import RUNTIME
from hostd.fronts.modelmesh.parameters import bounds_of, capacity_bytes, overrides_of
from hostd.fronts.modelmesh.runtime import Runtime
from hostd.fronts.oip.grpc.messages import rpcs_of
from hostd.fronts.oip.grpc.services import methods

if TYPE_CHECKING:
    from hostd import AsyncClient
    from hostd.fronts.bodies import Bodies
    from hostd.fronts.grpc.serving import Methods
    from hostd.fronts.process import Order, Words


def serve(order: Order, words: Words) -> None:
    """Serve until a signal ends it.

    Raises as `grpc_server.serve`, `InvalidArgumentError` for an environment that is wrong, and
    `FailedPreconditionError` if there is no capacity that ModelMesh could be told.
    """
    grpc_server.serve(order, words, _services)


async def _services(client: AsyncClient, max_body_bytes: int, bodies: Bodies) -> Methods:
    overrides = overrides_of(os.environ)
    capacity_bytes(overrides, await client.memory_info())
    runtime = Runtime(client, overrides, bounds_of(overrides, await client.host_settings()))
    of_runtime = {
        "runtimeStatus": (Role.LOAD, runtime.status),
        "loadModel": (Role.LOAD, runtime.load),
        "unloadModel": (Role.LOAD, runtime.unload),
        "predictModelSize": (Role.LOAD, runtime.predict_size),
        "modelSize": (Role.READ, runtime.size),
    }
    return served(RUNTIME, rpcs_of(RUNTIME), of_runtime) | methods(client, max_body_bytes, bodies)
