"""What is asked over gRPC that calls no model: health, metadata, configuration, statistics, the repository."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hostd.fronts.oip import describing
from hostd.fronts.oip.grpc.messages import message
from hostd_workers.wire.errors import NotFoundError, UnimplementedError

if TYPE_CHECKING:
    from hostd.fronts.grpc.serving import Context
    from hostd.fronts.oip.service import Service


class Control:
    """Handlers of a service's methods, in its order."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def live(self, _request: Any, _context: Context) -> Any:
        """Say that this process answers."""
        return message("inference.ServerLiveResponse")(live=True)

    async def ready(self, _request: Any, _context: Context) -> Any:
        """Say whether the host takes requests."""
        return message("inference.ServerReadyResponse")(ready=await self._service.is_ready())

    async def model_ready(self, request: Any, _context: Context) -> Any:
        """Say whether a model serves; one that is unknown does not, as in Triton."""
        try:
            describing.check_version(request.name, request.version)
            is_ready = await self._service.is_model_ready(request.name)
        except NotFoundError:
            is_ready = False
        return message("inference.ModelReadyResponse")(ready=is_ready)

    async def metadata(self, _request: Any, _context: Context) -> Any:
        """Describe this server."""
        return message("inference.ServerMetadataResponse")(**describing.server_metadata(describing.OF_GRPC))

    async def model_metadata(self, request: Any, _context: Context) -> Any:
        """Say what a model takes and returns."""
        describing.check_version(request.name, request.version)
        return message("inference.ModelMetadataResponse")(**await self._service.model_metadata(request.name))

    async def model_config(self, request: Any, _context: Context) -> Any:
        """Return the configuration that Triton would have of a model."""
        describing.check_version(request.name, request.version)
        config = describing.model_config(*await self._service.described(request.name))
        return message("inference.ModelConfigResponse")(config=config)

    async def statistics(self, request: Any, _context: Context) -> Any:
        """Return the statistics of a model, or of all."""
        describing.check_version(request.name, request.version)
        return message("inference.ModelStatisticsResponse")(**await self._service.statistics(request.name))

    async def index(self, request: Any, _context: Context) -> Any:
        """List all models with their states."""
        models = await self._service.index(only_ready=request.ready)
        return message("inference.RepositoryIndexResponse")(models=models)

    async def load(self, request: Any, _context: Context) -> Any:
        """Load a model."""
        await self._service.load(request.model_name, has_parameters=bool(request.parameters))
        return message("inference.RepositoryModelLoadResponse")()

    async def unload(self, request: Any, _context: Context) -> Any:
        """Unload a model."""
        await self._service.unload(request.model_name)
        return message("inference.RepositoryModelUnloadResponse")()


async def no_trace(_request: Any, _context: Context) -> Any:
    """Refuse settings of traces."""
    raise UnimplementedError("this host makes no traces of requests: `hostd explain MODEL` says what a model does")


async def no_log_settings(_request: Any, _context: Context) -> Any:
    """Refuse settings of the log."""
    raise UnimplementedError("the log is set by log_level and log_format in the host's configuration")
