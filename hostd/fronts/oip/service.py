"""What is asked that calls no model, in no form of the protocol: health, metadata, statistics, the repository.

The maps that this returns have the names that the protocol's JSON and its messages of gRPC share.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from hostd.fronts.oip import describing
from hostd.records import SERVING
from hostd_workers.wire.errors import HostError, UnimplementedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hostd import AsyncClient, MethodInfo, ModelInfo
    from hostd.fronts.models import Models


class Service:
    """The answers of one host; for one event loop."""

    def __init__(self, client: AsyncClient, models: Models) -> None:
        self._client = client
        self._models = models

    def __repr__(self) -> str:
        return f"<Service {self._client!r}>"

    async def is_ready(self) -> bool:
        """Say whether the host takes requests."""
        return (await self._client.host_info()).state == "READY"

    async def is_model_ready(self, model_id: str) -> bool:
        """Say whether a model serves. Raises `NotFoundError`."""
        return (await self._models.record(model_id)).state in SERVING

    async def described(self, model_id: str) -> tuple[ModelInfo, MethodInfo | None]:
        """Return the record of a model and its default method; None while it is not loaded. Raises `NotFoundError`."""
        info = await self._models.record(model_id)
        return info, info.methods.get(info.default_method or "predict")

    async def model_metadata(self, model_id: str) -> dict[str, Any]:
        """Return what a model takes and returns. Raises `NotFoundError`."""
        return describing.model_metadata(*await self.described(model_id))

    async def statistics(self, model_id: str = "") -> dict[str, Any]:
        """Return the statistics of a model, or of all. Raises `NotFoundError`."""
        infos = [await self._models.record(model_id)] if model_id else await self._client.list_models()
        return {"model_stats": [describing.model_statistics(info) for info in infos]}

    async def index(self, *, only_ready: bool) -> list[dict[str, str]]:
        """Return all models with their states."""
        return describing.index_of(await self._client.list_models(all=True), only_ready=only_ready)

    async def load(self, model_id: str, *, has_parameters: bool) -> None:
        """Load a model that the host knows; one that is loaded only if its files have changed, as Triton does."""
        with _told(f"failed to load '{model_id}', "):
            if has_parameters:
                raise UnimplementedError("a load takes no parameters here: settings are in the model's model.yaml")
            info = await self._models.record(model_id)
            if info.state == "EVICTED" or info.path is None:
                await self._client.retrieve_model(model_id)  # it has what its last load was told
            else:
                model = await self._client.load_model(model_id, info.path, info.type)
                if model.files_changed:
                    await self._client.load_model(model_id, info.path, info.type, reload=True)
        self._models.forget(model_id)

    async def unload(self, model_id: str) -> None:
        """Unload a model. Raises `NotFoundError`."""
        with _told(f"failed to unload '{model_id}', "):
            # A host unloads what is not there without an error; a client that got a name wrong should hear of it.
            await self._models.record(model_id)
            await self._client.unload_model(model_id)
        self._models.forget(model_id)


@contextlib.contextmanager
def _told(prefix: str) -> Iterator[None]:
    """Have errors begin with the words that Triton's clients know."""
    try:
        yield
    except HostError as error:
        error.message = prefix + error.message
        raise
