"""The REST front of the Open Inference Protocol: an ASGI application that is a client of a host.

Covers requests as a whole, and calls. What does not call a model is in `control`, the messages are in `protocol` and
`generate`, the paths in `routes`: a table of our own, because frameworks decode a path before they look it up, and then
`a%2Fready` and `a/ready` are one.
"""

from __future__ import annotations

import contextlib
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import quote

from hostd.fronts import asgi, encodings
from hostd.fronts.access import require
from hostd.fronts.asgi import DisconnectedError, Response, error_response
from hostd.fronts.calling import arguments_of, method_of, selected, tensors_of
from hostd.fronts.models import UNKNOWN, Models, unknown
from hostd.fronts.oip import describing, generate, protocol
from hostd.fronts.oip.control import Control
from hostd.fronts.oip.routes import Action, route_of
from hostd_workers.wire.errors import DeadlineExceededError, HostError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from hostd import AsyncClient
    from hostd.fronts.asgi import App, Receive, Scope, Send
    from hostd.fronts.oip.generate import GenerateRequest
    from hostd.fronts.oip.protocol import InferRequest
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
        self._control = Control(client, self._models)

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
            request = protocol.parse_raw(body, method_of(await self._models.get(model_id)))
        else:
            request = protocol.parse(body, length)
        answer, json_length = await self._called(model_id, request)
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

    async def _called(self, model_id: str, request: InferRequest) -> tuple[bytes, int | None]:
        deadline = _Deadline(self._client, request.timeout_s)
        with self._noting(model_id):
            info = await self._models.get(model_id, deadline.left_s)
            method = method_of(info, request.method)
            args, kwargs = arguments_of(method, request.inputs)
            result = await self._client.call(model_id, method.name, args, kwargs, deadline.left_s)
        tensors = tensors_of(method, result)
        if request.outputs:
            tensors = selected(tensors, (output.name for output in request.outputs))
        return protocol.respond(model_id, describing.VERSION, request, tensors)

    async def _generate(self, route: Route, body: bytes) -> Response:
        request = generate.parse(body)
        items: list[Any] = []
        async with aclosing(self._results(route.model_id, request)) as results:
            async for is_item, info, result in results:
                if not is_item:
                    return Response(generate.answer(info, describing.VERSION, request, result))
                items.append(result)
        info = await self._models.get(route.model_id)
        return Response(generate.answer(info, describing.VERSION, request, generate.collected(items)))

    async def _stream(self, route: Route, body: bytes, send: Send) -> None:
        """Send the items of a stream as they come. What fails before the first is an ordinary error."""
        request = generate.parse(body)
        has_begun = False
        try:
            async with aclosing(self._results(route.model_id, request)) as results:
                async for _, info, result in results:
                    answer = generate.event(generate.answer(info, describing.VERSION, request, result))
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

    async def _results(self, model_id: str, request: GenerateRequest) -> AsyncGenerator[tuple[bool, Any, Any], None]:
        """Yield the items of a stream, or the only result of a plain method, each after whether it is an item."""
        deadline = _Deadline(self._client, request.timeout_s)
        with self._noting(model_id):
            info = await self._models.get(model_id, deadline.left_s)
            method = generate.method_for(info, request)
            call = (model_id, method.name, *generate.arguments_of(method, request), deadline.left_s)
            if not method.streams:
                yield False, info, await self._client.call(*call)
                return
            # The client types it as an iterator; it is a generator, and to close it ends the stream in the model.
            items = cast("AsyncGenerator[Any, None]", self._client.stream(*call))
            async with aclosing(items):
                async for item in items:
                    yield True, info, item

    @contextlib.contextmanager
    def _noting(self, model_id: str) -> Iterator[None]:
        try:
            yield
        except HostError as error:
            self._models.note(model_id, error)
            if isinstance(error, NotFoundError) and not error.message.startswith(UNKNOWN):
                raise unknown(model_id, error) from error  # it was there when its record was taken
            raise


class _Deadline:
    """When an answer is due: by the request, else by the client's own timeout."""

    def __init__(self, client: AsyncClient, timeout_s: float | None) -> None:
        limit_s = client.timeout_s if timeout_s is None else timeout_s
        self._at_s = None if limit_s is None else time.monotonic() + limit_s

    @property
    def left_s(self) -> float | None:
        """What is left, in seconds. Raises `DeadlineExceededError` if nothing is."""
        if self._at_s is None:
            return None
        left_s = self._at_s - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceededError("the deadline passed before the call could begin")
        return left_s


def _path_of(scope: Scope) -> str:
    """Return the path as it was sent, below where the application is mounted."""
    raw: bytes | None = scope.get("raw_path")
    path = quote(scope["path"]) if raw is None else raw.decode("latin-1").partition("?")[0]
    return path.removeprefix(quote(scope.get("root_path", "")))
