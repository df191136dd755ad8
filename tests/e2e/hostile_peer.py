"""A client that sends what it likes, for tests of peers in bad faith."""

import os

import zmq
from helpers import PATIENCE_S

from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg

MIB = 1 << 20


class Peer:
    """A client that sends what it likes."""

    def __init__(self, endpoint, *, hello=True, identity=b""):
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self._monitor = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self.socket.linger = 0
        self.socket.sndhwm = 0  # what is sent to a host that turns this peer away waits here
        if identity:
            self.socket.setsockopt(zmq.IDENTITY, identity)
        self.socket.connect(endpoint)
        if hello:
            self.send(msg.pack_map(msg.HELLO, 1, {"versions": [wire.VERSION], "pid": os.getpid()}))
            assert self.receive().kind == msg.WELCOME

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.socket.disable_monitor()
        self._monitor.close(0)
        self.socket.close()
        self._context.term()

    def send(self, frames):
        self.socket.send_multipart(frames)

    def receive(self, within_s=PATIENCE_S):
        assert self.socket.poll(within_s * 1000), f"the host did not answer within {within_s:g} s"
        return wire.unpack(self.socket.recv_multipart())

    def expect_end(self):
        assert self._monitor.poll(PATIENCE_S * 1000), "the host did not end the connection"

    def error(self, within_s=PATIENCE_S):
        envelope = self.receive(within_s)
        assert envelope.kind == msg.ERROR, f"an answer of kind {envelope.kind} instead of an error"
        return msg.unpack_error(envelope)

    def verb(self, name, request_id=2, **arguments):
        self.send(msg.pack_map(msg.VERB, request_id, arguments, header=msg.pack_verb(name)))


def call_of(model_id, method, request_id, body=b"\x92\x91\x01\x80", **more):
    return wire.pack(msg.CALL, request_id, msg.pack_target(msg.Target(model_id, method)), body, **more)
