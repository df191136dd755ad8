"""What is asked over HTTP that calls no model: the bodies of these requests, and the answers as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hostd.fronts.asgi import Response
from hostd.fronts.json_text import json_of, parsed
from hostd.fronts.oip import describing
from hostd.fronts.oip.requests import of_type
from hostd.fronts.oip.routes import Action
from hostd_workers.wire.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from hostd.fronts.oip.routes import Route
    from hostd.fronts.oip.service import Service
    from hostd.fronts.oip.shm import Regions

_NOT_READY: Final = 400
"""The protocol says "4xx" for what is not ready, and Triton answers this."""


class Control:
    """Answers by action; a further extension of the protocol gets its line here."""

    def __init__(self, service: Service, regions: Regions) -> None:
        self._service = service
        self._regions = regions
        self._actions: Mapping[Action, Callable[[Route, bytes], Awaitable[Response]]] = {
            Action.LIVE: self._live,
            Action.READY: self._ready,
            Action.METADATA: self._metadata,
            Action.STATISTICS: self._statistics,
            Action.MODEL_METADATA: self._model_metadata,
            Action.MODEL_READY: self._model_ready,
            Action.MODEL_STATISTICS: self._statistics,
            Action.INDEX: self._index,
            Action.LOAD: self._load,
            Action.UNLOAD: self._unload,
            Action.REGION_STATUS: self._region_status,
            Action.REGISTER: self._register,
            Action.UNREGISTER: self._unregister,
        }

    async def answer(self, route: Route, body: bytes) -> Response:
        """Do what is asked, and return the response. Raises `HostError`."""
        return await self._actions[route.action](route, body)

    # The server and its models

    async def _live(self, _route: Route, _body: bytes) -> Response:
        return Response(json_of({"live": True}))

    async def _ready(self, _route: Route, _body: bytes) -> Response:
        return _readiness({}, is_ready=await self._service.is_ready())

    async def _metadata(self, _route: Route, _body: bytes) -> Response:
        return Response(json_of(describing.server_metadata(describing.OF_HTTP)))

    async def _model_metadata(self, route: Route, _body: bytes) -> Response:
        return Response(json_of(await self._service.model_metadata(route.model_id)))

    async def _model_ready(self, route: Route, _body: bytes) -> Response:
        return _readiness({"name": route.model_id}, is_ready=await self._service.is_model_ready(route.model_id))

    async def _statistics(self, route: Route, _body: bytes) -> Response:
        return Response(json_of(await self._service.statistics(route.model_id)))

    # The repository

    async def _index(self, _route: Route, body: bytes) -> Response:
        return Response(json_of(await self._service.index(only_ready=bool(_object_of(body).get("ready")))))

    async def _load(self, route: Route, body: bytes) -> Response:
        await self._service.load(route.model_id, has_parameters=bool(_object_of(body).get("parameters")))
        return Response()

    async def _unload(self, route: Route, body: bytes) -> Response:
        _object_of(body)
        await self._service.unload(route.model_id)
        return Response()

    # Shared memory

    async def _region_status(self, route: Route, _body: bytes) -> Response:
        return Response(json_of(self._regions.status(route.region)))

    async def _register(self, route: Route, body: bytes) -> Response:
        asked = _object_of(body)
        key = of_type(asked.get("key"), (str,), "key")
        offset, byte_size = (of_type(asked.get(name), (int,), name) for name in ("offset", "byte_size"))
        self._regions.register(route.region, key or "", offset or 0, byte_size or 0)
        return Response()

    async def _unregister(self, route: Route, _body: bytes) -> Response:
        self._regions.unregister(route.region)
        return Response()


def _readiness(named: Mapping[str, str], *, is_ready: bool) -> Response:
    return Response(json_of({**named, "ready": is_ready}), 200 if is_ready else _NOT_READY)


def _object_of(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a body; an empty body is an empty one."""
    found = parsed(body, "the request") if body.strip() else {}
    if not isinstance(found, dict):
        raise InvalidArgumentError("the request must be a JSON object")
    return found
