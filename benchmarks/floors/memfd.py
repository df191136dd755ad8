"""A raw memfd that two processes share and use again and again, announced over a UNIX socket.

Each direction has a memfd of its own, passed once; a call is a memcpy into it and eight bytes each way. An answer is
read in place. Run as a program it is the worker: `python -m benchmarks.floors.memfd PATH PAYLOAD_BYTES IS_ECHO`.
"""

from __future__ import annotations

import mmap
import os
import socket
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from benchmarks.floors.lane import SIZE_ANSWER, Shape, die_with_parent
from benchmarks.floors.unix_socket import connected, read_exactly

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "raw memfd, UNIX socket"


class MemfdLane:
    """The client's end. One request at a time: there is one memfd per direction; `answer` is what came back."""

    def __init__(self, stream: socket.socket, shape: Shape, request: memoryview, answer: memoryview) -> None:
        self.payload = memoryview(shape.payload())
        self.answer = answer
        self._stream = stream
        self._request = request
        self._word = memoryview(bytearray(len(SIZE_ANSWER)))

    def call(self) -> None:
        """Send one request and wait for its answer."""
        self.send()
        self.receive()

    def send(self) -> None:
        """Send one request."""
        self._request[:] = self.payload
        self._stream.sendall(SIZE_ANSWER)

    def receive(self) -> None:
        """Wait for the answer."""
        read_exactly(self._stream, self._word)


@contextmanager
def open_lane(shape: Shape) -> Iterator[MemfdLane]:
    """Open client -> worker."""
    with connected(__name__, shape.payload_bytes, int(shape.is_echo)) as stream:
        files = [_memory(shape.payload_bytes) for _ in range(2)]
        try:
            socket.send_fds(stream, [SIZE_ANSWER], files)
            yield MemfdLane(stream, shape, *(_mapped(fd, shape.payload_bytes) for fd in files))
        finally:
            for fd in files:
                os.close(fd)


def _memory(size_bytes: int) -> int:
    fd = os.memfd_create("hb-memfd")
    os.ftruncate(fd, size_bytes)
    return fd


def _mapped(fd: int, size_bytes: int) -> memoryview:
    return memoryview(mmap.mmap(fd, size_bytes))


def main() -> None:
    """Answer every request: with a copy of it in the other memfd, or with eight bytes alone."""
    die_with_parent()
    path, payload_bytes, is_echo = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "1"
    with socket.socket(socket.AF_UNIX) as stream:
        stream.connect(path)
        files = socket.recv_fds(stream, len(SIZE_ANSWER), 2)[1]
        request, answer = (_mapped(fd, payload_bytes) for fd in files)
        word = memoryview(bytearray(len(SIZE_ANSWER)))
        with suppress(EOFError):  # the client is done
            while True:
                read_exactly(stream, word)
                if is_echo:
                    answer[:] = request
                stream.sendall(word)


if __name__ == "__main__":
    main()
