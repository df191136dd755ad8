"""One connection of a client to a host: a DEALER and the monitor that tells when it breaks.

A connection is used once: when it breaks it is closed and another is made, so nothing that was meant for an earlier
host can reach a later one (the host refuses connections that did not say HELLO to it, too).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from hostd.hosts import unreachable, why_unreachable
from hostd_workers.wire.errors import InvalidArgumentError, UnavailableError
from hostd_workers.wire.frames import BATCHED_BELOW_BYTES, pack_batch
from hostd_workers.wire.transport import MessageSocket, buffers_of

if TYPE_CHECKING:
    from collections import deque

    from hostd_workers.wire.frames import Buffer

BATCH_MESSAGES = 64
"""How many small messages may share a frame: most of the gain, and 256 KiB at most, so the first is not late."""

HEARTBEAT_MS = 10_000
"""Over TCP a host that vanished without a word is noticed by this; on one machine the socket closes at once."""

_NEVER_MS = 24 * 3_600_000
"""Not -1, with which libzmq drops the answers that have come, too."""

_BREAKS = zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_CLOSED


@dataclass(frozen=True)
class Patience:
    """How long to try to connect: `wait_s` for a host to be there, and then `answer_s` for its answer."""

    wait_s: float
    answer_s: float = 0.0

    @property
    def total_s(self) -> float:
        """Until when it must have answered."""
        return self.wait_s + self.answer_s

    def check(self, endpoint: str, spent_s: float) -> None:
        """Raise `UnavailableError` if there is no time for another try."""
        limit_s = self.total_s if why_unreachable(endpoint) is None else self.wait_s
        if spent_s > limit_s:
            raise unreachable(endpoint, limit_s)


class Connection:
    """A DEALER connected to `endpoint`; not thread safe."""

    def __init__(self, endpoint: str) -> None:
        """Begin to connect. Raises `InvalidArgumentError` if this is no endpoint."""
        self.endpoint = endpoint
        self.is_batching = False
        """Whether the host has said that it understands batches."""
        self._context: zmq.Context[Any] = zmq.Context()
        self.socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        # Not ZMQ_IMMEDIATE: with it libzmq drops the answers that have come when the connection breaks.
        self.socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        self.socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3 * HEARTBEAT_MS)
        # Nothing reconnects behind our back: what is queued then would reach a host that it was not meant for.
        self.socket.setsockopt(zmq.RECONNECT_IVL, _NEVER_MS)
        self.monitor = self.socket.get_monitor_socket(_BREAKS)
        self._messages = MessageSocket(self.socket)
        try:
            self.socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise InvalidArgumentError(
                f"{endpoint!r} is not an endpoint ({error}): it looks like ipc:///path/to/client.ipc or tcp://host:port"
            ) from None

    def close(self, linger_ms: int = 0) -> None:
        """Close the socket, once; what was sent just before may take `linger_ms` to leave."""
        if self.socket.closed:
            return
        self.socket.disable_monitor()
        self.monitor.close(0)
        self.socket.close(linger_ms)
        self._context.term()

    def descriptors(self) -> tuple[int, int]:
        """Return the descriptors that tell of changes (edge triggered): of messages, and of the monitor."""
        return int(self.socket.getsockopt(zmq.FD)), int(self.monitor.getsockopt(zmq.FD))

    def has_news(self) -> bool:
        """Say whether a message is there."""
        return self._messages.has_news()

    def is_broken(self) -> bool:
        """Say whether the connection was lost; asked when the monitor has something."""
        if MessageSocket(self.monitor).has_news():
            recv_monitor_message(self.monitor)
            return True
        return False

    def send(self, frames: list[Buffer]) -> bool:
        """Send a message without blocking; False if it must wait. Big frames are not copied."""
        try:
            self._messages.send(frames)
        except zmq.Again:
            return False
        return True

    def send_from(self, outbox: deque[list[Buffer]]) -> bool:
        """Send what waits in `outbox`, small messages that follow each other as one; False if some must wait."""
        while outbox:
            # A copy, which is one step for the interpreter: other threads append while this one sends.
            small = (
                []
                if len(outbox) == 1 or not self.is_batching
                else [*takewhile(_is_small, outbox.copy())][:BATCH_MESSAGES]
            )
            if len(small) < 2:
                if not self.send(outbox[0]):
                    return False
                outbox.popleft()
            else:
                if not self.send([pack_batch([frames[0] for frames in small])]):
                    return False
                for _ in small:
                    outbox.popleft()
        return True

    def receive(self) -> list[Buffer] | None:
        """Return the frames of the next message, or None if there is none."""
        try:
            return buffers_of(self._messages.receive())
        except zmq.Again:
            return None


def _is_small(frames: list[Buffer]) -> bool:
    return len(frames) == 1 and len(frames[0]) < BATCHED_BELOW_BYTES


def went_away(endpoint: str) -> UnavailableError:
    """Return the error for requests whose connection broke."""
    return UnavailableError(
        f"the host at {endpoint} went away before it answered; whether the call was begun is unknown",
        details={"endpoint": endpoint},
    )
