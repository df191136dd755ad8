"""What clients that are hostile, slow or gone may make a gRPC front hold, and what is told to those that are neither."""

import asyncio
import gzip
import socket
import struct
import threading
import tracemalloc
import zlib

import pytest
from h2_rig import Peer, Raw, asked, message, sent, served
from helpers import PATIENCE_S, eventually

from hostd.fronts import encodings
from hostd.fronts.bodies import Bodies
from hostd.fronts.grpc import heads
from hostd.fronts.grpc.framing import Assembling
from hostd.fronts.http2 import frames
from hostd.fronts.http2.connection import MAX_STREAMS, Connection
from hostd.fronts.http2.events import Began
from hostd.fronts.http2.sending import Sending

READ = 1 << 18
"""What an event loop hands over at a time."""


async def echoed(asked_for, _call):
    return asked_for


async def enlarged(asked_for, _call):
    return Raw(bytes(int(asked_for.data)))


async def returned(messages, call):
    async for one in messages:
        await call.write(one)


def greeted(*settings):
    connection = Connection(lambda _fields: None)
    connection.receive(frames.PREFACE + frames.settings_frame(settings))
    return connection


def requests(first, count):
    ids = range(first, first + 2 * count, 2)
    return b"".join(frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, one, b"\x83") for one in ids)


def begun(connection, first, count):
    return [event.stream for event in connection.receive(requests(first, count)) if isinstance(event, Began)]


def full(connection):
    """Have all streams of a connection wait for room, whose calls are through."""
    for stream in begun(connection, 1, MAX_STREAMS):
        connection.send_data(stream, bytes(100))
        connection.end(stream, heads.SUCCESS)
        connection.release()


def streams_of(serving):
    return [stream for protocol in serving.protocols() for stream in protocol.exchange.connection.streams]


def test_streams_whose_answers_wait_for_room_count():
    connection = greeted((frames.INITIAL_WINDOW_SIZE, 0))
    full(connection)
    assert begun(connection, 2 * MAX_STREAMS + 1, 100) == []


def test_a_flood_of_settings_is_not_told_to_each_stream(monkeypatch):
    connection, count = greeted(), 0
    begun(connection, 1, MAX_STREAMS)
    add_room = Sending.add_room

    def counted(*args):
        nonlocal count
        count += 1
        add_room(*args)

    monkeypatch.setattr(Sending, "add_room", counted)
    connection.receive(frames.settings_frame([(frames.INITIAL_WINDOW_SIZE, 0)] * 2700) * (READ >> 14))
    assert count <= READ


def test_a_flood_of_window_updates_is_not_told_to_each_stream(monkeypatch):
    connection, count = greeted((frames.INITIAL_WINDOW_SIZE, 0)), 0
    full(connection)
    room_of = Sending._room_of

    def counted(*args):
        nonlocal count
        count += 1
        return room_of(*args)

    monkeypatch.setattr(Sending, "_room_of", counted)
    connection.receive(frames.window_update(0, 1) * (READ // 13))
    assert count <= READ


@pytest.mark.parametrize("part", [b"", b"ab"], ids=["empty", "tiny"])
def test_small_parts_of_a_message_take_no_more_than_they_have(part):
    assembling = Assembling(1 << 24)
    assembling.take(struct.pack(">BI", 0, 1 << 24))
    tracemalloc.start()
    try:
        for _ in range(100_000):
            assembling.take(bytes(bytearray(part)))  # each its own
        assert tracemalloc.get_traced_memory()[0] < 400_000
    finally:
        tracemalloc.stop()


def test_what_is_inflated_for_a_call_that_is_cancelled_counts_no_more(monkeypatch):
    bodies, is_inflating, goes_on, is_through = Bodies(1 << 24), *(threading.Event() for _ in range(3))
    hold = encodings.hold

    def late(size_bytes):
        is_inflating.set()
        assert goes_on.wait(PATIENCE_S)
        try:
            hold(size_bytes)
        finally:
            is_through.set()

    monkeypatch.setattr(encodings, "hold", late)

    async def ask():
        with bodies.holding():
            await encodings.inflated(zlib.compress(bytes(1 << 20)), b"deflate", 1 << 24)

    async def leave():
        task = asyncio.create_task(ask())
        assert await asyncio.to_thread(is_inflating.wait, PATIENCE_S)
        task.cancel()
        await asyncio.wait((task,))
        goes_on.set()
        assert await asyncio.to_thread(is_through.wait, PATIENCE_S)

    asyncio.run(leave())
    assert bodies.bytes == 0


def test_many_members_of_gzip_are_not_copied_for_each(monkeypatch):
    body, copied = gzip.compress(b"") * 2000, 0
    begin = zlib.decompressobj

    class Member:
        def __init__(self, bits):
            self.whole = begin(bits)

        def __getattr__(self, name):
            return getattr(self.whole, name)

        @property
        def unused_data(self):
            nonlocal copied
            copied += len(self.whole.unused_data)
            return self.whole.unused_data

    monkeypatch.setattr(zlib, "decompressobj", Member)

    async def run():
        with Bodies(1 << 24).holding():
            return await encodings.inflated(body, b"gzip", 1 << 24)

    assert asyncio.run(run()) == b""
    assert copied < 200 * len(body)


def test_messages_that_a_stream_has_taken_count_no_more():
    with served(returned=(True, returned)) as serving:
        peer = Peer(serving.port)
        peer.send(asked(1, "/returned") + sent(1, message(b"") * 100))
        for _ in range(100):
            peer.until(frames.DATA, 1)
        held = serving.call(lambda: serving.bodies.bytes)
        peer.close()
    assert held == 0


def test_a_client_hears_at_once_that_it_may_send_more():
    is_on = asyncio.Event()
    took = threading.Event()

    async def slowly(messages, _call):
        async for one in messages:
            if one.data == b"first":
                await is_on.wait()
            elif one.data == b"second":
                took.set()
                await asyncio.Event().wait()

    with served(slowly=(True, slowly)) as serving:
        peer = Peer(serving.port)
        peer.send(asked(1, "/slowly") + sent(1, message(b"first")))
        peer.pong()
        peer.send(sent(1, (message(b"second") + message(bytes(1 << 21)))[: (1 << 20) - 10]))
        peer.pong()
        serving.call(is_on.set)
        assert took.wait(PATIENCE_S)
        peer.socket.settimeout(2)  # nothing else is sent or looked at before that
        try:
            peer.until(frames.WINDOW_UPDATE, 1)
        finally:
            peer.close()


def test_the_first_error_of_a_call_is_the_one_that_is_told():
    with served(returned=(True, returned)) as serving:
        peer = Peer(serving.port, (frames.INITIAL_WINDOW_SIZE, 0))
        peer.send(asked(1, "/returned") + sent(1, message(b"hello")))
        eventually(lambda: any(stream.waiting for stream in streams_of(serving)), "an answer that waits")
        peer.send(sent(1, struct.pack(">BI", 0, 1 << 30)))
        peer.pong()
        peer.send(frames.window_update(1, 1000))
        told, _ = peer.trailers(1)
        peer.close()
    assert "fronts.max_body_bytes" in told["grpc-message"]


@pytest.mark.parametrize("path", ["/echoed", "/returned"])
def test_a_message_that_is_cut_off_is_an_error(path):
    with served(echoed=(False, echoed), returned=(True, returned)) as serving:
        peer = Peer(serving.port)
        peer.send(asked(1, path) + sent(1, message(b"whole") + message(b"cut off")[:-1], is_last=True))
        told, _ = peer.trailers(1)
        peer.close()
    assert told["grpc-status"] != "0"


def test_a_client_of_http_1_is_told_what_is_wrong():
    with (
        served(echoed=(False, echoed)) as serving,
        socket.create_connection(("127.0.0.1", serving.port), PATIENCE_S) as client,
    ):
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.makefile("rb").read().startswith(b"HTTP/1.1 505 ")


def test_a_front_that_ends_sends_answers_to_their_end():
    size = 8_000_000
    with served(enlarged=(False, enlarged)) as serving:
        peer = Peer(serving.port, receive_bytes=8192)
        peer.send(asked(1, "/enlarged") + sent(1, message(b"%d" % size), is_last=True))
        peer.until(frames.DATA, 1)
        serving.loop.call_soon_threadsafe(serving.ended.set)
        _, body = peer.trailers(1)
        peer.close()
    assert len(body) > size // 2


def test_a_client_that_reads_slowly_and_steadily_gets_all():
    size = 20_000_000
    with served(enlarged=(False, enlarged)) as serving:
        peer = Peer(serving.port, receive_bytes=8192)
        peer.send(asked(1, "/enlarged") + sent(1, message(b"%d" % size), is_last=True))
        peer.until(frames.DATA, 1)
        (protocol,) = serving.protocols()
        got = 0
        try:
            while got < size - (1 << 20):
                got += len(peer.socket.recv(1 << 19, socket.MSG_WAITALL))
                serving.call(protocol.look)
                assert not protocol.exchange.transport.is_closing()
        finally:
            peer.close()
