"""One connection of a peer to the supervisor: what it sends, in turns, and what waits to be sent to it.

Rules
1. Nothing here blocks. A turn ends when its time is over; what is left of it is done in the next one, and until then no
   more is read: so a peer that sends too much fills its own buffers, and nobody else waits for it.
2. What waits to be sent is counted in bytes. The listener watches the count.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from hostd.shell.transport import zmtp
from hostd.shell.transport.decoder import MORE_TO_DO, Decoder, TooLongError
from hostd_workers.wire.errors import HostError, ProtocolError
from hostd_workers.wire.frames import BATCH, BATCHED_BELOW_BYTES, MAX_BATCH_MESSAGES, unpack_batch

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from hostd.shell.transport.process import PeerProcess
    from hostd_workers.wire.frames import Buffer

_BATCH = bytes([BATCH])

_MAX_BATCH_BYTES = MAX_BATCH_MESSAGES * (BATCHED_BELOW_BYTES + 16)
"""What only the longest of small messages can fill: a larger one costs more to take apart than a turn may last."""

_PIECES = 64
"""Pieces that are sent at once; the system takes 1024 (IOV_MAX), but a socket's buffer is full long before."""

_OVERHEAD_BYTES = 256
"""What a message costs beside its bytes while it waits."""


class Owner(Protocol):
    """What a connection tells the listener that has accepted it."""

    peer_buffer_bytes: int

    def ready(self, connection: Connection, claimed: bytes) -> None:
        """Take note that the peer can be spoken with, and which identity it claims."""

    def hand_over(self, identity: bytes, frames: list[Buffer]) -> None:
        """Take a message."""

    def too_long(self, connection: Connection, first: Buffer) -> None:
        """Take note of a message over the limit, which begins with that."""

    def waits(self, connection: Connection) -> None:
        """Take note that something waits to be sent."""

    def stalled(self, connection: Connection) -> None:
        """Take note that others have waited for the peer for long enough."""

    def abandoned(self, connection: Connection) -> None:
        """Take note that the peer does not go on with a message."""

    def drop(self, connection: Connection, why: str) -> None:
        """End the connection."""


class _Waiting:
    """A message that waits to be sent, or the rest of one; `has_begun` says that a part of it has left."""

    __slots__ = ("has_begun", "pieces", "size_bytes")

    def __init__(self, pieces: list[Buffer], *, has_begun: bool) -> None:
        self.pieces = pieces
        self.size_bytes = _OVERHEAD_BYTES + sum(map(len, pieces))
        self.has_begun = has_begun


class Connection:
    """A connected UNIX socket and the peer at its other end: the process `pid`, and `identity` once it is ready."""

    __slots__ = (
        "_batch",
        "_batch_bytes",
        "_decoder",
        "_is_cut_short",
        "_numbers",
        "_owner",
        "_queue",
        "_socket",
        "blockers",
        "come_bytes",
        "fd",
        "identity",
        "is_batching",
        "is_closed",
        "is_stalled",
        "most_bytes",
        "pid",
        "process",
        "queued_bytes",
        "told",
        "watched",
    )

    def __init__(
        self, owner: Owner, sock: socket.socket, pid: int, decoder: Decoder, process: PeerProcess[Connection]
    ) -> None:
        self.pid = pid
        self.process = process
        self.identity: bytes | None = None
        self.is_batching = False
        """Whether the peer understands batches."""
        self.is_stalled = False
        """Whether it has not taken enough for a while of more than may wait for it."""
        self.most_bytes = 0
        """While it is stalled: how much may wait for it of what cannot be taken back."""
        self.queued_bytes = 0
        self.come_bytes = 0
        """How much has come from the peer."""
        self.blockers = 0
        """How many hold this one up; it is not read from until they do not: peers that have to take some of what it has
        caused, and its own process if that has too much unfinished."""
        self.watched = 0
        """What the poller asks the system about it; 0: nothing."""
        self.told = 0
        """What the system told of it that its next turn is for; 0: it is not in line for one."""
        self._owner = owner
        self._socket = sock
        self._decoder = decoder
        self._batch: list[Buffer] = []
        """Messages of a batch, the next one last."""
        self._batch_bytes = 0
        self._queue: OrderedDict[int, _Waiting] = OrderedDict()
        """What waits, in order, by its tag, or by a negative number if it has none."""
        self._numbers = count(-1, -1)
        self._is_cut_short = False
        self.is_closed = False
        self.fd = sock.fileno()
        self._send_now([zmtp.GREETING])

    def __repr__(self) -> str:
        identity = "not ready" if self.identity is None else self.identity.hex()
        return f"<Connection {identity} of process {self.pid}, {self.queued_bytes} bytes wait>"

    @property
    def has_rest(self) -> bool:
        """Whether the last turn was over before everything in hand was done."""
        return bool(self._batch) or self._is_cut_short

    @property
    def wants_to_send(self) -> bool:
        """Whether something waits until the peer takes it."""
        return bool(self._queue)

    @property
    def held_bytes(self) -> int:
        """How much memory is held for what the peer has sent and was not handed over."""
        held_bytes = self._decoder.held_bytes
        return held_bytes + self._batch_bytes if self._batch else held_bytes

    @property
    def messages(self) -> int:
        """How many messages have come whole."""
        return self._decoder.messages

    # In

    def turn(self, until_s: float) -> None:
        """Take in what has come, and hand over messages until then, or until others hold this one up."""
        decoder = self._decoder
        try:
            if self.has_rest:
                decoder.restore()
            elif not self._receive():
                return
            self._is_cut_short = True  # also if a handler fails: the rest comes in the next turn
            while not self.is_closed and not self.blockers:
                if not self._next():
                    if not decoder.is_amid_big_frame or monotonic() >= until_s or not self._receive():
                        self._is_cut_short = False
                        return
                elif monotonic() >= until_s:
                    return
        finally:
            decoder.keep()

    def _next(self) -> bool:
        """Hand over the next message in hand; False if there is none."""
        identity = self.identity
        message: list[Buffer] | None = None
        if self._batch:
            # A copy: a small message that waits somewhere must not keep the memory of all that came with it.
            message = [bytes(self._batch.pop())]
        else:
            try:
                found = self._decoder.next()
                if found is None:
                    return False
                if isinstance(found, bytes):
                    if found != MORE_TO_DO:
                        self._on_command(found)
                elif identity is None:
                    raise ProtocolError("a message came before READY")
                elif not self._is_batch(found):
                    message = found
            except TooLongError as error:
                self._owner.too_long(self, error.first)
            except HostError as error:
                self._owner.drop(self, str(error))
        if message is not None and identity is not None:
            self._owner.hand_over(identity, message)
        return True

    def _is_batch(self, frames: list[Buffer]) -> bool:
        """Begin a batch if that is one; what is malformed is a message, of which the side says what is wrong."""
        frame = frames[0]
        if len(frames) > 1 or frame[:1] != _BATCH or len(frame) > _MAX_BATCH_BYTES:
            return False
        try:
            self._batch = unpack_batch(frame)
        except HostError:
            return False
        self._batch.reverse()
        self._batch_bytes = len(frame)
        return True

    def _on_command(self, body: bytes) -> None:
        if self.identity is None:
            self._owner.ready(self, zmtp.unpack_ready(body))
        elif not self.is_stalled and (answer := zmtp.pong(body)) is not None:
            self._enqueue([answer])

    def _receive(self) -> bool:
        """Read once; False if nothing came."""
        try:
            count = self._socket.recv_into(self._decoder.space())
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            count = 0
        if not count:
            self._owner.drop(self, "it was closed at the other end")
            return False
        self._decoder.filled(count)
        self.come_bytes += count
        return True

    def limit(self, max_message_bytes: int) -> None:
        """Set how long a message may be."""
        self._decoder.max_message_bytes = max_message_bytes

    # Out

    def start(self) -> None:
        """Answer the peer's READY."""
        self._enqueue([zmtp.pack_ready()])

    def send(self, frames: Sequence[Buffer], tag: int | None = None) -> None:
        """Send a message, or as much of it as the peer takes now; `withdraw` may take back the rest by its `tag`."""
        self._enqueue(zmtp.pack_message(frames), tag)

    def _enqueue(self, pieces: list[Buffer], tag: int | None = None) -> None:
        rest = pieces if self._queue else self._send_now(pieces)
        if not rest:
            return
        waiting = _Waiting(rest, has_begun=rest is not pieces)
        self._queue[next(self._numbers) if tag is None else tag] = waiting
        self._count(waiting.size_bytes)
        self._owner.waits(self)

    def _send_now(self, pieces: list[Buffer]) -> list[Buffer]:
        """Return what of these pieces is left."""
        try:
            sent = self._socket.send(pieces[0]) if len(pieces) == 1 else self._socket.sendmsg(pieces[:_PIECES])
        except (BlockingIOError, InterruptedError):
            return pieces
        except OSError:
            return []  # the poller tells of its end
        return _after(pieces, sent)

    def flush(self, until_s: float) -> None:
        """Send what waits, as far as the peer takes it until then."""
        queue = self._queue
        while queue:
            tag, waiting = next(iter(queue.items()))
            rest = self._send_now(waiting.pieces)
            if rest is waiting.pieces:
                return
            before_bytes = waiting.size_bytes
            if rest:
                queue[tag] = waiting = _Waiting(rest, has_begun=True)
                left_bytes = waiting.size_bytes
            else:
                del queue[tag]
                left_bytes = 0
            self._count(left_bytes - before_bytes)
            self.process.taken_bytes += before_bytes - left_bytes
            if rest or monotonic() >= until_s:
                return

    def withdraw(self, tag: int) -> bool:
        """Drop a message of which nothing was sent; False if it has begun to leave, or has left."""
        waiting = self._queue.get(tag)
        if waiting is None or waiting.has_begun:
            return False
        del self._queue[tag]
        self._count(-waiting.size_bytes)
        return True

    def _count(self, more_bytes: int) -> None:
        self.queued_bytes += more_bytes
        self.process.queued_bytes += more_bytes

    @property
    def is_relieved(self) -> bool:
        """Whether the peer has taken enough for those that are held up to go on: all, if its process has too much."""
        limit_bytes = self._owner.peer_buffer_bytes
        return not self.queued_bytes or (
            self.queued_bytes <= limit_bytes // 2 and self.process.queued_bytes <= limit_bytes
        )

    @property
    def pace_bytes(self) -> int:
        """How much the peer must send in each second in which it holds much of messages that are not whole."""
        return max(1, self._owner.peer_buffer_bytes // 32)

    def stalled(self) -> None:
        """Take note that the peer does not take enough, and others have waited long enough for it."""
        self._owner.stalled(self)

    def abandoned(self) -> None:
        """Take note that the peer does not go on with a message."""
        self._owner.abandoned(self)

    def close(self) -> None:
        """Close the socket, and drop what waits."""
        self.is_closed = True
        self._queue.clear()
        self._batch.clear()
        self._count(-self.queued_bytes)
        self._socket.close()


def _after(pieces: list[Buffer], sent: int) -> list[Buffer]:
    """Return what is left of pieces of which so many bytes were sent."""
    for index, piece in enumerate(pieces):
        if sent < len(piece):
            return [memoryview(piece)[sent:] if sent else piece, *pieces[index + 1 :]]
        sent -= len(piece)
    return []
