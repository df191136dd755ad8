"""One client at the worker's end of the lane: a UNIX socket, and the calls that come over it.

Rules
1. A connection that floods, stalls, sends garbage or half a message hurts only itself: it has its own queue of calls,
   is not read on while its answers wait, and is closed for what is not of this protocol.
2. Memory that the model may write into again (an array that it returned) is never kept: what cannot leave at once is
   copied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hostd_workers.wire import frames as wire
from hostd_workers.wire.stream import Reader, drop, pack

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from hostd_workers.runtime import Runtime
    from hostd_workers.wire.frames import Buffer

WAITING_BYTES: Final = 1 << 20
"""Of answers that a client has not taken: above that nothing more is done for it."""

_PARTS: Final = 512
"""What one `sendmsg` takes; the system's limit is 1024."""


class Lane:
    """A connection. `accept` is given each message once the client has said `hello`."""

    __slots__ = ("_hello", "_out", "_reader", "_socket", "_waiting_bytes", "fd", "is_greeted", "runtime")

    def __init__(
        self,
        connection: socket.socket,
        buffer: memoryview,
        max_message_bytes: int,
        hello: Callable[[Lane, wire.Envelope], Runtime],
    ) -> None:
        """Take the connected socket and the buffer that all lanes share. `hello` lets the client in, or raises."""
        self._socket = connection
        self.fd = connection.fileno()
        self._reader = Reader(buffer, max_message_bytes)
        self._hello = hello
        self._out: list[Buffer] = []
        self._waiting_bytes = 0
        self.runtime: Runtime | None = None
        self.is_greeted = False

    def __repr__(self) -> str:
        return f"<Lane {self.fd} {self._waiting_bytes} bytes wait>"

    @property
    def wants_to_send(self) -> bool:
        """Whether answers wait for the client to take others."""
        return bool(self._out)

    @property
    def has_work(self) -> bool:
        """Whether `runtime.step` has something to do that its client would take the answer of."""
        return self.runtime is not None and self.runtime.has_work and self._waiting_bytes <= WAITING_BYTES

    @property
    def may_be_read(self) -> bool:
        """Whether its client takes what it asks for."""
        return self._waiting_bytes <= WAITING_BYTES

    def receive(self) -> bool:
        """Take in what has come; False: the connection is over. Raises `HostError` for what no client of ours sends."""
        try:
            count = self._socket.recv_into(self._reader.space())
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not count:
            return False
        for frames in self._reader.received(count):
            envelope = wire.unpack(frames)
            if self.runtime is None:
                self.runtime = self._hello(self, envelope)
            else:
                self.runtime.accept(envelope)
        return True

    def step(self) -> None:
        """Run one call, if there is one."""
        if self.runtime is not None:
            self.runtime.step()

    def send(self, frames: list[Buffer]) -> None:
        """Have a message sent with the next `flush`."""
        self._out += pack(frames)

    def flush(self) -> bool:
        """Send what waits, as far as the client takes it; False: the connection is over."""
        out = self._out
        try:
            while out:
                sent = self._socket.send(out[0]) if len(out) == 1 else self._socket.sendmsg(out[:_PARTS])
                drop(out, sent)
        except BlockingIOError:
            self._out = [b"".join(out)]
            self._waiting_bytes = len(self._out[0])
            return True
        except OSError:
            return False
        self._waiting_bytes = 0
        return True

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()
