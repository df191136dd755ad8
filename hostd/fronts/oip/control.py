"""What is asked that calls no model: health, metadata, statistics, and the repository of models."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

from hostd.fronts.asgi import Response
from hostd.fronts.json_text import json_of, parsed
from hostd.fronts.oip import describing
from hostd.fronts.oip.routes import Action
from hostd.records import SERVING
from hostd_workers.wire.errors import HostError, InvalidArgumentError, UnimplementedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from hostd import AsyncClient
    from hostd.fronts.models import Models
    from hostd.fronts.oip.routes import Route

_NOT_READY: Final = 400
"""The protocol says "4xx" for what is not ready, and Triton answers this."""


class Control:
    """Answers by action; a further extension of the protocol gets its line here."""

    def __init__(self, client: AsyncClient, models: Models) -> None:
        self._client = client
        self._models = models
        self._actions: Mapping[Action, Callable[[Route, bytes], Awaitable[Response]]] = {
            Action.LIVE: self._live,
            Action.READY: self._ready,
            Action.METADATA: self._metadata,
            Action.STATISTICS: self._statistics,
            Action.MODEL_METADATA: self._model_metadata,
            Action.MODEL_READY: self._model_ready,
            Action.MODEL_STATISTICS: self._model_statistics,
            Action.INDEX: self._index,
            Action.LOAD: self._load,
            Action.UNLOAD: self._unload,
        }

    async def answer(self, route: Route, body: bytes) -> Response:
        """Do what is asked, and return the response. Raises `HostError`."""
        return await self._actions[route.action](route, body)

    # The server and its models

    async def _live(self, _route: Route, _body: bytes) -> Response:
        return Response(json_of({"live": True}))

    async def _ready(self, _route: Route, _body: bytes) -> Response:
        is_ready = (await self._client.host_info()).state == "READY"
        return Response(json_of({"ready": is_ready}), 200 if is_ready else _NOT_READY)

    async def _metadata(self, _route: Route, _body: bytes) -> Response:
        return Response(json_of(describing.server_metadata()))

    async def _statistics(self, _route: Route, _body: bytes) -> Response:
        infos = await self._client.list_models()
        return Response(json_of({"model_stats": [describing.model_statistics(info) for info in infos]}))

    async def _model_metadata(self, route: Route, _body: bytes) -> Response:
        info = await self._models.record(route.model_id)
        method = info.methods.get(info.default_method or "predict")
        return Response(json_of(describing.model_metadata(info, method)))

    async def _model_ready(self, route: Route, _body: bytes) -> Response:
        info = await self._models.record(route.model_id)
        is_ready = info.state in SERVING
        return Response(json_of({"name": info.id, "ready": is_ready}), 200 if is_ready else _NOT_READY)

    async def _model_statistics(self, route: Route, _body: bytes) -> Response:
        info = await self._models.record(route.model_id)
        return Response(json_of({"model_stats": [describing.model_statistics(info)]}))

    # The repository

    async def _index(self, _route: Route, body: bytes) -> Response:
        asked = _object_of(body)
        infos = await self._client.list_models(all=True)
        return Response(json_of(describing.index_of(infos, only_ready=bool(asked.get("ready")))))

    async def _load(self, route: Route, body: bytes) -> Response:
        """Load a model that the host knows; one that is loaded only if its files have changed, as Triton does."""
        with _told(f"failed to load '{route.model_id}', "):
            if _object_of(body).get("parameters"):
                raise UnimplementedError("a load takes no parameters here: settings are in the model's model.yaml")
            info = await self._models.record(route.model_id)
            if info.state == "EVICTED" or info.path is None:
                await self._client.retrieve_model(route.model_id)  # it has what its last load was told
            else:
                model = await self._client.load_model(route.model_id, info.path, info.type)
                if model.files_changed:
                    await self._client.load_model(route.model_id, info.path, info.type, reload=True)
        self._models.forget(route.model_id)
        return Response()

    async def _unload(self, route: Route, body: bytes) -> Response:
        with _told(f"failed to unload '{route.model_id}', "):
            _object_of(body)
            # A host unloads what is not there without an error; a client that got a name wrong should hear of it.
            await self._models.record(route.model_id)
            await self._client.unload_model(route.model_id)
        return Response()


@contextlib.contextmanager
def _told(prefix: str) -> Iterator[None]:
    """Have errors begin with the words that Triton's clients know."""
    try:
        yield
    except HostError as error:
        error.message = prefix + error.message
        raise


def _object_of(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a body; an empty body is an empty one."""
    found = parsed(body, "the request") if body.strip() else {}
    if not isinstance(found, dict):
        raise InvalidArgumentError("the request must be a JSON object")
    return found
