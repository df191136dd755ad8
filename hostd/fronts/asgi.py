"""What fronts do with ASGI: bodies in and out, the end of a client, errors as responses.

Plain ASGI, because a framework's request and response objects cost as much as a call of a small model. What is made of
it runs under any ASGI server, and can be mounted in an application of any framework.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from hostd.fronts.bodies import hold
from hostd.fronts.errors import FrontEndsError, body_of, headers_of, http_status_of
from hostd.fronts.json_text import json_of
from hostd_workers.wire.errors import HostError, MessageTooLargeError, ResourceExhaustedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Mapping

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]

T = TypeVar("T")

JSON: Final = b"application/json"

DRAIN_BYTES: Final = 16 << 20
DRAIN_S: Final = 2.0


class DisconnectedError(Exception):
    """The client has closed its connection; nobody waits for a response."""


@dataclass(frozen=True)
class Response:
    """A whole response."""

    body: bytes = b""
    status: int = 200
    content_type: bytes = JSON
    headers: Headers = ()


def header_of(scope: Mapping[str, Any], name: bytes) -> bytes | None:
    """Return the first header of that name, which is in lower case; None if there is none."""
    header: tuple[bytes, bytes]
    for header in scope["headers"]:  # half of what a generator takes, and several are asked for in each request
        if header[0] == name:
            return header[1]
    return None


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """Return the body of a request.

    Raises `MessageTooLargeError` as soon as it is over `max_bytes`, `FrontFullError`, and `DisconnectedError`.
    """
    announced = header_of(scope, b"content-length")
    if announced is not None and announced.isdigit() and int(announced) > max_bytes:
        if header_of(scope, b"expect") is None:  # or the client has sent nothing, and to read is to ask for it
            await drain(receive)
        raise too_large(int(announced), max_bytes)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise DisconnectedError
        part = message.get("body", b"")
        size += len(part)
        try:
            if size > max_bytes:
                raise too_large(size, max_bytes)
            hold(len(part))
        except ResourceExhaustedError:
            parts.clear()
            if message.get("more_body", False):
                await drain(receive)
            raise
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def drain(receive: Receive) -> None:
    """Read on a little before a refusal: a client that still sends would find its connection reset, and no answer."""
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(_read_on(receive), DRAIN_S)


async def _read_on(receive: Receive) -> None:
    size = 0
    while size < DRAIN_BYTES:
        message = await receive()
        size += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            return


def too_large(size: int, max_bytes: int) -> MessageTooLargeError:
    """Return the error for a body of `size` bytes, or at least as many."""
    return MessageTooLargeError(
        f"the body of the request has {size} bytes or more, at most {max_bytes} are accepted: send less at a time"
    )


async def until_disconnect(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns; it is cancelled if the client goes. Raises `DisconnectedError` then.

    The body of the request has been read.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(receive))
    gone.add_done_callback(lambda _: task.cancel())
    try:
        return await task
    except asyncio.CancelledError:
        if gone.done() and not gone.cancelled():
            raise DisconnectedError from None
        raise  # the server ends
    finally:
        gone.cancel()


@contextlib.asynccontextmanager
async def telling_the_end() -> AsyncIterator[None]:
    """Have what cancels the block be an error that a stream can tell: the server ends, or nobody listens any more."""
    try:
        yield
    except asyncio.CancelledError:
        raise FrontEndsError from None


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def send_response(send: Send, response: Response) -> None:
    """Send a whole response."""
    headers = [
        (b"content-type", response.content_type),
        (b"content-length", b"%d" % len(response.body)),
        *response.headers,
    ]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})


def error_response(error: HostError) -> Response:
    """Return the response that tells an error."""
    headers = tuple((name.encode(), value.encode()) for name, value in headers_of(error).items())
    return Response(json_of(body_of(error)), http_status_of(error), headers=headers)


async def lifespan(receive: Receive, send: Send) -> None:
    """Say that nothing has to be started and stopped: whoever made the client closes it."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
