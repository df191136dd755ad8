"""What is asked over gRPC about shared memory: regions of the system, and none of CUDA devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hostd.fronts.oip.grpc.messages import message
from hostd_workers.wire.errors import UnimplementedError

if TYPE_CHECKING:
    from hostd.fronts.grpc.serving import Context
    from hostd.fronts.oip.shm import Regions


class Memory:
    """Its handlers."""

    def __init__(self, regions: Regions) -> None:
        self._regions = regions

    async def status(self, request: Any, _context: Context) -> Any:
        """Return a region, or all."""
        answer = message("inference.SystemSharedMemoryStatusResponse")()
        for region in self._regions.status(request.name):
            told = answer.regions[region["name"]]
            for field, value in region.items():
                setattr(told, field, value)
        return answer

    async def register(self, request: Any, _context: Context) -> Any:
        """Open memory that the client has made."""
        self._regions.register(request.name, request.key, request.offset, request.byte_size)
        return message("inference.SystemSharedMemoryRegisterResponse")()

    async def unregister(self, request: Any, _context: Context) -> Any:
        """Forget a region, or all."""
        self._regions.unregister(request.name)
        return message("inference.SystemSharedMemoryUnregisterResponse")()


async def no_cuda(_request: Any, _context: Context) -> Any:
    """Refuse memory of a device: a front has none open."""
    raise UnimplementedError(
        "this front takes no memory of CUDA devices: send tensors in requests, or as system shared memory"
    )
