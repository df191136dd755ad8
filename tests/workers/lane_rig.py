"""A worker with lanes, and a client at the other end of one that sends what it is told to."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from typing import TYPE_CHECKING, Any

from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import decode, encode_call
from hostd_workers.wire.lane import page, stream
from hostd_workers.wire.lane.link import Link
from hostd_workers.wire.lane.spare import Spare

if TYPE_CHECKING:
    from supervisor_rig import Supervisor

SECRET = b"s" * 16
PATIENCE_S = 60.0


class Rig:
    """A worker whose supervisor is the test."""

    def __init__(self, supervisor: Supervisor, source: str, **limits: int) -> None:
        self.supervisor = supervisor
        self.path = str(supervisor.directory / "lane")
        fd = page.new()
        os.set_inheritable(fd, True)
        self.process = supervisor.start(pass_fds=(fd,))
        supervisor.receive()
        told = {"path": self.path, "secret": SECRET, "model_id": "m", "max_in_flight": 64}
        told |= {"max_in_flight_bytes": 1 << 30, "max_message_bytes": 1 << 28, "spin_s": 0.0, **limits}
        loaded = msg.unpack_map(supervisor.load(source, lane=told, page_fd=fd))
        assert loaded["lane"] is True
        self.page = page.Page(fd, sorted(loaded["methods"]))
        os.close(fd)
        self.clients: list[Client] = []

    def client(self, secret: bytes = SECRET) -> Client:
        client = Client(self.path)
        client.send(wire.pack(msg.LANE_HELLO, 0, secret))
        self.clients.append(client)
        return client

    def close_lanes(self) -> None:
        self.supervisor.send(wire.pack(msg.CLOSE_LANES, 0))

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.page.close()


class Client:
    """One connection, over which whole messages or any bytes can be sent."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        try:
            self.socket.connect(path)
        except OSError:
            self.socket.close()
            raise
        self.link = Link(self.socket, stream.new_buffer(), 1 << 30, Spare())
        self._come: list[wire.Envelope] = []

    def close(self) -> None:
        self._come.clear()
        self.link.close()

    def send(self, *messages: list[wire.Buffer]) -> None:
        for frames in messages:
            self.link.send(frames)
        self.link.flush()
        while self.link.wants_to_send:
            self._wait(select.POLLOUT)
            self.link.flush()

    def call(self, method: str, *args: Any, id: int = 1, kind: int = msg.CALL, window: int = 0) -> None:
        self.send(call_of(method, *args, id=id, kind=kind, window=window))

    def receive(self) -> wire.Envelope:
        while not self._come:
            self._wait(select.POLLIN)
            self._come += [each for each in self.link.receive() if each.kind != msg.LANE_WELCOME]
        return self._come.pop(0)

    def receive_together(self) -> list[int]:
        """Return the kinds of what comes in one piece, also of what is about shared memory; that is then forgotten."""
        self._wait(select.POLLIN)
        reader = stream.Reader(stream.new_buffer(), 1 << 20)
        return [envelope.kind for envelope in reader.received(self.socket.recv_into(reader.space()))]

    def _wait(self, event: int) -> None:
        poller = select.poll()
        poller.register(self.link.fd, event)
        assert poller.poll(PATIENCE_S * 1000), "the worker does nothing"

    def result(self, method: str, *args: Any, id: int = 1) -> Any:
        self.call(method, *args, id=id)
        answer = self.receive()
        assert answer.id == id
        if answer.kind == msg.ERROR:
            raise msg.unpack_error(answer)
        assert answer.kind == msg.RESULT
        return decode(answer.body, answer.buffers)

    def rest(self) -> list[wire.Envelope]:
        """Return what comes until the connection ends."""
        come = []
        with contextlib.suppress(EOFError):
            while True:
                come.append(self.receive())
        return come

    def is_ended(self) -> bool:
        """Wait for the end of the connection, and say whether nothing came before it."""
        try:
            self.receive()
        except (EOFError, ConnectionError):
            return True
        return False


def call_of(method: str, *args: Any, id: int = 1, kind: int = msg.CALL, window: int = 0) -> list[wire.Buffer]:
    body, buffers = encode_call(args, {})
    return wire.pack(kind, id, msg.pack_target(msg.Target("m", method, window=window)), body, buffers)


def wait_for(is_so: Any, what: str) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < until_s, f"it did not come to this: {what}"
        time.sleep(0.005)
