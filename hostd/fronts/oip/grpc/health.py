"""The health checking protocol of gRPC, which orchestrators and load balancers ask: whether the host takes requests."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from hostd.fronts.oip.grpc.messages import HEALTH, INFERENCE, message
from hostd_workers.wire.errors import HostError, NotFoundError

if TYPE_CHECKING:
    from hostd.fronts.grpc.serving import Context
    from hostd.fronts.oip.service import Service

SERVICES: Final = ("", INFERENCE, HEALTH)
"""What may be asked about; "" is the server."""

WATCH_S: Final = 1.0
"""Between two looks for somebody who watches: load balancers check every few seconds."""

_Response: Final = message("grpc.health.v1.HealthCheckResponse")


class Health:
    """Its handlers."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def check(self, request: Any, _context: Context) -> Any:
        """Say whether the host takes requests. Raises `NotFoundError` for a service that is not served."""
        if request.service not in SERVICES:
            raise NotFoundError(f"there is no service {request.service!r} here")
        return _Response(status=await self._status(request.service))

    async def watch(self, request: Any, context: Context) -> None:
        """Say it, and again each time that it changes, until the client goes."""
        last = None
        while True:
            status = await self._status(request.service)
            if status != last:
                await context.write(_Response(status=status))
            last = status
            await asyncio.sleep(WATCH_S)

    async def _status(self, service: str) -> int:
        if service not in SERVICES:
            return int(_Response.SERVICE_UNKNOWN)
        try:
            is_ready = await self._service.is_ready()
        except HostError:
            is_ready = False  # the host has gone, or is about to be back
        return int(_Response.SERVING if is_ready else _Response.NOT_SERVING)
