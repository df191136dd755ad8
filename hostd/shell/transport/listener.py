"""A UNIX socket that peers connect to with ZeroMQ, and their connections.

Rules
1. Who a peer is, the host says: `admit` gives every connection its identity, whatever the peer claims, or refuses it.
2. A newcomer (connected, not yet vouched for by `vouch`) may send little, and there are only so many: the oldest makes
   place for the next. So whoever only connects keeps nobody out, and no descriptor that the host needs is taken.
3. What the messages of one turn cause to be sent to one peer leaves together, at the end of the turn.
4. A peer for which more than `peer_buffer_bytes` wait holds up those who cause it, for a moment (`poller`). Then it has
   *stalled*: a client is dropped, a worker gets nothing more until it has taken what waits.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import resource
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from hostd.shell.transport.connection import Connection
from hostd.shell.transport.decoder import Decoder
from hostd.shell.transport.poller import linger
from hostd_workers.wire.frames import BATCHED_BELOW_BYTES, MAX_BATCH_MESSAGES, pack_batch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from hostd.shell.transport.poller import Poller
    from hostd_workers.wire.frames import Buffer

_log = logging.getLogger(__name__)

_BACKLOG = 1024

_ACCEPTED_A_TURN = 16

_MAX_NEWCOMERS = 1024
"""Connections of which nobody knows yet what they are: as many programs may start at once."""

NEWCOMER_BYTES = 64 * 1024
"""How long a message of a newcomer may be: it has nothing to say but its hello."""

_RESERVED_DESCRIPTORS = 512
"""Descriptors that clients leave to workers, their pipes, and files."""

_PEER_CREDENTIALS = struct.Struct("3i")


class Unsent(enum.Enum):
    """Why a message could not be sent: the peer has stalled, or it has no connection."""

    FULL = "FULL"
    GONE = "GONE"


@dataclass(frozen=True)
class Side:
    """What one side of the host does with its peers.

    `admit` gets the identity that a peer claims, and its process, and returns the identity that it has, or None to
    refuse it. `too_long` gets the first frame of a message that was over the limit, `gone` an identity whose connection
    has ended. `unsent` hears of messages that could not be sent.

    Peers that are `trusted` need no vouching, take batches, may have the last descriptor, and are kept although they do
    not read.
    """

    admit: Callable[[bytes, int], bytes | None]
    message: Callable[[bytes, list[Buffer]], None]
    too_long: Callable[[bytes, Buffer], None]
    unsent: Callable[[bytes, Sequence[Buffer], Unsent], None]
    gone: Callable[[bytes], None]
    is_trusted: bool = False


class Listener:
    """A bound socket and its connections, by identity."""

    def __init__(
        self,
        poller: Poller,
        endpoint: str,
        side: Side,
        *,
        max_message_bytes: int,
        peer_buffer_bytes: int,
    ) -> None:
        """Bind at `endpoint` (`ipc://` and a path); only processes of this user, and root's, may connect."""
        self.endpoint = endpoint
        self._poller = poller
        self._side = side
        self._max_message_bytes = max_message_bytes
        self.peer_buffer_bytes = peer_buffer_bytes
        self._connections: dict[bytes, Connection] = {}
        self._newcomers: dict[Connection, None] = {}
        self._corked: dict[bytes, list[Buffer]] | None = None
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._max_newcomers = max(8, min(_MAX_NEWCOMERS, most // 16))
        # The system gives the lowest number that is free, so a high one says that all below it are in use.
        self._highest_fd = most if side.is_trusted else most - min(_RESERVED_DESCRIPTORS, most // 4)
        self._is_full = False
        path = Path(endpoint.removeprefix("ipc://"))
        path.unlink(missing_ok=True)  # the directory is ours alone: what lies there was left by a host that was killed
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self._socket.bind(str(path))
            path.chmod(0o600)
            self._socket.listen(_BACKLOG)
        except BaseException:
            self._socket.close()
            raise
        self._path = path
        self._made = path.lstat()
        self.fd = self._socket.fileno()
        poller.add_listener(self)

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Listener {self.endpoint}, {len(self._connections)} connections, {len(self._newcomers)} newcomers>"

    def close(self, linger_s: float = 0.0) -> None:
        """Close all connections; what was sent just before may take `linger_s` to leave."""
        if self.fd < 0:
            return
        self._poller.remove_listener(self)
        self.fd = -1
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(self._path.lstat(), self._made):  # else it is another host's by now
                self._path.unlink()
        connections = {*self._connections.values(), *self._newcomers}
        linger((each for each in connections if each.wants_to_send), monotonic() + linger_s)
        for each in connections:
            self._poller.remove(each)
            each.close()
        self._connections.clear()
        self._newcomers.clear()

    # Those who come

    def accept(self) -> None:
        """Take in some of those who wait to be connected."""
        for _ in range(_ACCEPTED_A_TURN):
            try:
                sock, _ = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                # No descriptor is left, or that one has gone again. Whoever waits in line can wait a little longer.
                _log.warning("cannot accept a connection: %s", error)
                self._poller.rest(self)
                return
            self._welcome(sock)

    def _welcome(self, sock: socket.socket) -> None:
        pid, uid, _ = _PEER_CREDENTIALS.unpack(
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
        )
        if uid not in {os.geteuid(), 0}:
            sock.close()
            return
        is_full = sock.fileno() >= self._highest_fd
        if self._newcomers and (is_full or len(self._newcomers) >= self._max_newcomers):
            self.drop(next(iter(self._newcomers)), "others came after it, and it had not said what it is")
        elif is_full and not self._make_place(pid):
            sock.close()
            return
        sock.setblocking(False)
        connection = Connection(self, sock, pid, Decoder(self._poller.buffer, NEWCOMER_BYTES))
        self._newcomers[connection] = None
        self._poller.add(connection)

    def _make_place(self, pid: int) -> bool:
        """Drop a connection of the process that has most of them; False if that is the process `pid` itself."""
        if not self._is_full:
            self._is_full = True
            _log.warning(
                "%s connections leave this host no more descriptors: who has most loses one for each that comes; raise "
                "the hard limit on open files (ulimit -Hn, LimitNOFILE=, --ulimit nofile=)",
                len(self._connections),
            )
        counts: dict[int, list[Connection]] = {}
        for connection in self._connections.values():
            counts.setdefault(connection.pid, []).append(connection)
        most = max(counts.values(), key=len, default=[])
        if not most or most[0].pid == pid or len(most) <= len(counts.get(pid, ())) + 1:
            return False
        self.drop(most[-1], "the host has no descriptors left, and its process has the most connections")
        return True

    def ready(self, connection: Connection, claimed: bytes) -> None:
        """Give a connection its identity, now that it can be spoken with."""
        identity = self._side.admit(claimed, connection.pid)
        if identity is None or identity in self._connections:
            self.drop(connection, "it is not known here")
            return
        connection.identity = identity
        self._connections[identity] = connection
        connection.start()
        if self._side.is_trusted:
            self.vouch(identity, is_batching=True)

    def vouch(self, identity: bytes, *, is_batching: bool) -> None:
        """Say that a peer is what it should be: it may send more, and stays."""
        connection = self._connections.get(identity)
        if connection is not None:
            self._newcomers.pop(connection, None)
            connection.limit(self._max_message_bytes)
            connection.is_batching = is_batching

    def pid_of(self, identity: bytes) -> int | None:
        """Return the process at the other end of a connection; None if there is none."""
        connection = self._connections.get(identity)
        return None if connection is None else connection.pid

    # What comes

    def hand_over(self, identity: bytes, frames: list[Buffer]) -> None:
        """Pass a message on."""
        self._side.message(identity, frames)

    def too_long(self, connection: Connection, first: Buffer) -> None:
        """Tell of a message that is over the limit, and is being skipped."""
        if connection in self._newcomers or connection.identity is None:
            self.drop(connection, "its first message is too long")
        else:
            self._side.too_long(connection.identity, first)

    def drop(self, connection: Connection, why: str) -> None:
        """End a connection; its identity is gone then."""
        if connection.is_closed:
            return
        _log.debug("%r ends: %s", connection, why)
        self._poller.remove(connection)
        connection.close()
        self._newcomers.pop(connection, None)
        identity = connection.identity
        if identity is not None:
            del self._connections[identity]
            self._side.gone(identity)

    def dismiss(self, identity: bytes, why: str) -> None:
        """End the connection of a peer, if it has one."""
        connection = self._connections.get(identity)
        if connection is not None:
            self.drop(connection, why)

    # What goes

    def send(self, identity: bytes, frames: Sequence[Buffer], tag: int | None = None) -> None:
        """Send a message to a peer, now or with others when the cork is drawn; `Side.unsent` hears if it fails."""
        connection = self._connections.get(identity)
        if connection is None:
            self._side.unsent(identity, frames, Unsent.GONE)
            return
        corked = self._corked
        if corked is not None:
            if len(frames) == 1 and len(frames[0]) < BATCHED_BELOW_BYTES and connection.is_batching:
                waiting = corked.get(identity)
                if waiting is None:
                    corked[identity] = [frames[0]]
                else:
                    waiting.append(frames[0])
                return
            if identity in corked:  # the order of messages to one peer stays
                self._send_together(identity, corked.pop(identity))
        if connection.is_stalled:
            self._side.unsent(identity, frames, Unsent.FULL)
        else:
            connection.send(frames, tag)

    def withdraw(self, identity: bytes, tag: int) -> bool:
        """Take back what was sent under a tag; False if it has begun to leave, or has left."""
        connection = self._connections.get(identity)
        return connection is not None and connection.withdraw(tag)

    def cork(self) -> None:
        """Hold small messages back until `uncork`, which sends those to one peer together."""
        if self._corked is None:
            self._corked = {}

    def uncork(self) -> None:
        """Send what was held back."""
        corked, self._corked = self._corked, None
        if corked:
            for identity, messages in corked.items():
                self._send_together(identity, messages)

    def _send_together(self, identity: bytes, messages: list[Buffer]) -> None:
        connection = self._connections.get(identity)
        if connection is None or connection.is_stalled:
            for message in messages:
                self._side.unsent(identity, [message], Unsent.GONE if connection is None else Unsent.FULL)
            return
        for start in range(0, len(messages), MAX_BATCH_MESSAGES):
            batch = messages[start : start + MAX_BATCH_MESSAGES]
            connection.send(batch if len(batch) == 1 else [pack_batch(batch)])

    def waits(self, connection: Connection) -> None:
        """Watch a connection for which something waits."""
        self._poller.watch(connection)
        if connection.queued_bytes > self.peer_buffer_bytes:
            self._poller.congested(connection)

    def stalled(self, connection: Connection) -> None:
        """Give up waiting for a peer that does not take what is sent to it."""
        if not self._side.is_trusted:
            _log.warning(
                "process %s does not read its answers, %s bytes of them wait (limits.peer_buffer_bytes): dropped",
                connection.pid,
                connection.queued_bytes,
            )
            self.drop(connection, "it did not read")
        else:
            connection.is_stalled = True
