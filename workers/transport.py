"""The worker's ZeroMQ socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import zmq
from zmq import backend

from hostd_workers.process.forked import leave
from hostd_workers.wire.frames import BATCHED_BELOW_BYTES, pack_batch
from hostd_workers.wire.transport import DONTWAIT, MessageSocket, buffers_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostd_workers.wire.frames import Buffer

LINGER_MS = 1000
"""How long last words may take to leave a process that is ending."""


class Transport:
    """The worker's one socket, a DEALER that connects to the supervisor under its token as identity."""

    def __init__(self) -> None:
        # What zmq's own classes add is of no use here, and takes 0.3 MB of each forked worker.
        self._context = backend.Context()
        self._socket = backend.Socket(self._context, zmq.DEALER.value)
        self._socket.set(zmq.LINGER.value, LINGER_MS)
        self._messages: Any = MessageSocket(self._socket)
        self._held: list[Buffer] = []
        self.is_holding = False
        """Whether small messages are held back, to leave in one frame; `release` sends them."""
        self.has_sent = True
        """Whether something was sent since `receive` found nothing: that may have swallowed the descriptor's news."""
        self.on_sent: Callable[[], None] | None = None
        """Called after every send, for the same reason."""

    def connect(self, endpoint: str, token: str) -> None:
        """Connect to the supervisor, which knows a worker by its token."""
        self._socket.set(zmq.IDENTITY.value, bytes.fromhex(token))
        self._socket.connect(endpoint)

    def close(self) -> None:
        """Let what was sent leave, for `LINGER_MS` at most, and close the socket."""
        self._socket.close()
        self._context.term()

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when `receive` may have something (edge triggered)."""
        return int(self._socket.get(zmq.FD.value))

    def receive(self, *, block: bool) -> list[Buffer] | None:
        """Return the frames of the next message, or None if there is none and `block` is false."""
        try:
            return buffers_of(self._messages.receive(0 if block else DONTWAIT))
        except zmq.Again:
            self.has_sent = False
            return None

    def send(self, frames: list[Buffer]) -> None:
        """Send the frames of a message; big ones are not copied, but have left when this returns.

        The model may write into what it has returned as soon as it is called again, by whatever way that call comes.
        """
        if self.is_holding and len(frames) == 1 and len(frames[0]) < BATCHED_BELOW_BYTES:
            self._held.append(frames[0])
            return
        self.release()
        self._messages.send(frames, 0, track=True)
        unsent = self._messages.unsent
        while unsent:
            unsent.pop().wait()
        self.has_sent = True
        if self.on_sent is not None:
            self.on_sent()

    def release(self) -> None:
        """Send what was held back, in one frame."""
        held = self._held
        if held:
            self._messages.send(held if len(held) == 1 else [pack_batch(held)], 0)
            self.has_sent = True
            held.clear()

    def abandon(self) -> None:
        """Be of no use: in a child that the model forked, whatever goes to or comes from the socket ends the child."""
        self._messages = _Abandoned()


class _Abandoned:
    """The messages of a forked child, which are its parent's."""

    def __getattr__(self, name: str) -> object:
        leave()
