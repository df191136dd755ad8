"""Connections of the HTTP front that are slow, silent or too long."""

import asyncio
import socket
import threading

import pytest
from front_rig import serving
from helpers import PATIENCE_S, eventually

from hostd.fronts import http_server
from hostd.fronts.http_server import BoundedProtocol
from hostd.fronts.unread import unread_bytes_of

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"


async def echo(scope, receive, send):
    SEEN.append(scope)
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            break
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


SEEN = []


@pytest.fixture
def seen():
    """The requests that the application has got."""
    SEEN.clear()
    return SEEN


@pytest.fixture
def connect(monkeypatch):
    """Connect to a server with short times; it is patient where a test does not wait for it."""
    opened = []

    def connect(**times):
        patient = dict.fromkeys(("HEAD_S", "BODY_PERIOD_S", "READ_S"), PATIENCE_S)
        for name, value in {**patient, **times}.items():
            monkeypatch.setattr(http_server, name, value)
        opened.append(socket.create_connection(("127.0.0.1", front.port), PATIENCE_S))
        return opened[-1]

    with serving(echo, http=BoundedProtocol) as front:
        yield connect
        for one in opened:
            one.close()


def answer(connection):
    """Return what comes until the end of an answer, or of the connection."""
    received = b""
    while not received.endswith(b"hello") and (data := connection.recv(65536)):
        received += data
    return received


@pytest.mark.parametrize("sent", [b"", b"POST / HT", HEAD])
def test_a_head_that_does_not_come_ends_the_connection(connect, sent):
    connection = connect(HEAD_S=0.05)
    connection.sendall(sent)
    assert answer(connection) == b""


@pytest.mark.parametrize("sent", [b"\r\n", b"\r\nhell"])
def test_a_body_that_does_not_come_ends_the_connection(connect, sent):
    connection = connect(BODY_PERIOD_S=0.05)
    connection.sendall(HEAD + sent)
    assert answer(connection) == b""


def test_a_request_may_come_in_pieces(connect):
    connection = connect()
    for piece in (HEAD[:10], HEAD[10:], b"\r\n", b"hel"):
        connection.sendall(piece)
    connection.sendall(b"lo")
    assert answer(connection).startswith(b"HTTP/1.1 200 OK")


def test_a_connection_that_has_got_its_answer_is_kept(connect):
    connection = connect(HEAD_S=0.05, BODY_PERIOD_S=0.05)
    for _ in range(3):
        connection.sendall(HEAD + b"\r\nhello")
        assert answer(connection).startswith(b"HTTP/1.1 200 OK")
    connection.sendall(HEAD[:10])
    assert answer(connection) == b"", "the next head does not come"


def test_a_body_that_keeps_coming_is_read_however_long_it_takes(connect, monkeypatch):
    looks = []
    look = BoundedProtocol._look_at_body
    monkeypatch.setattr(BoundedProtocol, "_look_at_body", lambda self: (looks.append(1), look(self)))
    connection = connect(BODY_PERIOD_S=0.01, MIN_BODY_RATE=0)
    connection.sendall(HEAD + b"\r\nhel")
    eventually(lambda: len(looks) > 3, "it is looked at again and again")
    connection.sendall(b"lo")
    assert answer(connection).startswith(b"HTTP/1.1 200 OK")


def test_a_head_that_is_too_long_is_refused_with_words(connect):
    connection = connect()
    connection.sendall(HEAD + b"X: " + b"x" * (http_server.MAX_HEAD_BYTES + 1))
    assert answer(connection).startswith(b"HTTP/1.1 431 ")


def test_trailers_are_no_headers(connect, seen):
    connection = connect()
    connection.sendall(
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nAuthorization: Bearer x\r\n\r\n"
    )
    assert answer(connection).startswith(b"HTTP/1.1 200 OK")
    assert [name for name, _ in seen[0]["headers"]] == [b"host", b"transfer-encoding"]


def test_trailers_without_an_end_end_the_connection(connect):
    connection = connect()
    connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n")
    line = b"X: " + b"y" * 1000 + b"\r\n"
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        for _ in range(100_000):
            connection.sendall(line)


@pytest.mark.parametrize("cut", [1, 30, 120, 160])
def test_an_upgrade_is_not_done_and_the_request_is_answered(connect, seen, cut):
    request = b"POST /a?b=c HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    request += b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nContent-Length: 5\r\n\r\nhello"
    connection = connect()
    connection.sendall(request[:cut])
    connection.sendall(request[cut:])
    assert answer(connection).startswith(b"HTTP/1.1 200 OK")
    connection.sendall(HEAD + b"\r\nhello")
    assert answer(connection).startswith(b"HTTP/1.1 200 OK")
    assert [(scope["path"], scope["query_string"]) for scope in seen] == [("/a", b"b=c"), ("/", b"")]


def test_an_answer_that_nobody_reads_ends_the_connection(connect, monkeypatch):
    lost = threading.Event()
    connection_lost = BoundedProtocol.connection_lost
    monkeypatch.setattr(BoundedProtocol, "connection_lost", lambda self, exc: (lost.set(), connection_lost(self, exc)))
    connection = connect(READ_S=0.05)
    connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n" + bytes(50_000_000))
    assert lost.wait(PATIENCE_S)


def test_a_client_that_reads_slowly_and_steadily_is_kept(connect, monkeypatch):
    lost, unread, looked = threading.Event(), iter([9, 7, 3, 3]), []
    monkeypatch.setattr(http_server, "unread_bytes_of", lambda _: looked.append(next(unread)) or looked[-1])
    connection_lost = BoundedProtocol.connection_lost
    monkeypatch.setattr(BoundedProtocol, "connection_lost", lambda self, exc: (lost.set(), connection_lost(self, exc)))
    connection = connect(READ_S=0.05)
    connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n" + bytes(50_000_000))
    assert lost.wait(PATIENCE_S)
    assert looked == [9, 7, 3, 3]


def test_what_a_client_has_not_read_is_known():
    async def main():
        server, client = socket.socketpair()
        with client:
            transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=server)
            assert unread_bytes_of(transport) == 0
            transport.write(bytes(1000))
            assert unread_bytes_of(transport) >= 1000, "it is in the kernel"
            transport.write(bytes(10_000_000))
            before_bytes = unread_bytes_of(transport)
            client.recv(1 << 20)
            assert unread_bytes_of(transport) < before_bytes
            transport.abort()

    asyncio.run(main())
