"""A worker that serves many UNIX sockets from one thread, as plainly as Python can: epoll, one read, one answer.

Run as a program it is the worker: `python -m benchmarks.floors.unix_server PATH REQUEST_BYTES`. It echoes.
"""

from __future__ import annotations

import select
import socket
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from benchmarks.floors.lane import child, die_with_parent, socket_directory
from benchmarks.floors.unix_socket import SocketLane, read_exactly

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.floors.lane import Shape


@contextmanager
def serving(shape: Shape) -> Iterator[str]:
    """Run the worker; gives the path that it listens on."""
    with socket_directory() as directory:
        path = str(directory / "s")
        with child(__name__, path, shape.payload_bytes, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise RuntimeError(f"the worker on {path} has ended with {process.wait()}")
            yield path


@contextmanager
def open_lane(path: str, shape: Shape) -> Iterator[SocketLane]:
    """Connect one more client to the worker."""
    with socket.socket(socket.AF_UNIX) as stream:
        stream.connect(path)
        yield SocketLane(stream, shape.payload(), shape.answer_bytes)


def main() -> None:
    """Echo what comes on any connection."""
    die_with_parent()
    request = memoryview(bytearray(int(sys.argv[2])))
    streams: dict[int, socket.socket] = {}
    with socket.socket(socket.AF_UNIX) as listener, select.epoll() as epoll:
        listener.bind(sys.argv[1])
        listener.listen()
        print("listening", flush=True)
        epoll.register(listener, select.EPOLLIN)
        while True:
            for fd, _ in epoll.poll():
                if fd == listener.fileno():
                    stream, _ = listener.accept()
                    streams[stream.fileno()] = stream
                    epoll.register(stream, select.EPOLLIN)
                else:
                    _answer(streams, fd, request)


def _answer(streams: dict[int, socket.socket], fd: int, request: memoryview) -> None:
    try:
        read_exactly(streams[fd], request)
        streams[fd].sendall(request)
    except (EOFError, ConnectionError):  # the client is done; a closed descriptor leaves the epoll by itself
        streams.pop(fd).close()


if __name__ == "__main__":
    main()
