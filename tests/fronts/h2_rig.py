"""A server of gRPC in a thread, with plain methods, and a client that sends the frames it is told to."""

import asyncio
import contextlib
import socket
import struct
import threading

import hpack
from helpers import PATIENCE_S

from hostd.fronts.access import Access, Role
from hostd.fronts.bodies import Bodies
from hostd.fronts.grpc.exchange import Served
from hostd.fronts.grpc.server import Server
from hostd.fronts.grpc.serving import Method, Rpc
from hostd.fronts.http2 import frames
from hostd.fronts.http2.frames import END_HEADERS, END_STREAM, PREFACE, frame

MAX_MESSAGE_BYTES = 1 << 24


class Raw:
    """A message that is its bytes."""

    def __init__(self, data=b""):
        self.data = data

    @classmethod
    def FromString(cls, data):  # noqa: N802 - as protobuf names it
        return cls(data)

    def SerializeToString(self):  # noqa: N802 - as protobuf names it
        return self.data


def message(data, flag=0):
    """Return a message as gRPC frames it."""
    return struct.pack(">BI", flag, len(data)) + data


def asked(stream_id, path, *fields):
    """Return the head of a request."""
    given = [(":method", "POST"), (":scheme", "http"), (":path", path), ("content-type", "application/grpc"), *fields]
    block = frames.block_of([(name.encode(), value.encode()) for name, value in given])
    return frame(frames.HEADERS, END_HEADERS, stream_id, block)


def sent(stream_id, data, *, is_last=False):
    """Return the frames of a body."""
    size = frames.FRAME_BYTES
    pieces = [data[begin : begin + size] for begin in range(0, len(data), size)] or [b""]
    flags = [0] * (len(pieces) - 1) + [END_STREAM if is_last else 0]
    return b"".join(frame(frames.DATA, flag, stream_id, piece) for flag, piece in zip(flags, pieces, strict=True))


class Peer:
    """A client; its windows are as large as can be unless `settings` say otherwise."""

    def __init__(self, port, *settings, receive_bytes=None):
        self.socket = socket.socket()
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(("127.0.0.1", port))
        given = settings or ((frames.INITIAL_WINDOW_SIZE, frames.MAX_WINDOW_BYTES),)
        self.send(PREFACE + frames.settings_frame(given))
        self.send(frames.window_update(0, frames.MAX_WINDOW_BYTES - frames.FIRST_WINDOW_BYTES))
        self._reader = self.socket.makefile("rb")
        self._decoder = hpack.Decoder()

    def send(self, data):
        """Send frames."""
        self.socket.sendall(data)

    def next(self):
        """Return kind, flags, stream and payload of what comes next; None at the end."""
        prelude = self._reader.read(9)
        if len(prelude) < 9:
            return None
        high, low, kind, flags, stream_id = frames.PRELUDE.unpack(prelude)
        return kind, flags, stream_id, self._reader.read(high << 8 | low)

    def until(self, kind, stream_id=0):
        """Return the payload of the next frame of a kind."""
        while (found := self.next()) is not None:
            if found[0] == kind and found[2] == stream_id and not (kind == frames.SETTINGS and found[1]):
                return found[3]
        raise EOFError

    def pong(self):
        """Wait until all that was sent has been taken; return the frames that came before."""
        self.send(frame(frames.PING, 0, 0, bytes(8)))
        found = []
        while (one := self.next())[0] != frames.PING:
            found.append(one)
        return found

    def trailers(self, stream_id):
        """Return the fields of the head that ends a response, and the bytes of its body."""
        body = b""
        while (found := self.next()) is not None:
            kind, flags, of, payload = found
            fields = self._decoder.decode(payload) if kind == frames.HEADERS else []
            if of == stream_id:
                body += payload if kind == frames.DATA else b""
                if kind == frames.HEADERS and flags & END_STREAM:
                    return dict(fields), body
        raise EOFError

    def close(self):
        """Go."""
        self._reader.close()
        self.socket.close()


class Serving:
    """The server, for tests: `call` runs a function in its loop."""

    def __init__(self, handlers):
        self.bodies = Bodies(1 << 28)
        self.methods = {
            f"/{name}".encode(): Method(Rpc(name, Raw, Raw, is_many, is_many), Role.NONE, handler)
            for name, (is_many, handler) in handlers.items()
        }
        self.ready = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    async def _serve(self):
        self.loop, self.ended = asyncio.get_running_loop(), asyncio.Event()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
            self.server = Server(Served(self.methods, Access(), self.bodies, MAX_MESSAGE_BYTES))
            await self.server.start(listener, None)
            self.ready.set()
            await self.ended.wait()
            await self.server.end(2)

    def call(self, function, *args):
        """Return what a function returns in the loop."""

        async def run():
            return function(*args)

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(PATIENCE_S)

    def protocols(self):
        """Return the connections."""
        return self.call(lambda: list(self.server._protocols))


@contextlib.contextmanager
def served(**handlers):
    """Serve handlers, each with whether it takes many messages."""
    serving = Serving(handlers)
    serving.thread.start()
    assert serving.ready.wait(PATIENCE_S)
    try:
        yield serving
    finally:
        with contextlib.suppress(RuntimeError):  # a test has ended it
            serving.loop.call_soon_threadsafe(serving.ended.set)
        serving.thread.join(PATIENCE_S)
