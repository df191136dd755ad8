"""The REST front of the Open Inference Protocol: an ASGI application that is a client of a host.

Covers requests as a whole, and calls. What does not call a model is in `control`, the messages are in `protocol` and
`generate`, the paths in `routes`: a table of our own, because frameworks decode a path before they look it up, and then
`a%2Fready` and `a/ready` are one.
"""

from __future__ import annotations

import contextlib
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from hostd.fronts import asgi, encodings
from hostd.fronts.access import require
from hostd.fronts.asgi import DisconnectedError, Response, error_response
from hostd.fronts.calling import method_of
from hostd.fronts.models import Models
from hostd.fronts.oip import describing, generate, protocol
from hostd.fronts.oip.control import Control
from hostd.fronts.oip.inference import Inference
from hostd.fronts.oip.routes import Action, route_of
from hostd.fronts.oip.service import Service
from hostd.fronts.oip.shm import Regions
from hostd_workers.wire.errors import HostError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from hostd import AsyncClient, MethodInfo, ModelInfo
    from hostd.fronts.asgi import App, Receive, Scope, Send
    from hostd.fronts.calling import ArgumentsOfCall
    from hostd.fronts.oip.generate import GenerateRequest
    from hostd.fronts.oip.inference import Result
    from hostd.fronts.oip.routes import Route

MAX_BODY_BYTES: Final = 1 << 30
"""The largest message that a host accepts by default (`limits.max_message_bytes`), so more could not be passed on."""

_EVENT_HEADERS: Final = [(b"content-type", generate.EVENTS), (b"cache-control", b"no-cache")]


def app(client: AsyncClient, *, max_body_bytes: int = MAX_BODY_BYTES) -> App:
    """Return the front of a client's host; whoever made the client closes it.

    `max_body_bytes` bounds the body of a request, as it comes and inflated. Runs in one event loop.
    """
    return OpenInference(client, max_body_bytes)


class OpenInference:
    """The application."""

    def __init__(self, client: AsyncClient, max_body_bytes: int) -> None:
        self._client = client
        self._models = Models(client)
        self._max_body_bytes = max_body_bytes
        self._inference = Inference(client, self._models)
        self._regions = Regions(max_body_bytes)
        self._control = Control(Service(client, self._models), self._regions)

    def __repr__(self) -> str:
        return f"<OpenInference {self._client!r} {self._models!r}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, as ASGI has it."""
        if scope["type"] == "lifespan":
            await asgi.lifespan(receive, send)
        elif scope["type"] == "http":
            with contextlib.suppress(DisconnectedError):
                await self._serve(scope, receive, send)
        else:
            await send({"type": "websocket.close"})  # the only other kind; to refuse it is to close it

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            route = route_of(scope["method"], _path_of(scope))
            require(scope, route.action.role)
            describing.check_version(route.model_id, route.version)
            body = await asgi.read_body(scope, receive, self._max_body_bytes)
            encoding = asgi.header_of(scope, b"content-encoding")
            if encoding is not None:
                body = await encodings.inflated(body, encoding, self._max_body_bytes)
            if route.action is Action.GENERATE_STREAM:
                await asgi.until_disconnect(receive, self._stream(route, body, send))
                return
            if route.action is Action.INFER:
                work = self._infer(route, body, scope)
            elif route.action is Action.GENERATE:
                work = self._generate(route, body)
            else:
                work = self._control.answer(route, body)
            response = await asgi.until_disconnect(receive, work)
        except HostError as error:
            response = error_response(error)
        await asgi.send_response(send, response)

    # Calls

    async def _infer(self, route: Route, body: bytes, scope: Scope) -> Response:
        model_id = route.model_id
        length = protocol.header_length_of(asgi.header_of(scope, protocol.HEADER_LENGTH))
        if length == 0:
            request = await self._models.planned(model_id, lambda info: protocol.parse_raw(body, method_of(info)))
        else:
            request = protocol.parse(body, length, self._regions.reading())
        tensors = await self._inference.infer(model_id, request, request.timeout_s)
        answer, json_length = protocol.respond(model_id, describing.VERSION, request, tensors, self._regions.write)
        headers: list[tuple[bytes, bytes]] = []
        if json_length is not None:
            headers.append((protocol.HEADER_LENGTH, b"%d" % json_length))
        # Only here: Triton's asyncio client always says that it takes gzip, and inflates nothing but results.
        encoding = encodings.accepted(asgi.header_of(scope, b"accept-encoding"))
        if encoding is not None and len(answer) >= encodings.MIN_BYTES:
            answer = await encodings.deflated(answer, encoding)
            headers.append((b"content-encoding", encoding.encode()))
        content_type = asgi.JSON if json_length is None else b"application/octet-stream"
        return Response(answer, content_type=content_type, headers=tuple(headers))

    async def _generate(self, route: Route, body: bytes) -> Response:
        request = generate.parse(body)
        items: list[Any] = []
        async with aclosing(self._results(route.model_id, request)) as results:
            async for result in results:
                if not result.is_item:
                    return Response(generate.answer(result.info, describing.VERSION, request, result.value))
                items.append(result.value)
        info = await self._models.get(route.model_id)
        return Response(generate.answer(info, describing.VERSION, request, generate.collected(items)))

    async def _stream(self, route: Route, body: bytes, send: Send) -> None:
        """Send the items of a stream as they come. What fails before the first is an ordinary error."""
        request = generate.parse(body)
        has_begun = False
        try:
            async with asgi.telling_the_end(), aclosing(self._results(route.model_id, request)) as results:
                async for result in results:
                    answer = generate.event(generate.answer(result.info, describing.VERSION, request, result.value))
                    if not has_begun:
                        has_begun = True
                        await send({"type": "http.response.start", "status": 200, "headers": _EVENT_HEADERS})
                    await send({"type": "http.response.body", "body": answer, "more_body": True})
        except HostError as error:
            if not has_begun:
                raise
            await send({"type": "http.response.body", "body": generate.error_event(error), "more_body": True})
        if not has_begun:
            await send({"type": "http.response.start", "status": 200, "headers": _EVENT_HEADERS})
        await send({"type": "http.response.body", "body": b""})

    def _results(self, model_id: str, request: GenerateRequest) -> AsyncGenerator[Result, None]:
        def plan(info: ModelInfo) -> tuple[MethodInfo, ArgumentsOfCall]:
            method = generate.method_for(info, request)
            return method, generate.arguments_of(method, request)

        return self._inference.results(model_id, request.timeout_s, plan)


def _path_of(scope: Scope) -> str:
    """Return the path as it was sent, below where the application is mounted."""
    raw: bytes | None = scope.get("raw_path")
    path = quote(scope["path"]) if raw is None else raw.decode("latin-1").partition("?")[0]
    return path.removeprefix(quote(scope.get("root_path", "")))
