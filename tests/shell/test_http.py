"""The HTTP server: three answers that are no page, and clients that are slow, silent, many or rude."""

import asyncio
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http import HTTPStatus
from types import SimpleNamespace

import pytest
from helpers import PATIENCE_S, SOON_S, at_most, eventually

import hostd
from hostd.shell.control import http, pages
from hostd.shell.control.http import HttpServer, Page
from hostd.shell.control.pages import Pages

HUGE = b"x" * (64 << 20)


@pytest.fixture
def asked():
    """One item for each request for the page that never comes."""
    return []


@pytest.fixture
def pages_of(asked):
    """What a server shows, by path."""

    async def plain(accept):
        return Page(HTTPStatus.OK, http.TEXT, accept.encode())

    async def never(accept):
        asked.append(accept)
        await asyncio.Event().wait()
        raise AssertionError

    async def huge(_accept):
        return Page(HTTPStatus.OK, http.TEXT, HUGE)

    return {"/plain": plain, "/never": never, "/huge": huge}


@pytest.fixture
def server(monkeypatch, pages_of):
    monkeypatch.setattr(http, "CONNECTION_S", 1.0)
    with HttpServer("127.0.0.1", 0, pages_of) as running:
        yield running


def connect(server):
    return socket.create_connection(("127.0.0.1", server.port), PATIENCE_S)


def ask(server, request):
    """Return all that is answered, until the other side ends."""
    with connect(server) as connection:
        connection.sendall(request)
        answer = b""
        while data := connection.recv(65536):
            answer += data
        return answer


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /plain HTTP/1.1", 200),
        (b"GET /plain?x=1 HTTP/1.0", 200),
        (b"GET / HTTP/1.1", 404),
        (b"GET /plain/ HTTP/1.1", 404),
        (b"POST / HTTP/1.1", 404),
        (b"POST /plain HTTP/1.1", 405),
        (b"HEAD /plain HTTP/1.1", 405),
        (b"DELETE /plain HTTP/1.1", 405),
        (b"GET /plain HTTP/2", 400),
        (b"\xff\0nonsense", 400),
        (b"GET /plain HTTP/1.1\r\nX: " + b"x" * http.MAX_HEAD_BYTES, 431),
    ],
    ids=lambda value: str(value)[:30],
)
def test_every_request_has_its_status(server, request_line, status):
    answer = ask(server, request_line + b"\r\nHost: x\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert f"Content-Length: {len(body)}\r\n".encode() in head + b"\r\n"
    assert (b"Allow: GET" in head) == (status == 405)


def test_an_answer_is_read_also_by_what_sends_more_than_is_read_and_the_page_is_told_what_it_accepts(server):
    answer = ask(server, b"POST /plain HTTP/1.1\r\nContent-Length: 10000000\r\n\r\n" + b"x" * 10_000_000)
    assert answer.startswith(b"HTTP/1.1 405 ")
    answer = ask(server, b"GET /plain HTTP/1.1\r\naccept: a/b\r\nACCEPT: c\r\n\r\n")
    assert answer.partition(b"\r\n\r\n")[2].strip() == b"a/b,  c"


def test_half_open_connections_keep_no_others_away_and_end(server):
    with ExitStack() as stack:
        silent = [stack.enter_context(connect(server)) for _ in range(3 * http.MAX_CONNECTIONS)]
        for number, connection in enumerate(silent):
            connection.sendall(b"GET /plain HTTP/1.1\r\n"[: number % 20])
        for _ in range(5):
            assert ask(server, b"GET /plain HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200 ")
        with at_most(SOON_S, "the end of the connections that say nothing"):
            assert all(is_over(connection) for connection in silent)


def is_over(connection):
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


def test_beyond_the_most_that_are_answered_there_is_a_refusal(server, monkeypatch, asked):
    monkeypatch.setattr(http, "CONNECTION_S", 3600.0)
    with ExitStack() as stack:
        for _ in range(http.MAX_CONNECTIONS):
            stack.enter_context(connect(server)).sendall(b"GET /never HTTP/1.1\r\n\r\n")
        eventually(lambda: len(asked) == http.MAX_CONNECTIONS, "all places are taken")
        assert ask(server, b"").startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize("path", [b"/never", b"/huge"])
def test_a_page_that_never_comes_or_is_never_read_ends_with_its_time(server, path):
    with connect(server) as connection, at_most(SOON_S, "the end of the connection"):
        connection.sendall(b"GET " + path + b" HTTP/1.1\r\n\r\n")
        eventually(lambda: "1 connection" in repr(server), "it is answered")
        eventually(lambda: "no connections" in repr(server), "its time is over, and nothing was read")
        read = 0
        try:
            while data := connection.recv(1 << 20):
                read += len(data)
        except ConnectionError:
            pass
        assert read < len(HUGE)


def test_its_end_does_not_wait_for_anything(monkeypatch, pages_of, asked):
    monkeypatch.setattr(http, "CONNECTION_S", 3600.0)
    server = HttpServer("127.0.0.1", 0, pages_of)
    with at_most(SOON_S, "the end of the server"), server:
        silent, asking = connect(server), connect(server)
        asking.sendall(b"GET /never HTTP/1.1\r\n\r\n")
        eventually(lambda: asked, "it is asked")
    with silent, asking:
        assert is_over(silent)
        assert is_over(asking)


def test_an_address_that_cannot_be_had_is_told_with_its_setting(server):
    with pytest.raises(hostd.FailedPreconditionError, match=rf"127\.0\.0\.1:{server.port}: .*metrics\.port"):
        HttpServer("127.0.0.1", server.port, {})
    with pytest.raises(hostd.FailedPreconditionError, match=r"no\.such\.host\.invalid"):
        HttpServer("no.such.host.invalid", 0, {})


def test_a_loop_that_hangs_is_told_and_not_waited_for(monkeypatch):
    monkeypatch.setattr(pages, "ANSWER_S", 0.2)
    loop, hung, released = asyncio.new_event_loop(), threading.Event(), threading.Event()

    def hang():
        hung.set()
        released.wait(PATIENCE_S)

    def nobody():
        raise AssertionError

    metrics = SimpleNamespace(snapshot=nobody)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(loop.run_forever)
        loop.call_soon_threadsafe(hang)
        assert hung.wait(PATIENCE_S)
        with HttpServer("127.0.0.1", 0, Pages(loop, metrics, nobody).by_path()) as server:  # type: ignore[arg-type]
            for path in (b"/healthz", b"/readyz", b"/metrics"):
                with at_most(SOON_S, "an answer about a loop that hangs"):
                    answer = ask(server, b"GET " + path + b" HTTP/1.1\r\n\r\n")
                assert answer.startswith(b"HTTP/1.1 503 ")
                assert b"has not turned" in answer
            released.set()
            answer = ask(server, b"GET /healthz HTTP/1.1\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200 ")
            loop.call_soon_threadsafe(loop.stop)
            running.result(PATIENCE_S)
            loop.close()
            assert b"the host has ended" in ask(server, b"GET /healthz HTTP/1.1\r\n\r\n")
