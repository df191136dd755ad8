"""A small HTTP server for the pages that machines ask for: bounded, in a thread of its own, and answering GET alone.

Rules
1. A connection is for one request and ends within `CONNECTION_S`, whatever the client does or does not.
2. There are at most `MAX_CONNECTIONS`. A new one takes the place of the oldest that has not sent its request yet, so
   that half-open connections keep no probe away; if all have, it is refused with 503.
3. The event loop of the host is only asked, and never for longer than the maker of a page allows.

What the pages say is in `pages`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from concurrent.futures import Future
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

from hostd.shell.work.closing import Closing
from hostd.units import counted
from hostd_workers.wire.errors import FailedPreconditionError
from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

CONNECTION_S = 10.0
"""The default of Prometheus for a whole scrape."""

MAX_CONNECTIONS = 32
"""Some scrapers and probes, each for some milliseconds."""

MAX_HEAD_BYTES = 8192
"""Of a request: what other servers take, too."""

_LINGER_S = 0.5
"""How long to read on after an answer: to close with bytes unread would reset the connection before it is read."""

TEXT = "text/plain; charset=utf-8"


class Page(NamedTuple):
    """An answer."""

    status: HTTPStatus
    content_type: str
    body: bytes


class HttpServer(Closing):
    """Serves pages by path; each is made from the Accept header of its request, in the server's thread."""

    def __init__(self, host: str, port: int, pages: Mapping[str, Callable[[str], Awaitable[Page]]]) -> None:
        """Listen. Raises `FailedPreconditionError` if that is not possible at this address."""
        self._pages = pages
        try:
            family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            self._socket = socket.create_server(address[:2], family=family)
        except OSError as error:
            raise FailedPreconditionError(
                f"the metrics page cannot listen at {host}:{port}: {error.strerror}; choose "
                "another metrics.port (--metrics-port PORT, 0 takes any that is free) or metrics.host"
            ) from None
        self.port = int(self._socket.getsockname()[1])
        self._ending: Future[None] = Future()
        self._unread: dict[asyncio.Task[None], None] = {}
        """The connections that have not sent their request yet, the oldest first."""
        self._count = 0
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="hostd-http", daemon=True)

    def __repr__(self) -> str:
        return f"<HttpServer at port {self.port}, {counted(self._count, 'connection')}>"

    def __enter__(self) -> HttpServer:
        self._thread.start()
        self._is_up.wait()
        return self

    def close(self) -> None:
        """End all connections, and the thread."""
        self._ending.set_result(None)
        self._thread.join()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._on_connection, sock=self._socket, limit=MAX_HEAD_BYTES)
        self._is_up.set()
        await asyncio.wrap_future(self._ending)
        server.close()

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._count += 1
        has_room = self._count <= MAX_CONNECTIONS or self._make_room()
        self._unread[task] = None  # now, and not when it reads: many may come in one turn of the loop
        try:
            # An answer that nobody reads, an end of the other side and a place that was given away end here as well.
            with contextlib.suppress(asyncio.TimeoutError, asyncio.CancelledError, OSError):
                conversation = self._converse(reader, writer, task, has_room=has_room)
                await asyncio.wait_for(conversation, CONNECTION_S)
        finally:
            self._count -= 1
            self._unread.pop(task, None)
            writer.transport.abort()

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, task: asyncio.Task[None], *, has_room: bool
    ) -> None:
        page = _plain(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections")
        if has_room:
            page = await self._answer(reader, task)
        writer.write(_head_of(page))
        writer.write(page.body)
        await writer.drain()
        writer.write_eof()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(_read_to_end(reader), _LINGER_S)

    def _make_room(self) -> bool:
        """End the oldest connection that has not sent its request yet; say whether there is one."""
        for task in self._unread:
            del self._unread[task]
            task.cancel()
            return True
        return False

    async def _answer(self, reader: asyncio.StreamReader, task: asyncio.Task[None]) -> Page:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _plain(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"a request may have {MAX_HEAD_BYTES} bytes")
        except asyncio.IncompleteReadError:
            return _plain(HTTPStatus.BAD_REQUEST, "the request ends before its head does")
        finally:
            self._unread.pop(task, None)
        request, *fields = head.decode("latin-1").split("\r\n")
        method, _, rest = request.partition(" ")
        target, _, version = rest.partition(" ")
        if not version.startswith("HTTP/1."):
            return _plain(HTTPStatus.BAD_REQUEST, "this is no request of HTTP/1.1")
        make = self._pages.get(target.partition("?")[0])
        if make is None:
            return _plain(HTTPStatus.NOT_FOUND, f"there are: {', '.join(self._pages)}")
        if method != "GET":
            return _plain(HTTPStatus.METHOD_NOT_ALLOWED, "only GET is answered")
        accepted = (value for name, _, value in (field.partition(":") for field in fields) if name.lower() == "accept")
        return await make(", ".join(accepted))


def _plain(status: HTTPStatus, text: str) -> Page:
    return Page(status, TEXT, f"{text}\n".encode())


def _head_of(page: Page) -> bytes:
    allow = "Allow: GET\r\n" if page.status is HTTPStatus.METHOD_NOT_ALLOWED else ""
    return (
        f"HTTP/1.1 {page.status.value} {page.status.phrase}\r\nContent-Type: {page.content_type}\r\n"
        f"Content-Length: {len(page.body)}\r\n{allow}Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    ).encode("latin-1")


async def _read_to_end(reader: asyncio.StreamReader) -> None:
    while await reader.read(MAX_HEAD_BYTES):
        pass
