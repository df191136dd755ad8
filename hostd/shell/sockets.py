"""The two ROUTER sockets of the supervisor, on the event loop's reader.

Raw sockets rather than `zmq.asyncio`, which costs half of the throughput. The descriptor of a ZeroMQ socket is edge
triggered and a send may swallow an edge, so `Pump` reads every socket dry after whatever might have sent.

Rules
1. Never block: every operation is DONTWAIT. ROUTER_MANDATORY makes an unknown peer an error and a full queue EAGAIN;
   without it both would lose messages in silence.
2. Frames after the first of a message are never copied.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import zmq

from workers.wire.frames import MAX_FRAMES

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from workers.wire.frames import Buffer

BATCH = 256
"""Messages taken from one socket before the other one and the loop's other work have their turn."""


class Sent(enum.Enum):
    """What became of a message that was to be sent."""

    YES = "YES"
    FULL = "FULL"
    GONE = "GONE"


class RouterSocket:
    """A bound ROUTER that hands whole messages to `on_message(identity, frames)` and sends without blocking."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        on_message: Callable[[bytes, list[Buffer]], None],
        *,
        max_frame_bytes: int,
        owner_uid: int | None = None,
    ) -> None:
        """Bind at `endpoint`; with `owner_uid` only processes of that user may connect (ZMQ_IPC_FILTER_UID)."""
        self.endpoint = endpoint
        self._on_message = on_message
        self._socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, max_frame_bytes)
        if owner_uid is not None:
            self._socket.setsockopt(zmq.IPC_FILTER_UID, owner_uid)
        self._socket.bind(endpoint)

    def __enter__(self) -> RouterSocket:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<RouterSocket {self.endpoint}>"

    def fileno(self) -> int:
        """Return the descriptor that tells of changes."""
        return int(self._socket.getsockopt(zmq.FD))

    def close(self, linger_ms: int = 0) -> None:
        """Close the socket; what was sent just before may take `linger_ms` to leave."""
        self._socket.close(linger_ms)

    def drain(self) -> int:
        """Hand over up to a batch of messages that are there, and return how many."""
        socket = self._socket
        receive, option, events, more = socket.recv, socket.getsockopt, zmq.EVENTS, zmq.RCVMORE
        for count in range(BATCH):
            if not option(events) & zmq.POLLIN:  # type: ignore[operator,arg-type]  # an int for this option
                return count
            identity = receive()
            frames: list[Buffer] = []
            if option(more):
                frames.append(receive())
                while option(more):
                    frames.append(receive(copy=False))  # type: ignore[arg-type]  # a Frame is passed on as it is
            if len(frames) <= MAX_FRAMES:
                self._on_message(identity, frames)
        return BATCH

    def send(self, identity: bytes, frames: Sequence[Buffer]) -> Sent:
        """Send a message to a peer, or say why it could not be sent."""
        send = self._socket.send
        try:
            send(identity, zmq.DONTWAIT | zmq.SNDMORE)
            last = len(frames) - 1
            for index, frame in enumerate(frames):
                flags = zmq.DONTWAIT | zmq.SNDMORE if index < last else zmq.DONTWAIT
                # The first frame is small; the others may be the client's own big frames on their way through.
                send(frame, flags, copy=index == 0)
        except zmq.Again:
            return Sent.FULL
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return Sent.GONE
            raise
        return Sent.YES


class Pump:
    """Reads the sockets dry whenever one of them may have something."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._sockets: list[RouterSocket] = []
        self._is_due = False

    def add(self, socket: RouterSocket) -> None:
        """Watch a socket."""
        self._sockets.append(socket)
        self._loop.add_reader(socket.fileno(), self._run)
        self.soon()

    def stop(self) -> None:
        """Watch no socket any more."""
        for socket in self._sockets:
            self._loop.remove_reader(socket.fileno())
        self._sockets.clear()

    def soon(self) -> None:
        """Look at the sockets once the code that runs now is done; call it after sends outside of `on_message`."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        self._is_due = False
        # Handling a message of one socket sends on another, so a pass counts only if nothing was handled after it.
        quiet = 0
        for _ in range(BATCH):
            for socket in self._sockets:
                quiet = 0 if socket.drain() else quiet + 1
                if quiet >= len(self._sockets):
                    return
        self.soon()
