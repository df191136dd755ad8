"""HTTP with kept connections and as little client as there can be: what a server is called with shall cost nothing.

A request is encoded as JSON and its answer decoded for every call, as every client must. Answers with a length only,
which is what all the peers send.
"""

from __future__ import annotations

import json
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

ANSWER_TIMEOUT_S = 30.0

# Servers close connections that are idle; uvicorn does after 5 s.
KEPT_S = 1.0
_END_OF_HEADERS = b"\r\n\r\n"
_READ_BYTES = 65536


class HttpLane:
    """A lane over as many connections as there are requests in flight; the oldest is waited for first."""

    def __init__(self, port: int, path: str, ask: Callable[[], Any], answer_of: Callable[[Any], Any]) -> None:
        """Take what makes the document of a request, and what finds the classes in the document of an answer."""
        self._port = port
        self._head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        self._ask = ask
        self._answer_of = answer_of
        self._idle: list[socket.socket] = []
        self._waiting: deque[socket.socket] = deque()
        self._used_s = 0.0

    def call(self) -> Any:
        """Send one request and wait for its answer."""
        self.send()
        return self.receive()

    def send(self) -> None:
        """Send one request."""
        self._close_what_is_old()
        body = json.dumps(self._ask())
        connection = self._idle.pop() if self._idle else self._connect()
        self._waiting.append(connection)
        connection.sendall(f"{self._head}Content-Length: {len(body)}\r\n\r\n{body}".encode())

    def receive(self) -> Any:
        """Wait for the oldest answer, and return its classes."""
        connection = self._waiting.popleft()
        try:
            answer = _answer(connection)
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        return self._answer_of(json.loads(answer))

    def close(self) -> None:
        """Close all connections."""
        for connection in (*self._idle, *self._waiting):
            connection.close()
        self._idle.clear()
        self._waiting.clear()

    def _close_what_is_old(self) -> None:
        before_s, self._used_s = self._used_s, time.monotonic()
        if self._used_s - before_s > KEPT_S:
            for connection in self._idle:
                connection.close()
            self._idle.clear()

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self._port), ANSWER_TIMEOUT_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


def _answer(connection: socket.socket) -> bytes:
    head, body = b"", b""
    while not body and _END_OF_HEADERS not in head:
        head += _some(connection)
    head, _, body = head.partition(_END_OF_HEADERS)
    status, *headers = head.split(b"\r\n")
    length = _length(headers)
    while len(body) < length:
        body += _some(connection)
    if b" 200 " not in status:
        raise ConnectionError(f"{status.decode()}: {body[:200].decode(errors='replace')}")
    return body


def _some(connection: socket.socket) -> bytes:
    data = connection.recv(_READ_BYTES)
    if not data:
        raise ConnectionError("the server closed the connection")
    return data


def _length(headers: list[bytes]) -> int:
    for header in headers:
        name, _, value = header.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0
