"""The HTTP front: its applications, served by uvicorn at a socket that the host has bound.

Rules
1. A connection that has not sent a whole head within `HEAD_S` is closed, and one whose body comes more slowly than
   `MIN_BODY_RATE`, if it is read: slow ones hold nothing up but a descriptor, and not for ever.
2. A head has at most `MAX_HEAD_BYTES`, and so have the trailers of a body, which are dropped: they would be headers
   that nobody has checked. What a body may have, the applications say.
3. A connection that reads nothing of what waits for it for `READ_S` is ended, and with it what it has asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Final

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hostd import AsyncClient
from hostd.config.values import is_loopback
from hostd.fronts.access import access_of, guarded, local_hosts
from hostd.fronts.app import app
from hostd.fronts.certificate import check_certificate
from hostd.fronts.process import SERVES, run_loop
from hostd.fronts.unread import unread_bytes_of
from hostd_workers.wire.errors import FailedPreconditionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostd.fronts.access import Access
    from hostd.fronts.asgi import App
    from hostd.fronts.process import Order, Words

HEAD_S: Final = 30.0
"""What a slow network needs for a head is a second or two."""

BODY_PERIOD_S: Final = 30.0
MIN_BODY_RATE: Final = 1024
"""Bytes a second of a body, looked at every period: a modem of 1995 is faster."""

READ_S: Final = 60.0

KEEP_ALIVE_S: Final = 75
"""How long an idle connection stays open: longer than proxies keep theirs, or one would be closed as it is used."""

MAX_HEAD_BYTES: Final = 64 << 10
_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_OF_UPGRADE: Final = (b"upgrade", b"connection", b"http2-settings")
_BACKLOG: Final = 4096
_GRACE_S: Final = 2
_LAST_WORDS_S: Final = 0.5
"""With the grace it is less than the host gives a front to end."""


def serve(order: Order, words: Words) -> None:
    """Serve all that is served over HTTP until a signal ends it. Raises as `serve_app`."""
    bounds = {name: order[name] for name in ("max_body_bytes", "max_bodies_bytes")}
    serve_app(order, words, lambda client: app(client, **bounds))


def serve_app(order: Order, words: Words, make: Callable[[AsyncClient], App]) -> None:
    """Serve the ASGI application that `make` returns for a client of the host, to who may, until a signal ends it.

    Which role a request needs, the application says (`hostd.fronts.access.require`). Raises `HostError` if tokens or
    certificate cannot be read.
    """
    listener = socket.socket(fileno=order["listen_fd"])
    host = str(listener.getsockname()[0])
    access = access_of(order, local_hosts(host) if is_loopback(f"{host}:0") else None)
    if order["certificate"] is not None:
        check_certificate(order["certificate"], order["key"])
    with contextlib.suppress(KeyboardInterrupt):  # how uvicorn passes SIGINT on
        run_loop(_serve(order, listener, access, words, make))


async def _serve(
    order: Order, listener: socket.socket, access: Access, words: Words, make: Callable[[AsyncClient], App]
) -> None:
    words.beat()
    async with AsyncClient(order["endpoint"]) as client:
        config = uvicorn.Config(
            guarded(make(client), access),
            http=BoundedProtocol,
            ws="none",
            lifespan="auto",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=_GRACE_S,
            ssl_certfile=order["certificate"],
            ssl_keyfile=order["key"],
        )
        server = Server(config)
        server.words = words
        await server.serve(sockets=[listener])


class Server(uvicorn.Server):
    """A server that says when it serves, and at its end lets what it has cancelled say so to its clients."""

    words: Words

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve. Raises `FailedPreconditionError` if the application says that it cannot."""
        with contextlib.suppress(SystemExit):  # of newer versions
            await super().startup(sockets)
        if not self.started:
            raise FailedPreconditionError("its application does not start; the host's log has its words")
        self.words.say(SERVES)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End, before uvicorn ends the process by the signal that it got."""
        await super().shutdown(sockets)
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=_LAST_WORDS_S)


class BoundedProtocol(HttpToolsProtocol):
    """A connection whose heads are bounded in bytes and in time, whose bodies must keep coming and answers be read."""

    _timer: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _is_in_head = True
    _is_whole = False
    """Whether the last request has come whole: what comes next, uvicorn waits for."""
    _received_bytes = 0
    """Of the head that is coming, or of the body since the last look."""
    _trailer_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a head."""
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing any more."""
        self._expect_nothing()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what has come; too much of a head ends the connection."""
        was_in_head = self._is_in_head
        self._received_bytes += len(data)
        self._is_whole = False
        self._feed(data)
        if self._is_whole:  # most requests come at once, and cost no timer
            self._expect_nothing()
        elif self._timer is None or was_in_head is not self._is_in_head:
            self._expect()
        if self._is_in_head and self._received_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._trailer_bytes = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; one after a body (a trailer) is none, or it would be taken for what was checked before."""
        if self._is_in_head:
            super().on_header(name, value)
            return
        self._trailer_bytes += len(name) + len(value)
        if self._trailer_bytes > MAX_HEAD_BYTES:
            self.transport.close()

    def on_headers_complete(self) -> None:
        """Go on with a body, but for an upgrade: that is not done (`_feed`)."""
        if not self.parser.should_upgrade():
            self._is_in_head, self._received_bytes = False, 0
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Go on with the next head."""
        if not self._is_in_head:
            self._is_in_head, self._is_whole, self._received_bytes = True, True, 0
            super().on_message_complete()

    def pause_writing(self) -> None:
        """Expect the client to read."""
        super().pause_writing()
        self._expect_reading(unread_bytes_of(self.transport))

    def resume_writing(self) -> None:
        """Go on: the client has read."""
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        super().resume_writing()

    def _feed(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # The parser stops here for good. Another one reads the request without the offer, which clients of HTTP/2
            # make on plain connections, and take for refused when the answer is an ordinary one.
            head, rest = self._head_without_upgrade(), data[upgrade.args[0] :]
            self.parser = httptools.HttpRequestParser(self)
            self._feed(head + rest)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")

    def _head_without_upgrade(self) -> bytes:
        lines = [b"%b %b HTTP/1.1" % (self.parser.get_method(), self.url)]
        lines += [b"%b: %b" % header for header in self.headers if header[0] not in _OF_UPGRADE]
        return b"\r\n".join([*lines, b"", b""])

    def _expect(self) -> None:
        self._expect_nothing()
        if not self.transport.is_closing():
            within_s, look = (HEAD_S, self.transport.close) if self._is_in_head else (BODY_PERIOD_S, self._look_at_body)
            self._timer = self.loop.call_later(within_s, look)

    def _expect_nothing(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expect_reading(self, unread_bytes: int) -> None:
        self._stalled = self.loop.call_later(READ_S, self._look_at_reading, unread_bytes)

    def _look_at_reading(self, before_bytes: int) -> None:
        unread_bytes = unread_bytes_of(self.transport)
        if unread_bytes < before_bytes:
            self._expect_reading(unread_bytes)
        else:
            self.transport.abort()

    def _look_at_body(self) -> None:
        if self._received_bytes < BODY_PERIOD_S * MIN_BODY_RATE and not self.flow.read_paused:
            self.transport.close()
            return
        self._received_bytes = 0
        self._expect()
