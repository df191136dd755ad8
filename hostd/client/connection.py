"""One connection of a client to a host: a DEALER and the monitor that tells when it breaks.

A connection is used once: when it breaks it is closed and another is made, so nothing that was meant for an earlier
host can reach a later one (the host refuses connections that did not say HELLO to it, too).

Nothing is sent before it is known which user listens at the other end (`hostd.trust`).

One that nobody refers to any more says goodbye and closes, in whichever thread the collector runs, and never waits.
"""

from __future__ import annotations

import os
import struct
import threading
from itertools import takewhile
from typing import TYPE_CHECKING

import zmq

from hostd import trust
from hostd.client import context
from hostd.hosts.listing import unreachable, why_unreachable
from hostd_workers.wire import messages as msg
from hostd_workers.wire.errors import FailedPreconditionError, InvalidArgumentError, UnavailableError
from hostd_workers.wire.frames import BATCHED_BELOW_BYTES, pack, pack_batch
from hostd_workers.wire.light_dataclass import dataclass
from hostd_workers.wire.transport import MessageSocket, buffers_of

if TYPE_CHECKING:
    from collections import deque

    from hostd_workers.wire.frames import Buffer

BATCH_MESSAGES = 64
"""How many small messages may share a frame: most of the gain, and 256 KiB at most, so the first is not late."""

HEARTBEAT_MS = 10_000
"""Over TCP a host that vanished without a word is noticed by this. On one machine the socket closes at once, and libzmq
4.3.5 aborts a program that beats over a connection which broke while more had come than it takes in (`!_io_error`)."""

_NEVER_MS = 24 * 3_600_000
"""Not -1, with which libzmq drops the answers that have come, too."""

LINGER_MS = 100
"""How long the goodbye of a client may take to leave."""

_ENDS = zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_CLOSED | zmq.EVENT_MONITOR_STOPPED
_NEWS = zmq.EVENT_CONNECTED | _ENDS
"""What the monitor tells: that the connection stands, that it broke, or that a socket that was closed has sent what it
had to send."""

_EVENT = struct.Struct("=Hi")

_GOODBYE = pack(msg.BYE, 0)


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
        self.is_closed = True
        _check_threads()
        self.endpoint = endpoint
        self.is_batching = False
        """Whether the host has said that it understands batches."""
        self.is_known = False
        """Whether it stands, and what listens at its other end is trusted. Before that nothing is sent."""
        self._pid = os.getpid()
        self.socket: zmq.Socket[bytes] = context.of_this_process().socket(zmq.DEALER)
        try:
            self.socket.setsockopt(zmq.LINGER, 0)
            # Not ZMQ_IMMEDIATE: with it libzmq drops the answers that have come when the connection breaks.
            if not endpoint.startswith("ipc:"):
                self.socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
                self.socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3 * HEARTBEAT_MS)
            # Nothing reconnects behind our back: what is queued then would reach a host that it was not meant for.
            self.socket.setsockopt(zmq.RECONNECT_IVL, _NEVER_MS)
            self.monitor = self.socket.get_monitor_socket(_NEWS, context.new_address())
        except BaseException:
            self.socket.close(0)
            raise
        self.is_closed = False
        self._messages = MessageSocket(self.socket)
        self.has_sent = True
        """Whether something was sent since `receive` found nothing: that may have swallowed the descriptor's news."""
        try:
            self.socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise InvalidArgumentError(
                f"{endpoint!r} is not an endpoint ({error}): it looks like ipc:///path/to/client.ipc or tcp://host:port"
            ) from None

    def close(self) -> None:
        """Close the sockets, and drop what has not left."""
        self._close(0)

    def leave(self) -> None:
        """Say goodbye and close the sockets, once that has left or could not leave for `LINGER_MS`."""
        if self._is_ours():
            self.send(_GOODBYE)
            self.is_closed = True
            self.socket.close(LINGER_MS)
            while _next_event(self.monitor)[0] != zmq.EVENT_MONITOR_STOPPED:
                pass
            self.monitor.close(0)

    def __del__(self) -> None:
        if self._is_ours():
            self.send(_GOODBYE)
            self._close(LINGER_MS)

    def _is_ours(self) -> bool:
        return not self.is_closed and self._pid == os.getpid()  # in a forked child the sockets are the parent's

    def _close(self, linger_ms: int) -> None:
        if self._is_ours():
            self.is_closed = True
            # In this order: an event for a monitor that nobody reads would stop ZeroMQ's thread for ever.
            self.socket.disable_monitor()
            self.monitor.close(0)
            self.socket.close(linger_ms)

    def descriptors(self) -> tuple[int, int]:
        """Return the descriptors that tell of changes (edge triggered): of messages, and of the monitor."""
        return int(self.socket.getsockopt(zmq.FD)), int(self.monitor.getsockopt(zmq.FD))

    def has_news(self) -> bool:
        """Say whether a message is there."""
        return self._messages.has_news()

    def is_broken(self) -> bool:
        """Say whether the connection was lost; asked when the monitor has something.

        Raises FailedPreconditionError if what listens there is not trusted.
        """
        news = MessageSocket(self.monitor)
        while news.has_news():
            event, value = _next_event(self.monitor)
            if event != zmq.EVENT_CONNECTED:
                return True
            # A connection that ended meanwhile is not made again, whatever its descriptor is by now.
            self.is_known = not self.endpoint.startswith(trust.IPC) or trust.check_peer(value, self.endpoint)
        return False

    def send(self, frames: list[Buffer]) -> bool:
        """Send a message without blocking; False if it must wait. Big frames are not copied."""
        if not self.is_known:
            return False
        self.has_sent = True
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
            self.has_sent = False
            return None


def _check_threads() -> None:
    """Raise `FailedPreconditionError` where threads are not the system's: waiting in ZeroMQ would stop all of them."""
    owner = type(threading.Lock()).__module__.partition(".")[0]
    if owner != "_thread":
        raise FailedPreconditionError(
            f"{owner} has replaced the threads of this process (monkey patching), and a wait for the host would stop "
            f"all of its greenlets: leave threads as they are, with gevent `monkey.patch_all(thread=False)`, and call "
            f"models in real ones (`gevent.get_hub().threadpool.apply(model.predict, (x,))`), or serve with threads "
            f"(gunicorn: `-k gthread`)"
        )


def _is_small(frames: list[Buffer]) -> bool:
    return len(frames) == 1 and len(frames[0]) < BATCHED_BELOW_BYTES


def went_away(endpoint: str) -> UnavailableError:
    """Return the error for requests that lost their connection."""
    return UnavailableError(
        f"the host at {endpoint} went away before it answered; whether the call was begun is unknown",
        details={"endpoint": endpoint},
    )


def _next_event(monitor: zmq.Socket[bytes]) -> tuple[int, int]:
    """Return the number and the value of an event (zmq_socket_monitor(3)); `zmq.utils.monitor` imports asyncio."""
    number, value = _EVENT.unpack(monitor.recv_multipart()[0])
    return number, value
