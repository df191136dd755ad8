"""The two ROUTER sockets of the supervisor, on the event loop's reader.

Raw sockets rather than `zmq.asyncio`, which costs half of the throughput. The descriptor of a ZeroMQ socket is edge
triggered and a send may swallow an edge, so `Pump` reads every socket dry after whatever might have sent.

Rules
1. Never block: every operation is DONTWAIT. ROUTER_MANDATORY makes an unknown peer an error and a full queue EAGAIN;
   without it both would lose messages in silence.
2. Frames after the first of a message are never copied.
3. What the messages of one pass cause to be sent to one peer leaves together, at the end of the pass.
"""

from __future__ import annotations

import enum
import logging
from typing import TYPE_CHECKING

import zmq

from hostd_workers.wire.errors import HostError
from hostd_workers.wire.frames import BATCH as BATCH_KIND
from hostd_workers.wire.frames import BATCHED_BELOW_BYTES, MAX_BATCH_MESSAGES, MAX_FRAMES, pack_batch, unpack_batch
from hostd_workers.wire.transport import MessageSocket

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from hostd_workers.wire.frames import Buffer

_log = logging.getLogger(__name__)

_BATCH = bytes([BATCH_KIND])

BATCH = 256
"""Messages taken from one socket before the other one has its turn."""

PASSES = 4
"""Turns of each socket before the loop's other work has its own: some 20 ms when a client does nothing but send."""


class Unsent(enum.Enum):
    """Why a message could not be sent: the peer's queue is full, or it has no connection."""

    FULL = "FULL"
    GONE = "GONE"


class RouterSocket:
    """A bound ROUTER that hands whole messages to `on_message(identity, frames)` and sends without blocking."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        on_message: Callable[[bytes, list[Buffer]], None],
        on_unsent: Callable[[bytes, Sequence[Buffer], Unsent], None],
        *,
        max_frame_bytes: int,
        owner_uid: int | None = None,
    ) -> None:
        """Bind at `endpoint`; with `owner_uid` only processes of that user may connect (ZMQ_IPC_FILTER_UID)."""
        self.endpoint = endpoint
        self._on_message = on_message
        self._on_unsent = on_unsent
        self._corked: dict[bytes, list[Buffer]] | None = None
        self.batching: set[bytes] = set()
        """The peers that understand batches."""
        self._socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, max_frame_bytes)
        if owner_uid is not None:
            self._socket.setsockopt(zmq.IPC_FILTER_UID, owner_uid)
        self._socket.bind(endpoint)
        self._messages = MessageSocket(self._socket)

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
        if not self._messages.has_news():
            return 0
        receive, on_message = self._messages.receive_routed, self._on_message
        for count in range(BATCH):
            try:
                identity, frames = receive()
            except zmq.Again:
                return count
            if len(frames) == 1 and frames[0][:1] == _BATCH:
                self._unbatch(identity, frames[0])
            elif len(frames) <= MAX_FRAMES:
                on_message(identity, frames)
        return BATCH

    def send(self, identity: bytes, frames: Sequence[Buffer]) -> None:
        """Send a message to a peer, now or with others when the cork is drawn; `on_unsent` hears if it fails."""
        corked, why = self._corked, None
        if corked is not None:
            if len(frames) == 1 and len(frames[0]) < BATCHED_BELOW_BYTES and identity in self.batching:
                waiting = corked.get(identity)
                if waiting is None:
                    corked[identity] = [frames[0]]
                else:
                    waiting.append(frames[0])
                return
            if identity in corked:  # the order of messages to one peer stays, also if the earlier cannot be sent
                why = self._send_batches(identity, corked.pop(identity))
        why = why or self.try_send(identity, frames)
        if why is not None:
            self._on_unsent(identity, frames, why)

    def cork(self) -> None:
        """Hold small messages back until `uncork`, which sends those to one peer together."""
        if self._corked is None:
            self._corked = {}

    def uncork(self) -> None:
        """Send what was held back."""
        corked, self._corked = self._corked, None
        if corked:
            for identity, messages in corked.items():
                self._send_batches(identity, messages)

    def _send_batches(self, identity: bytes, messages: list[Buffer]) -> Unsent | None:
        why = None
        for start in range(0, len(messages), MAX_BATCH_MESSAGES):
            batch = messages[start : start + MAX_BATCH_MESSAGES]
            why = why or self.try_send(identity, batch if len(batch) == 1 else [pack_batch(batch)])
            if why is not None:
                for message in batch:
                    self._on_unsent(identity, [message], why)
        return why

    def try_send(self, identity: bytes, frames: Sequence[Buffer]) -> Unsent | None:
        """Send a message now, or say why it cannot be sent."""
        try:
            self._messages.send_routed(identity, frames)
        except zmq.Again:
            return Unsent.FULL
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return Unsent.GONE
            raise
        return None

    def _unbatch(self, identity: bytes, frame: Buffer) -> None:
        try:
            messages = unpack_batch(frame)
        except HostError as error:
            _log.debug("a peer sent a malformed batch: %s", error)
            return
        for message in messages:
            self._on_message(identity, [message])


class Pump:
    """Reads the sockets dry whenever one of them may have something."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.on_quiet: Callable[[], None] = lambda: None
        """Called when all sockets have been read dry."""
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
        try:
            self._read_dry()
        except BaseException:
            # A fault of ours in one message; the descriptor will not tell of the others again.
            for socket in self._sockets:
                socket.uncork()
            self.soon()
            raise

    def _read_dry(self) -> None:
        if not self._sockets:
            return
        # What is handled sends on either socket, and a send may swallow the news of a message: both are looked at again
        # until neither had anything.
        quiet = 0
        for _ in range(PASSES):
            for socket in self._sockets:
                for other in self._sockets:
                    other.cork()
                handled = socket.drain()
                for other in self._sockets:
                    other.uncork()
                quiet = 0 if handled else quiet + 1
                if quiet >= len(self._sockets):
                    self.on_quiet()
                    return
        self.soon()
