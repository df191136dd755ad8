"""A client as it is written in any language: a DEALER socket, msgpack, and `workers/PROTOCOL.md`. No hostd in it.

python -m hostd.examples.raw_client ipc:///run/user/1000/hostd/default/client.ipc greeter greet Ada
"""

from __future__ import annotations

import struct
import sys
from contextlib import closing
from typing import Any

import msgpack
import zmq

HELLO, CALL, WELCOME, RESULT, ERROR = 1, 2, 17, 18, 21
VERSION, NO_DEADLINE = 1, 0xFFFFFFFF
PREFIX = struct.Struct(">BBHIQ")
"""Kind, version, length of the header, deadline in milliseconds, id."""


class RawClient:
    """One connection; a request at a time."""

    def __init__(self, endpoint: str) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(endpoint)
        self._last_id = 0
        self.ask(HELLO, b"", {"versions": [VERSION]})

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def call(self, model: str, method: str, *args: Any, timeout_s: float = 60.0) -> Any:
        """Return what a model's method returns. Raises RuntimeError with the host's words."""
        return self.ask(CALL, msgpack.packb([model, method]), [args, {}], int(timeout_s * 1000))

    def ask(self, kind: int, header: bytes, body: object, deadline_ms: int = NO_DEADLINE) -> Any:
        """Send a request and wait for its answer; what belongs to another id is late."""
        self._last_id += 1
        prefix = PREFIX.pack(kind, VERSION, len(header), deadline_ms, self._last_id)
        self._socket.send(prefix + header + msgpack.packb(body))
        while True:
            frames = self._socket.recv_multipart()
            kind, _, header_length, _, id_ = PREFIX.unpack_from(frames[0])
            if id_ == self._last_id:
                break
        answer = msgpack.unpackb(frames[0][PREFIX.size + header_length :] or frames[1])
        if kind == ERROR:
            raise RuntimeError(f"{answer[1]}: {answer[2]}")
        return answer


if __name__ == "__main__":
    endpoint, model, method, *arguments = sys.argv[1:]
    with closing(RawClient(endpoint)) as client:
        print(client.call(model, method, *arguments))
