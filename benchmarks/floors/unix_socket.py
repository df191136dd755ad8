"""A plain UNIX stream socket: the kernel's own cost of a round trip between two Python processes.

Run as a program it is the worker: `python -m benchmarks.floors.unix_socket PATH REQUEST_BYTES ANSWER_BYTES`.
"""

from __future__ import annotations

import socket
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from benchmarks.floors.lane import child, die_with_parent, socket_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.floors.lane import Shape

NAME = "UNIX socket"
CONNECT_TIMEOUT_S = 30.0


class SocketLane:
    """The client's end. Lengths are fixed, so there is no framing; a pipeline must fit into the socket's buffer."""

    def __init__(self, stream: socket.socket, payload: Any, answer_bytes: int) -> None:
        self._stream = stream
        self.payload = payload
        self.answer = memoryview(bytearray(answer_bytes))

    def call(self) -> None:
        """Send one request and wait for its answer."""
        self._stream.sendall(self.payload)
        read_exactly(self._stream, self.answer)

    def send(self) -> None:
        """Send one request."""
        self._stream.sendall(self.payload)

    def receive(self) -> None:
        """Wait for the oldest answer."""
        read_exactly(self._stream, self.answer)


def read_exactly(stream: socket.socket, buffer: memoryview) -> None:
    """Fill the buffer; raises EOFError when the peer is gone."""
    done = 0
    while done < len(buffer):
        count = stream.recv_into(buffer[done:])
        if count == 0:
            raise EOFError
        done += count


@contextmanager
def connected(module: str, *arguments: object) -> Iterator[socket.socket]:
    """Run `python -m module PATH arguments...` and give the connection that it makes to PATH."""
    with socket_directory() as directory, socket.socket(socket.AF_UNIX) as listener:
        path = str(directory / "u")
        listener.settimeout(CONNECT_TIMEOUT_S)
        listener.bind(path)
        listener.listen(1)
        with child(module, path, *arguments):
            stream, _ = listener.accept()
            with stream:
                yield stream


@contextmanager
def open_lane(shape: Shape) -> Iterator[SocketLane]:
    """Open client -> worker."""
    with connected(__name__, shape.payload_bytes, shape.answer_bytes) as stream:
        yield SocketLane(stream, shape.payload(), shape.answer_bytes)


def main() -> None:
    """Answer every request with the first bytes of it."""
    die_with_parent()
    with socket.socket(socket.AF_UNIX) as stream:
        stream.connect(sys.argv[1])
        request = memoryview(bytearray(int(sys.argv[2])))
        answer = request[: int(sys.argv[3])]
        with suppress(EOFError):  # the client is done
            while True:
                read_exactly(stream, request)
                stream.sendall(answer)


if __name__ == "__main__":
    main()
