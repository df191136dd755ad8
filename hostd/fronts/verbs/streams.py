"""Answers that come bit by bit, as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

Rules
1. What fails before anything has come is an answer with a status of its own, like any other; later it is an event
   `error`.
2. A comment goes out whenever nothing else has for a while, so that nothing on the way takes the connection for dead.
3. A client that goes away ends what it follows, in the host too.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import hostd
from hostd.fronts.errors import FrontEndsError, body_of
from hostd.fronts.verbs.answers import HEADERS, failed
from hostd.fronts.verbs.leaving import ended, gone
from hostd.fronts.verbs.route import EVENTS
from hostd.fronts.verbs.values import to_json

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Receive, Scope, Send

T = TypeVar("T")

_OPENS_WITHIN_S = 1.0
"""How long a stream without news waits with its headers: what is wrong with a request is known by then."""

# nginx holds answers back in a buffer unless it is told (https://nginx.org/en/docs/http/ngx_http_proxy_module.html).
_HEADERS = {**HEADERS, "Content-Type": f"{EVENTS}; charset=utf-8", "X-Accel-Buffering": "no"}

_END: Final = None


def block(event: str, data: object, number: int | None = None) -> bytes:
    """Return an event, with its data as JSON; with a `number` it has that as its id."""
    identity = b"" if number is None else b"id: %d\n" % number
    return b"%sevent: %s\ndata: %s\n\n" % (identity, event.encode(), to_json(data))


def comment(text: str) -> bytes:
    """Return what a client reads over."""
    return f": {text}\n\n".encode()


@asynccontextmanager
async def closing(items: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Close an iterator after the block, if it can be: that ends what it follows."""
    try:
        yield items
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()


class EventStream:
    """An answer that comes bit by bit; `form` is that of an error before the first of it."""

    def __init__(self, blocks: AsyncIterator[bytes], keepalive_s: float, form: str) -> None:
        self._blocks = blocks
        self._keepalive_s = keepalive_s
        self._form = form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["method"] == "HEAD":
            await _open(send)
            await send({"type": "http.response.body", "body": b""})
            return
        leaving = asyncio.ensure_future(gone(receive))
        try:
            async with closing(self._blocks):
                await self._send(scope, receive, send, leaving)
        finally:
            await ended(leaving)

    async def _send(self, scope: Scope, receive: Receive, send: Send, leaving: asyncio.Future[None]) -> None:
        is_open, following = False, asyncio.ensure_future(self._next())
        try:
            while True:
                wait_s = self._keepalive_s if is_open else min(_OPENS_WITHIN_S, self._keepalive_s)
                await asyncio.wait((leaving, following), timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                if leaving.done():
                    return
                error = following.exception() if following.done() else None
                if isinstance(error, hostd.HostError) and not is_open:
                    await failed(error, self._form)(scope, receive, send)
                    return
                if not is_open:
                    await _open(send)
                    is_open = True
                data = self._data_of(following)
                await send({"type": "http.response.body", "body": data, "more_body": data != b""})
                if not data:
                    return
                if following.done():
                    following = asyncio.ensure_future(self._next() if error is None else _nothing())
        except asyncio.CancelledError:
            if not is_open:
                raise
            await send({"type": "http.response.body", "body": block("error", body_of(FrontEndsError()))})
        finally:
            await ended(following)

    async def _next(self) -> bytes | None:
        return await anext(self._blocks, _END)

    def _data_of(self, following: asyncio.Future[bytes | None]) -> bytes:
        """Return what is to be sent now, nothing at the end."""
        if not following.done():
            return comment("nothing new")
        try:
            return following.result() or b""
        except hostd.HostError as error:
            return block("error", body_of(error))


async def _nothing() -> bytes | None:
    return _END


async def _open(send: Send) -> None:
    headers = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
