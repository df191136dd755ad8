"""The server of gRPC at a real socket: asked by gRPC's own client, and by who sends what that would not."""

import asyncio
import gzip
import logging
import socket
import ssl
import struct
import subprocess
import zlib
from contextlib import asynccontextmanager

import pytest

pytest.importorskip("hpack", reason="the extra `grpc`")
pytest.importorskip("grpc", reason="the other side")

import grpc
from helpers import PATIENCE_S

from hostd.fronts.access import Access, Role
from hostd.fronts.bodies import Bodies
from hostd.fronts.grpc import protocol
from hostd.fronts.grpc.exchange import Served
from hostd.fronts.grpc.framing import framed
from hostd.fronts.grpc.server import Server, context_of
from hostd.fronts.grpc.serving import Rpc, served
from hostd.fronts.http2 import frames
from hostd.fronts.http2.frames import block_of, frame
from hostd.fronts.oip.grpc.messages import message
from hostd_workers.wire.errors import InvalidArgumentError

Text = message("grpc.health.v1.HealthCheckRequest")
SERVICE = "t.T"
MAX_BYTES = 1 << 20
GREETING = frames.PREFACE + frames.settings_frame(())
STREAMED = ("Count", "Slow")


class Handlers:
    """What is served, and what has become of it."""

    def __init__(self):
        self.gate = asyncio.Event()
        self.told = []
        self.written = 0

    async def echo(self, asked, _context):
        return asked

    async def hold(self, asked, _context):
        try:
            self.told.append("begun")
            await self.gate.wait()
        except asyncio.CancelledError:
            self.told.append("cancelled")
            raise
        return asked

    async def fail(self, _asked, _context):
        raise ValueError("a defect")

    async def refuse(self, asked, _context):
        raise InvalidArgumentError(asked.service)

    async def flood(self, asked, context):
        while True:
            await context.write(asked)
            self.written += 1

    async def count(self, asked, context):
        async for one in asked:
            await context.write(one)

    async def slow(self, asked, context):
        await self.gate.wait()
        await self.count(asked, context)

    async def left(self, _asked, context):
        return Text(service=str(context.left_s()))


class Serving:
    def __init__(self, handlers, bodies, server, port):
        self.handlers = handlers
        self.bodies = bodies
        self.server = server
        self.target = f"127.0.0.1:{port}"
        self.port = port
        self.writers = []

    @property
    def protocols(self):
        return list(self.server._protocols)

    async def connect(self, context=None, greeting=GREETING):
        """Return reader and writer of a connection that has greeted."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context)
        self.writers.append(writer)
        writer.write(greeting)
        return reader, writer


@asynccontextmanager
async def serving(context=None, access=None):
    handlers = Handlers()
    names = ("echo", "hold", "fail", "refuse", "flood", "count", "slow", "left")
    rpcs = tuple(
        Rpc(name.title(), Text, Text, name.title() in STREAMED, name.title() in ("Count", "Slow", "Flood"))
        for name in names
    )
    methods = served(SERVICE, rpcs, {name.title(): (Role.CALL, getattr(handlers, name)) for name in names})
    bodies = Bodies(2 * MAX_BYTES)
    server = Server(Served(methods, access or Access(), bodies, MAX_BYTES))
    listener = socket.create_server(("127.0.0.1", 0))
    await server.start(listener, context)
    try:
        rig = Serving(handlers, bodies, server, listener.getsockname()[1])
        yield rig
    finally:
        handlers.gate.set()
        for writer in rig.writers:
            writer.transport.abort()
        await server.end(0)


def unary(channel, name):
    return channel.unary_unary(f"/{SERVICE}/{name}", Text.SerializeToString, Text.FromString)


async def true(check):
    """Wait until a check holds."""
    while not check():  # noqa: ASYNC110 - of what tells nobody; `run` bounds it
        await asyncio.sleep(0.01)


def head_of(name, *more, **changed):
    fields = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": f"/{SERVICE}/{name}".encode(),
        b"content-type": b"application/grpc",
        b"te": b"trailers",
    }
    fields |= {key.replace("_", "-").encode(): value for key, value in changed.items()}
    return block_of([*fields.items(), *more])


def asking(stream_id, name, body, flags=frames.END_STREAM, **changed):
    head = frame(frames.HEADERS, frames.END_HEADERS, stream_id, head_of(name, **changed))
    return head + frame(frames.DATA, flags, stream_id, body)


async def frames_until(reader, kind, stream_id, flags=0):
    """Return the payload of the first frame of a kind for a stream."""
    while True:
        high, low, found, has, number = frames.PRELUDE.unpack(await reader.readexactly(frames.PRELUDE.size))
        payload = await reader.readexactly(high << 8 | low)
        if (found, number) == (kind, stream_id) and has & flags == flags:
            return payload


def run(work):
    asyncio.run(asyncio.wait_for(work, 2 * PATIENCE_S))


# Calls


@pytest.mark.parametrize("compression", list(grpc.Compression))
@pytest.mark.parametrize("size", [0, 10, 900_000])
def test_messages_come_and_go_whole(compression, size):
    async def main():
        async with serving() as rig, grpc.aio.insecure_channel(rig.target, compression=compression) as channel:
            text = "x" * size
            for _ in range(3):
                assert (await unary(channel, "Echo")(Text(service=text))).service == text
            count = channel.stream_stream(f"/{SERVICE}/Count", Text.SerializeToString, Text.FromString)
            asked = [Text(service=f"{number}{text}") for number in range(5)]
            assert [answer async for answer in count(iter(asked))] == asked
            assert rig.bodies.bytes == 0

    run(main())


def test_many_calls_run_at_a_time_over_one_connection():
    async def main():
        async with serving() as rig, grpc.aio.insecure_channel(rig.target) as channel:
            calls = [unary(channel, "Hold")(Text(service=str(number))) for number in range(300)]
            await true(lambda: rig.handlers.told.count("begun") == 300)
            rig.handlers.gate.set()
            assert [(await call).service for call in calls] == [str(number) for number in range(300)]
            assert (len(rig.protocols), rig.protocols[0].is_idle, rig.bodies.bytes) == (1, True, 0)

    run(main())


def test_errors_are_told_with_their_words(caplog):
    async def main():
        async with serving() as rig, grpc.aio.insecure_channel(rig.target) as channel:
            for name, words, code in (
                ("Refuse", "50 % ü \n\x7f", grpc.StatusCode.INVALID_ARGUMENT),
                ("Fail", "a defect of the front; its log says more", grpc.StatusCode.INTERNAL),
                ("Nothing", "there is no method '/t.T/Nothing' here", grpc.StatusCode.UNIMPLEMENTED),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await unary(channel, name)(Text(service=words))
                assert (caught.value.code(), caught.value.details()) == (code, words)

    with caplog.at_level(logging.ERROR):
        run(main())
    assert "a defect; please report it" in caplog.text


def test_a_handler_knows_how_long_its_client_waits():
    async def main():
        async with serving() as rig, grpc.aio.insecure_channel(rig.target) as channel:
            left_s = float((await unary(channel, "Left")(Text(), timeout=PATIENCE_S)).service)
            assert PATIENCE_S / 2 < left_s <= PATIENCE_S + 1
            assert (await unary(channel, "Left")(Text())).service == "None"
            reader, writer = await rig.connect()
            for number, unit in enumerate((b"99H", b"3M", b"7S", b"70000m", b"99999999u", b"99999999n")):
                writer.write(asking(2 * number + 1, "Left", framed(b""), grpc_timeout=unit))
                told = await frames_until(reader, frames.DATA, 2 * number + 1)
                limit_s = {"H": 99 * 3600, "M": 180, "S": 7, "m": 70, "u": 100, "n": 0.1}[unit[-1:].decode()]
                assert limit_s - 60 < float(Text.FromString(told[5:]).service) <= limit_s

    run(main())


def test_who_cancels_or_goes_has_the_call_cancelled():
    async def main():
        async with serving() as rig:
            async with grpc.aio.insecure_channel(rig.target) as channel:
                call = unary(channel, "Hold")(Text())
                await true(lambda: rig.handlers.told == ["begun"])
                call.cancel()
                await true(lambda: rig.handlers.told == ["begun", "cancelled"])
                call = unary(channel, "Hold")(Text())
                await true(lambda: len(rig.handlers.told) == 3)
            await true(lambda: rig.handlers.told[3:] == ["cancelled"])
            _, writer = await rig.connect()
            writer.write(asking(1, "Hold", framed(b"")) + asking(3, "Echo", bytes(9), flags=0))
            await true(lambda: len(rig.handlers.told) == 5)
            writer.transport.abort()
            await true(lambda: rig.handlers.told[5:] == ["cancelled"])
            assert rig.bodies.bytes == 0

    run(main())


def test_a_client_that_does_not_read_holds_its_handler_up():
    async def main():
        async with serving() as rig, grpc.aio.insecure_channel(rig.target) as channel:
            flood = channel.unary_stream(f"/{SERVICE}/Flood", Text.SerializeToString, Text.FromString)
            call = flood(Text(service="x" * 10_000))
            await call.read()
            held = []
            for _ in range(50):
                await asyncio.sleep(0.01)
                held.append(rig.handlers.written)
            assert held[-1] == held[-10] < 5000, "it waits for room"
            for _ in range(held[-1]):
                await call.read()
            await true(lambda: rig.handlers.written > held[-1])
            call.cancel()
            assert (await unary(channel, "Echo")(Text(service="on"))).service == "on"

    run(main())


def test_a_stream_that_is_not_taken_holds_its_client_up():
    async def main():
        async with serving() as rig:
            reader, writer = await rig.connect()
            writer.write(frame(frames.HEADERS, frames.END_HEADERS, 1, head_of("Slow")))
            one = framed(Text(service="x" * 1000).SerializeToString())
            whole, left = one * 1000, 1 << 20
            while left:
                piece, left = whole[: min(left, 16_000)], left - min(left, 16_000)
                whole = whole[len(piece) :] + piece
                writer.write(frame(frames.DATA, 0, 1, piece))
            await true(lambda: rig.bodies.bytes == 1 << 20)
            (held,) = rig.protocols
            (stream,) = held.exchange.connection.streams
            assert stream.allowed_bytes == 0, "no more may come"
            writer.write(frames.window_update(0, 1 << 24) + frames.window_update(1, 1 << 24))
            rig.handlers.gate.set()
            assert frames.u32_of(await frames_until(reader, frames.WINDOW_UPDATE, 1)) >= 1 << 19
            writer.transport.abort()
            await true(lambda: rig.bodies.bytes == 0)

    run(main())


# Who may


def test_who_may_not_is_refused_before_the_message_is_kept():
    async def main():
        async with serving(access=Access(anonymous=Role.READ)) as rig:
            reader, writer = await rig.connect()
            writer.write(asking(1, "Echo", bytes(16_000), flags=0))
            told = await frames_until(reader, frames.HEADERS, 1, frames.END_STREAM)
            assert b"grpc-status\x0216" in told
            assert frames.u32_of(await frames_until(reader, frames.RST_STREAM, 1)) == frames.NO_ERROR
            assert rig.bodies.bytes == 0

    run(main())


def test_a_connection_with_a_certificate_speaks_http_2_alone(tmp_path):
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1")
    make = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject)
    subprocess.run([*make, "-keyout", key, "-out", certificate], check=True, capture_output=True)

    async def main():
        async with serving(context_of(str(certificate), str(key))) as rig:
            credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
            async with grpc.aio.secure_channel(rig.target, credentials) as channel:
                text = "x" * 900_000
                assert (await unary(channel, "Echo")(Text(service=text))).service == text
            context = ssl.create_default_context(cafile=certificate)
            context.set_alpn_protocols(["h2", "http/1.1"])
            _, writer = await rig.connect(context)
            assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"

    run(main())


# Who sends what is no call


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({":method": b"GET"}, b"405"),
        ({"content_type": b"application/json"}, b"415"),
        ({"content_type": b"application/grpc-web"}, b"415"),
        ({"grpc_timeout": b"soon"}, b"400"),
    ],
)
def test_what_is_no_call_gets_a_status_of_http(changed, status):
    async def main():
        async with serving() as rig:
            reader, writer = await rig.connect()
            writer.write(asking(1, "Echo", framed(b""), **changed))
            assert b":status\x03" + status in await frames_until(reader, frames.HEADERS, 1, frames.END_STREAM)
            writer.write(asking(3, "Echo", framed(b"")))
            assert b"grpc-status\x010" in await frames_until(reader, frames.HEADERS, 3, frames.END_STREAM)

    run(main())


@pytest.mark.parametrize("content_type", [b"application/grpc+proto", b"application/grpc;charset=x"])
def test_forms_of_the_content_type_are_known(content_type):
    async def main():
        async with serving() as rig:
            reader, writer = await rig.connect()
            writer.write(asking(1, "Echo", framed(b""), content_type=content_type))
            assert b"grpc-status\x010" in await frames_until(reader, frames.HEADERS, 1, frames.END_STREAM)

    run(main())


def test_who_speaks_http_1_is_told_so_in_its_own_words():
    async def main():
        async with serving() as rig:
            reader, writer = await rig.connect(greeting=b"")
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            told = await reader.read()
            assert told.startswith(b"HTTP/1.1 505 ")
            assert b"This address speaks gRPC" in told

    run(main())


GZIPPED = gzip.compress(Text(service="x" * 1000).SerializeToString())


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        (b"", b"identity", b"3"),
        (framed(b"") * 2, b"identity", b"3"),
        (framed(b"") + b"\0\0", b"identity", b"3"),
        (b"\0\0\0", b"identity", b"3"),
        (framed(b"\xff"), b"identity", b"13"),
        (struct.pack(">BI", 1, len(GZIPPED)) + GZIPPED, b"identity", b"13"),
        (struct.pack(">BI", 1, len(GZIPPED)) + GZIPPED, b"deflate", b"3"),
        (struct.pack(">BI", 1, len(GZIPPED)) + GZIPPED, b"gzip", b"0"),
        (struct.pack(">BI", 1, len(GZIPPED) - 3) + GZIPPED[:-3], b"gzip", b"3"),
        (struct.pack(">BI", 0, MAX_BYTES + 1), b"identity", b"8"),
        (framed(b""), b"br", b"12"),
    ],
    ids=["none", "two", "more", "part", "no message", "no encoding", "another", "gzip", "cut off", "large", "unknown"],
)
def test_a_body_is_one_message(body, encoding, status):
    async def main():
        async with serving() as rig:
            reader, writer = await rig.connect()
            writer.write(asking(1, "Echo", body, grpc_encoding=encoding))
            told = await frames_until(reader, frames.HEADERS, 1, frames.END_STREAM)
            assert b"grpc-status" + bytes((len(status),)) + status in told
            await true(lambda: rig.protocols[0].is_idle)
            assert rig.bodies.bytes == 0

    run(main())


def test_what_a_message_unfolds_to_is_bounded():
    bomb = zlib.compress(bytes(100 * MAX_BYTES))

    async def main():
        async with serving() as rig:
            reader, writer = await rig.connect()
            body = struct.pack(">BI", 1, len(bomb)) + bomb
            pieces = [body[at : at + frames.FRAME_BYTES] for at in range(0, len(body), frames.FRAME_BYTES)]
            writer.write(frame(frames.HEADERS, frames.END_HEADERS, 1, head_of("Echo", (b"grpc-encoding", b"deflate"))))
            for piece in pieces:
                writer.write(frame(frames.DATA, 0, 1, piece))
            writer.write(frame(frames.DATA, frames.END_STREAM, 1))
            assert b"grpc-status\x018" in await frames_until(reader, frames.HEADERS, 1, frames.END_STREAM)
            assert rig.bodies.bytes == 0

    run(main())


def test_calls_that_are_reset_at_once_do_not_keep_others_waiting():
    async def main():
        async with serving() as rig, grpc.aio.insecure_channel(rig.target) as channel:
            _, writer = await rig.connect()
            for number in range(1, 20_001, 2):
                writer.write(asking(number, "Hold", framed(b"")) + frames.rst_stream(number, frames.CANCEL))
            calls = [asyncio.create_task(writer.drain())]
            for _ in range(20):
                assert (await unary(channel, "Echo")(Text(service="on"), timeout=PATIENCE_S)).service == "on"
            await asyncio.gather(*calls)
            await true(lambda: all(held.is_idle for held in rig.protocols))
            assert rig.bodies.bytes == 0

    run(main())


@pytest.mark.parametrize("is_closing", [False, True])
def test_who_reads_no_answers_has_no_more_of_them_made(is_closing):
    async def main():
        async with serving() as rig, grpc.aio.insecure_channel(rig.target) as channel:
            _, writer = await rig.connect()
            ping = frame(frames.PING, 0, 0, bytes(8))
            for _ in range(64):
                writer.write(ping * 20_000)
            await true(lambda: any(held._is_full for held in rig.protocols))
            (full,) = [held for held in rig.protocols if held._is_full]
            assert full.exchange.transport.get_write_buffer_size() < 4 << 20
            assert (await unary(channel, "Echo")(Text(service="on"))).service == "on"
            if is_closing:
                full.close()
            for _ in range(protocol.CLOSING_LOOKS if is_closing else protocol.READ_LOOKS + 1):
                full.look()
            await true(lambda: full not in rig.protocols)

    run(main())


# Who keeps it waiting


def test_a_connection_that_says_nothing_is_let_go_and_an_idle_one_is_not():
    async def main():
        async with serving() as rig:
            await rig.connect()
            await true(lambda: len(rig.protocols) == 1 and rig.protocols[0].exchange.connection.is_greeted)
            (kept,) = rig.protocols
            reader, _ = await rig.connect(greeting=b"")
            await true(lambda: len(rig.protocols) == 2)
            amid_reader, amid = await rig.connect()
            amid.write(frame(frames.HEADERS, 0, 1, head_of("Echo")[:9]))
            await true(lambda: any(held.exchange.connection.is_amid_head for held in rig.protocols))
            for _ in range(protocol.GONE_LOOKS):
                for held in rig.protocols:
                    held.look()
            await reader.read()
            await amid_reader.read()
            await true(lambda: rig.protocols == [kept])

    run(main())


def test_a_client_that_has_gone_without_a_word_is_asked_and_let_go():
    async def main():
        async with serving() as rig:
            reader, writer = await rig.connect()
            writer.write(asking(1, "Hold", framed(b"")))
            await true(lambda: rig.handlers.told == ["begun"])
            (held,) = rig.protocols
            for _ in range(protocol.SILENT_LOOKS):
                held.look()
            assert await frames_until(reader, frames.PING, 0) == bytes(8)
            writer.write(frame(frames.PING, frames.ACK, 0, bytes(8)))
            await true(lambda: held._silent_looks == 0)
            for _ in range(protocol.GONE_LOOKS):
                held.look()
            await true(lambda: rig.handlers.told == ["begun", "cancelled"])

    run(main())


def test_a_message_that_does_not_come_on_is_given_up():
    async def main():
        async with serving() as rig:
            reader, writer = await rig.connect()
            writer.write(asking(1, "Echo", b"\0\0\0\x10\0abc", flags=0) + asking(3, "Count", framed(b""), flags=0))
            await true(lambda: rig.bodies.bytes == 8)
            (held,) = rig.protocols
            for _ in range(protocol.BODY_LOOKS):
                held.look()
            assert frames.u32_of(await frames_until(reader, frames.RST_STREAM, 1)) == frames.CANCEL
            await true(lambda: rig.bodies.bytes == 0)
            assert [stream.id for stream in held.exchange.connection.streams] == [3], "a stream may rest"

    run(main())


def test_an_answer_that_nobody_takes_is_given_up():
    async def main():
        async with serving() as rig:
            reader, writer = await rig.connect()
            writer.write(frames.settings_frame(((frames.INITIAL_WINDOW_SIZE, 5),)))
            writer.write(asking(1, "Echo", framed(Text(service="x" * 1000).SerializeToString())))
            assert len(await frames_until(reader, frames.DATA, 1)) == 5
            (held,) = rig.protocols
            for _ in range(protocol.READ_LOOKS - 1):
                held.look()
            writer.write(frames.window_update(1, 5))
            assert len(await frames_until(reader, frames.DATA, 1)) == 5
            for _ in range(protocol.READ_LOOKS):
                held.look()
            assert frames.u32_of(await frames_until(reader, frames.RST_STREAM, 1)) == frames.CANCEL
            assert held.is_idle

    run(main())


# Its end


def test_at_the_end_calls_that_are_through_are_answered_and_the_others_say_so():
    async def main():
        async with serving() as rig, grpc.aio.insecure_channel(rig.target) as channel:
            calls = [unary(channel, "Hold")(Text(service="x")) for _ in range(2)]
            await true(lambda: len(rig.handlers.told) == 2)
            ending = asyncio.create_task(rig.server.end(PATIENCE_S))
            await asyncio.sleep(0)
            rig.handlers.gate.set()
            assert [(await call).service for call in calls] == ["x", "x"]
            await ending
        async with serving() as rig, grpc.aio.insecure_channel(rig.target) as channel:
            call = unary(channel, "Hold")(Text())
            await true(lambda: rig.handlers.told == ["begun"])
            await rig.server.end(0)
            with pytest.raises(grpc.aio.AioRpcError, match="this front ends") as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

    run(main())
