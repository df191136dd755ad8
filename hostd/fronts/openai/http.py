"""The HTTP application for clients of OpenAI's API, which is a client of a host.

Covers requests as a whole. What is asked is in `requests`, what is answered in `answers`. `GET /v1/models` is one of
our own verbs; its answer is one that these clients read.
"""

from __future__ import annotations

import contextlib
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, cast

from hostd.fronts import asgi
from hostd.fronts.access import Role, require
from hostd.fronts.asgi import DisconnectedError, Response
from hostd.fronts.errors import MethodNotAllowedError, headers_of, http_status_of
from hostd.fronts.json_text import json_of
from hostd.fronts.openai import answers, requests
from hostd.fronts.openai.answers import Frame, Usage
from hostd.fronts.openai.stopping import Stopping
from hostd.fronts.places import place_of
from hostd_workers.wire.errors import HostError, InvalidArgumentError, UnimplementedError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from hostd import AsyncClient, ModelInfo
    from hostd.fronts.asgi import Receive, Scope, Send
    from hostd.fronts.models import Models
    from hostd.fronts.openai.requests import TextRequest

GENERATE: Final = "generate"
EMBED: Final = "embed"
COUNT_TOKENS: Final = "count_tokens"
_EVENTS: Final = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class OpenAI:
    """The application; `paths` are those that it answers."""

    def __init__(self, client: AsyncClient, models: Models, max_body_bytes: int) -> None:
        self._client = client
        self._models = models
        self._max_body_bytes = max_body_bytes
        self.paths: dict[str, Callable[[bytes, Send], Awaitable[Response | None]]] = {
            "/v1/chat/completions": self._chat,
            "/v1/completions": self._complete,
            "/v1/embeddings": self._embed,
        }

    def __repr__(self) -> str:
        return f"<OpenAI {self._client!r}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request for one of the `paths`, as ASGI has it."""
        try:
            require(scope, Role.CALL)
            if scope["method"] != "POST":
                raise MethodNotAllowedError("this is asked for with POST", details={"allow": ["POST"]})
            body = await asgi.read_body(scope, receive, self._max_body_bytes)
            path: str = scope["path"].removeprefix(scope.get("root_path", ""))
            response = await asgi.until_disconnect(receive, _whole(self.paths[path](body, send)))
        except HostError as error:
            headers = tuple((name.encode(), value.encode()) for name, value in headers_of(error).items())
            response = Response(json_of(answers.failure(error)), http_status_of(error), headers=headers)
        except DisconnectedError:
            return
        if response is not None:
            await asgi.send_response(send, response)

    async def _chat(self, body: bytes, send: Send) -> Response | None:
        return await self._text(requests.parse_chat(body), send, is_chat=True)

    async def _complete(self, body: bytes, send: Send) -> Response | None:
        return await self._text(requests.parse_completion(body), send, is_chat=False)

    async def _embed(self, body: bytes, _: Send) -> Response:
        request = requests.parse_embeddings(body)
        info = await self._offering(request.model, EMBED, "makes no embeddings")
        texts = list(request.texts)
        rows = await self._called(info, EMBED, texts)
        tokens = None
        if COUNT_TOKENS in info.methods:
            tokens = sum([await self._tokens(info, text) for text in texts])
        return Response(json_of(answers.embeddings(info.id, rows, len(texts), tokens, is_base64=request.is_base64)))

    # Text

    async def _text(self, request: TextRequest, send: Send, *, is_chat: bool) -> Response | None:
        info = await self._offering(request.model, GENERATE, "generates no text")
        frame = Frame(info.id, is_chat)
        if request.is_stream:
            await self._stream(info, request, frame, send)
            return None
        texts, used = [], []
        for prompt in request.prompts:
            text = "".join([piece async for piece in self._pieces(info, request, prompt)])
            usage = await self._usage(info, prompt, text)
            texts.append((text, _reason(request, usage)))
            used.append(usage)
        counted = [usage for usage in used if usage is not None]
        total = Usage(sum(one.prompt for one in counted), sum(one.answer for one in counted))
        return Response(json_of(frame.whole(texts, total if len(counted) == len(used) else None)))

    async def _stream(self, info: ModelInfo, request: TextRequest, frame: Frame, send: Send) -> None:
        """Send pieces as they come. What fails before the first is an ordinary error."""
        (prompt,) = request.prompts
        has_begun, text = False, ""
        try:
            async with asgi.telling_the_end(), aclosing(self._pieces(info, request, prompt)) as pieces:
                async for piece in pieces:
                    if not has_begun:
                        await send({"type": "http.response.start", "status": 200, "headers": _EVENTS})
                    await _send_event(send, frame.chunk(piece, is_first=not has_begun))
                    has_begun, text = True, text + piece
            usage = await self._usage(info, prompt, text)
        except HostError as error:
            if not has_begun:
                raise
            await _send_event(send, answers.failure(error))
            await send({"type": "http.response.body", "body": b""})
            return
        if not has_begun:
            await send({"type": "http.response.start", "status": 200, "headers": _EVENTS})
            await _send_event(send, frame.chunk("", is_first=True))
        await _send_event(send, frame.chunk(reason=_reason(request, usage)))
        if request.wants_usage and usage is not None:
            await _send_event(send, frame.usage_chunk(usage))
        await send({"type": "http.response.body", "body": answers.DONE})

    async def _pieces(self, info: ModelInfo, request: TextRequest, prompt: Any) -> AsyncGenerator[str, None]:
        """Yield the text of an answer up to a stop sequence; the model's stream is closed there."""
        stopping = Stopping(request.stops)
        async with aclosing(self._made(info, request, prompt)) as made:
            async for piece in made:
                if text := stopping.take(piece):
                    yield text
                if stopping.is_stopped:
                    return
        if rest := stopping.rest():
            yield rest

    async def _made(self, info: ModelInfo, request: TextRequest, prompt: Any) -> AsyncGenerator[str, None]:
        """Yield what the model makes: the items of a stream, or the only result of a plain method."""
        method = info.methods[GENERATE]
        with self._noting(info.id):
            call = (info.id, GENERATE, (prompt,), dict(request.options), self._client.timeout_s)
            if not method.streams:
                yield _text_of(await self._client.call(*call), info.id)
                return
            # The client types it as an iterator; it is a generator, and to close it ends the stream in the model.
            items = cast("AsyncGenerator[Any, None]", self._client.stream(*call))
            async with aclosing(items):
                async for item in items:
                    yield _text_of(item, info.id)

    # Models

    async def _offering(self, model_id: str, method: str, lacks: str) -> ModelInfo:
        def offering(info: ModelInfo) -> ModelInfo:
            if method not in info.methods:
                known = ", ".join(sorted(info.methods)) or "none"
                raise InvalidArgumentError(f"model {model_id!r} {lacks}: it has no method {method!r}, only {known}")
            return info

        return await self._models.planned(model_id, offering, self._client.timeout_s)

    async def _usage(self, info: ModelInfo, prompt: Any, text: str) -> Usage | None:
        if COUNT_TOKENS not in info.methods:
            return None
        return Usage(await self._tokens(info, prompt), await self._tokens(info, text) if text else 0)

    async def _tokens(self, info: ModelInfo, prompt: Any) -> int:
        return int(await self._called(info, COUNT_TOKENS, prompt))

    async def _called(self, info: ModelInfo, method: str, argument: Any) -> Any:
        with self._noting(info.id):
            return await self._client.call(info.id, method, (argument,), {}, self._client.timeout_s)

    @contextlib.contextmanager
    def _noting(self, model_id: str) -> Any:
        try:
            with place_of(model_id):
                yield
        except HostError as error:
            self._models.note(model_id, error)
            raise


async def _whole(work: Awaitable[Response | None]) -> Response | None:
    return await work


def _reason(request: TextRequest, usage: Usage | None) -> str:
    """Return why a text ends; that it is as long as it may be is known only where tokens are counted."""
    is_full = usage is not None and request.max_tokens is not None and usage.answer >= request.max_tokens
    return "length" if is_full else "stop"


def _text_of(item: Any, model_id: str) -> str:
    if isinstance(item, str):
        return item
    raise UnimplementedError(f"generate of model {model_id!r} must make text, got {type(item).__name__}")


async def _send_event(send: Send, value: dict[str, Any]) -> None:
    await send({"type": "http.response.body", "body": b"data: %b\n\n" % json_of(value), "more_body": True})
