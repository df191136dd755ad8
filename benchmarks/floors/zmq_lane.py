"""A DEALER client, and the two ends that every ZeroMQ floor shares: the echoing worker and the two-hop topology.

Run as a program it is the worker: `python -m benchmarks.floors.zmq_lane KIND ENDPOINT IS_ECHO IS_BIG`, where KIND is
`bind` (a ROUTER that binds, for the direct lane) or `connect` (a DEALER that connects, behind a forwarder).
"""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import zmq

from benchmarks.floors.lane import SIZE_ANSWER, Shape, child, die_with_parent, socket_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

# Longer than any start or any 16 MiB call; a floor that is silent for so long is broken.
ANSWER_TIMEOUT_MS = 30_000
HELLO = b"hello"


class DealerLane:
    """The client's end: one DEALER socket, without copies when the payload is big."""

    def __init__(self, socket: zmq.Socket[bytes], shape: Shape) -> None:
        self._socket = socket
        self._message = shape.message()
        self._copy = not shape.is_big

    def call(self) -> None:
        """Send one request and wait for its answer."""
        self._socket.send_multipart(self._message, copy=self._copy)
        self._socket.recv_multipart(0, self._copy)

    def send(self) -> None:
        """Send one request."""
        self._socket.send_multipart(self._message, copy=self._copy)

    def receive(self) -> None:
        """Wait for the oldest answer."""
        self._socket.recv_multipart(0, self._copy)


@contextmanager
def dealer(endpoint: str, shape: Shape) -> Iterator[DealerLane]:
    """Connect a client's lane; the peer may bind later."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.rcvtimeo = socket.sndtimeo = ANSWER_TIMEOUT_MS
        socket.connect(endpoint)
        yield DealerLane(socket, shape)


@contextmanager
def through(forwarder: str, shape: Shape) -> Iterator[DealerLane]:
    """Open client -> forwarder -> worker; `forwarder` is a module that takes FRONT, BACK and IS_BIG as arguments."""
    with ExitStack() as stack:
        directory = stack.enter_context(socket_directory())
        front, back = f"ipc://{directory}/f", f"ipc://{directory}/b"
        stack.enter_context(child(forwarder, front, back, int(shape.is_big)))
        stack.enter_context(child(__name__, "connect", back, int(shape.is_echo), int(shape.is_big)))
        yield stack.enter_context(dealer(front, shape))


def forwarder_sockets(back_type: int) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes], bool]:
    """Bind a forwarder's ROUTER front and its back, as named on the command line; return also whether to copy."""
    die_with_parent()
    context = zmq.Context()
    front, back = context.socket(zmq.ROUTER), context.socket(back_type)
    front.bind(sys.argv[1])
    back.bind(sys.argv[2])
    return front, back, sys.argv[3] == "0"


def main() -> None:
    """Answer every request: all of it again, or a small answer."""
    die_with_parent()
    kind, endpoint, is_echo, is_big = sys.argv[1], sys.argv[2], sys.argv[3] == "1", sys.argv[4] == "1"
    socket = zmq.Context().socket(zmq.ROUTER if kind == "bind" else zmq.DEALER)
    if kind == "bind":
        socket.bind(endpoint)
    else:
        socket.connect(endpoint)
        # A ROUTER in front knows its worker from this first message; zmq.proxy hands it to no client and drops it.
        socket.send(HELLO)
    copy = not is_big
    while True:
        frames: list[Any] = socket.recv_multipart(0, copy)
        socket.send_multipart(frames if is_echo else [frames[0], SIZE_ANSWER], copy=copy)


if __name__ == "__main__":
    main()
