"""Listeners on an event loop that runs while a test waits for something, and real peers of theirs.

`Transport.dealer` makes peers of ZeroMQ, `RawPeer` is one that sends the bytes that a test wants to be sent.
"""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import zmq
from helpers import PATIENCE_S, POLL_S, REPOSITORY, line_of

from hostd.shell.transport.listener import Listener, Side
from hostd.shell.transport.poller import Poller

LIMIT_BYTES = 2 << 20
SMALL_BYTES = 256 * 1024
CHUNK = bytes(16 * 1024)

MORE, LONG, COMMAND = 1, 2, 4
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)


def frame(body, flags=0):
    """Return a frame of ZMTP."""
    if len(body) > 255:
        return bytes([flags | LONG]) + len(body).to_bytes(8, "big") + body
    return bytes([flags, len(body)]) + body


def announced(length, flags=0):
    """Return the header of a frame of any length."""
    return bytes([flags | LONG]) + length.to_bytes(8, "big")


def message(*frames):
    """Return the bytes of a message."""
    return b"".join(frame(body, MORE) for body in frames[:-1]) + frame(frames[-1])


def ready(socket_type=b"DEALER", identity=b""):
    """Return a peer's command READY."""
    properties = ((b"Socket-Type", socket_type), (b"Identity", identity))
    body = b"".join(bytes([len(name)]) + name + len(value).to_bytes(4, "big") + value for name, value in properties)
    return frame(b"\x05READY" + body, COMMAND)


FIRST = GREETING + ready()


class RawPeer:
    """A connected socket; what it sends is what it is told to."""

    def __init__(self, path, first=FIRST):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.socket.setblocking(False)
        self.received = bytearray()
        self.is_ended = False
        self.say(first)

    def say(self, data):
        """Send all of this, which must fit into what the system keeps."""
        assert self.socket.send(data) == len(data)

    def hear(self, most=1 << 20):
        """Take in what has come, and return how much is here; an end is noted, too."""
        with contextlib.suppress(BlockingIOError):
            try:
                while chunk := self.socket.recv(most):
                    self.received += chunk
                    if most < 1 << 20:
                        return len(self.received)
                self.is_ended = True
            except ConnectionResetError:
                self.is_ended = True
        return len(self.received)

    def has_ended(self):
        """Say whether the connection was closed at the other end."""
        self.hear()
        return self.is_ended

    def frames(self):
        """Return flags and bodies of the frames that have come after the greeting."""
        self.hear()
        found, at, data = [], 64, bytes(self.received)
        while at < len(data):
            is_long = data[at] & LONG
            start = at + (9 if is_long else 2)
            stop = start + int.from_bytes(data[at + 1 : start], "big")
            if stop > len(data):
                break
            found.append((data[at] & ~LONG, data[start:stop]))
            at = stop
        return found

    def messages(self):
        """Return the last frames of the messages that have come."""
        return [body for flags, body in self.frames() if not flags]


class Heard:
    """A side of the host that notes what it is told; its peers are b"1", b"2", … in the order in which they come."""

    def __init__(self, *, is_trusted=False, vouches=True, is_batching=False):
        self.messages = []
        self.too_long = []
        self.unsent = []
        self.gone = []
        self.claims = []
        self.on_message = lambda identity, frames: None
        self.on_unsent = lambda *what: self.unsent.append(what)
        self.on_gone = self.gone.append
        self.admit = lambda claimed: b"%d" % len(self.claims)
        self.is_trusted = is_trusted
        self._vouches, self._is_batching = vouches, is_batching

    def side(self):
        """Return what a listener is made with."""
        return Side(
            admit=self._admit,
            message=self._hear,
            too_long=lambda identity, first: self.too_long.append((identity, bytes(first))),
            unsent=self._note_unsent,
            gone=self._note_gone,
            is_trusted=self.is_trusted,
        )

    def _admit(self, claimed, _pid):
        self.claims.append(claimed)
        return self.admit(claimed)

    def _hear(self, identity, frames):
        if self._vouches:
            self.listener.vouch(identity, is_batching=self._is_batching)
        self.messages.append((identity, [bytes(frame) for frame in frames]))
        self.on_message(identity, frames)

    # Asked for late: a test may exchange the handlers.

    def _note_unsent(self, *what):
        self.on_unsent(*what)

    def _note_gone(self, identity):
        self.on_gone(identity)

    def of(self, identity):
        """Return the first frames of a peer's messages."""
        return [frames[0] for sender, frames in self.messages if sender == identity]


class Transport:
    """A poller on a loop of its own; what its listeners hear they hear while `until` waits."""

    def __init__(self, directory):
        self.loop = asyncio.new_event_loop()
        self.poller = Poller(self.loop)
        self.context = zmq.Context()
        self.failures = []
        self.loop.set_exception_handler(lambda _, context: self.failures.append(context["exception"]))
        self._directory = directory
        self._stack = contextlib.ExitStack()
        self._stack.callback(self.loop.close)
        self._stack.callback(self.context.destroy, 0)
        self._stack.callback(self.poller.close)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self._stack.close()
        assert kind is not None or not self.failures

    def listen(self, side, name="a", *, peer_buffer_bytes=LIMIT_BYTES):
        """Return a listener that is closed with the rest."""
        made = Listener(
            self.poller,
            f"ipc://{self._directory}/{name}.ipc",
            side,
            max_message_bytes=LIMIT_BYTES,
            peer_buffer_bytes=peer_buffer_bytes,
        )
        self._stack.callback(made.close)
        return made

    def hear(self, heard, name="a", *, peer_buffer_bytes=LIMIT_BYTES):
        """Return a listener with a side that notes what it is told."""
        heard.listener = self.listen(heard.side(), name, peer_buffer_bytes=peer_buffer_bytes)
        return heard.listener

    def raw(self, listener, first=FIRST):
        """Return a peer that is closed with the rest."""
        peer = RawPeer(listener.endpoint.removeprefix("ipc://"), first)
        self._stack.callback(peer.socket.close)
        return peer

    def dealer(self, listener, identity=b"", **options):
        """Return a DEALER that begins to connect."""
        peer = self.context.socket(zmq.DEALER)
        self._stack.callback(peer.close, 0)
        if identity:
            peer.setsockopt(zmq.IDENTITY, identity)
        for name, value in options.items():
            peer.setsockopt(getattr(zmq, name), value)
        peer.connect(listener.endpoint)
        return peer

    def has_failed(self, kind, times=1):
        """Expect that handlers have raised this, and nothing else."""
        failed, self.failures = self.failures, []
        assert [type(failure) for failure in failed] == [kind] * times

    def until(self, is_true, what="it"):
        """Let the loop run until something is true; the loop wakes for sockets, and looks now and then."""

        async def wait():
            quiet = asyncio.Event()
            before = self.poller.on_quiet
            self.poller.on_quiet = lambda: (before(), quiet.set())
            try:
                while not is_true():
                    quiet.clear()
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(quiet.wait(), POLL_S)
            finally:
                self.poller.on_quiet = before

        try:
            self.loop.run_until_complete(asyncio.wait_for(wait(), PATIENCE_S))
        except asyncio.TimeoutError:
            raise AssertionError(f"not in {PATIENCE_S:g} s: {what}") from None


def connection_of(listener, name=b"1"):
    """Return what a listener knows of a peer; it shows nobody else."""
    return listener._connections[name]


class Relay:
    """Clients, and workers: each of their messages goes to the client that its first byte names."""

    def __init__(self, transport, peer_buffer_bytes=SMALL_BYTES):
        self.clients, self.workers = Heard(), Heard(is_trusted=True)
        self.front = transport.hear(self.clients, peer_buffer_bytes=peer_buffer_bytes)
        self.back = transport.hear(self.workers, "b", peer_buffer_bytes=peer_buffer_bytes)
        self.workers.on_message = lambda _, frames: self.front.send(frames[0][:1], frames)
        self.transport = transport

    def client(self):
        return known(self.transport, self.front, self.clients)

    def worker(self):
        return self.transport.raw(self.back)

    def holds_up(self, name=b"1"):
        """Say whether a worker waits for a client."""
        return name in self.back._connections and connection_of(self.back, name).blockers > 0


class Line:
    """A listener with one worker, which reads when a test has it read."""

    def __init__(self, transport, peer_buffer_bytes=SMALL_BYTES):
        self.heard = Heard(is_trusted=True)
        self.listener = transport.hear(self.heard, peer_buffer_bytes=peer_buffer_bytes)
        self.peer = known(transport, self.listener, self.heard)
        self.connection = connection_of(self.listener)

    def send(self, *frames, call=None):
        self.listener.send(b"1", list(frames), call)

    def withdraw(self, call):
        return self.listener.withdraw(b"1", call)

    def fill(self, count):
        """Send so many calls of a chunk each, by number."""
        for number in range(count):
            self.send(CHUNK, call=number)


def pump(peer, data, times):
    """Return what sends this so many times, as far as there is room; true when all of it is sent."""
    rest = memoryview(data * times)

    def push():
        nonlocal rest
        try:
            while rest:
                rest = rest[peer.socket.send(rest) :]
        except BlockingIOError:
            return False
        return True

    return push


def work(seconds):
    """Be busy, as a handler is."""
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        pass


def known(transport, listener, heard):
    """Return a peer that is vouched for."""
    before = len(heard.messages)
    peer = transport.raw(listener)
    peer.say(message(b"here"))
    transport.until(lambda: len(heard.messages) > before)
    heard.messages.pop()
    return peer


class Others:
    """A process of its own with raw connections (`peers.py`)."""

    def __init__(self, path):
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("peers.py")), path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(str(REPOSITORY / each) for each in ("tests", "tests/shell")),
            },
        )
        assert line_of(self._process) == "up"

    def ask(self, what):
        """Have it do something, and return its answer."""
        assert self._process.stdin is not None
        print(what, file=self._process.stdin, flush=True)
        return line_of(self._process)

    def tell(self, transport, what):
        """Have it do something, while a loop runs."""
        answer = transport.loop.run_in_executor(None, self.ask, what)
        transport.until(answer.done, what)
        answer.result()

    def end(self):
        """Kill it."""
        with self._process as process:
            process.kill()
