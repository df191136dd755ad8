"""A host that answers as a test wants it to: a real ROUTER in a thread, and nothing behind it."""

from __future__ import annotations

import collections
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

import zmq
from helpers import eventually

from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import decode, encode

Frames = list[Any]
Answer = Callable[["FakeHost", wire.Envelope], Iterable[Frames]]

WELCOME: dict[str, Any] = {"version": 1, "supported": [1], "epoch": "e", "max_message_bytes": 1 << 20}


def echo(host: FakeHost, request: wire.Envelope) -> Iterable[Frames]:
    """Answer a call with its first argument, a stream with as many items as its first argument says."""
    if request.kind == msg.HELLO:
        yield msg.pack_map(msg.WELCOME, request.id, WELCOME)
    elif request.kind == msg.CALL:
        (value, *_), _ = decode(request.body, request.buffers)
        body, buffers = encode(value)
        yield wire.pack(msg.RESULT, request.id, body=body, buffers=buffers)
    elif request.kind == msg.STREAM:
        (count, *_), _ = decode(request.body)
        for item in range(count):
            yield wire.pack(msg.ITEM, request.id, body=encode(item)[0])
        yield wire.pack(msg.END, request.id, body=encode(None)[0])


def polite(host: FakeHost, request: wire.Envelope) -> Iterable[Frames]:
    """Take every client, and never answer it."""
    if request.kind == msg.HELLO:
        yield from echo(host, request)


class FakeHost:
    """A context manager; `received` are the requests of all clients in their order."""

    def __init__(self, endpoint: str, answer: Answer = echo) -> None:
        self.endpoint = endpoint
        self.answer = answer
        self.received: list[wire.Envelope] = []
        self.clients: list[bytes] = []
        self._outbox: collections.deque[Frames] = collections.deque()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self._is_ending = False
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket: zmq.Socket[Any] = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.sndhwm = 0  # a ROUTER drops what a full queue does not take
        self._socket.bind(endpoint)
        self._thread = threading.Thread(target=self._run, name="fake-host")
        self._thread.start()

    def __enter__(self) -> FakeHost:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End, without a word to anybody."""
        if not self._is_ending:
            self._is_ending = True
            os.eventfd_write(self._wake_fd, 1)
            self._thread.join()
            self._socket.close()
            self._context.term()
            os.close(self._wake_fd)

    def say(self, frames: Frames, client: int = -1) -> None:
        """Send a message to a client, by default to the last that came."""
        self._outbox.append([self.clients[client], *frames])
        os.eventfd_write(self._wake_fd, 1)

    def of_kind(self, kind: int) -> list[wire.Envelope]:
        """Return the requests of one kind."""
        return [request for request in self.received if request.kind == kind]

    def await_kind(self, kind: int, count: int = 1) -> list[wire.Envelope]:
        """Return the requests of one kind when there are `count` of them."""
        eventually(lambda: len(self.of_kind(kind)) >= count, f"{count} requests of kind {kind}")
        return self.of_kind(kind)

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._wake_fd, zmq.POLLIN)
        while not self._is_ending:
            ready = dict(poller.poll())
            if self._wake_fd in ready:
                os.eventfd_read(self._wake_fd)
            while self._outbox:
                self._socket.send_multipart(self._outbox.popleft())
            if self._socket in ready:
                identity, *frames = self._socket.recv_multipart()
                if identity not in self.clients:
                    self.clients.append(identity)
                request = wire.unpack(frames)
                self.received.append(request)
                for message in self.answer(self, request):
                    self._socket.send_multipart([identity, *message])
