"""A UNIX socket that peers connect to with ZeroMQ, and their connections.

Rules
1. The host says what a peer is: `admit` gives every connection its identity, whatever the peer claims, or refuses it.
2. A newcomer (connected, not yet vouched for by `vouch`) may send little, and there are only so many; so many
   descriptors are for clients, too. When either is used up the process that has most of them loses one for each that
   comes. So a process that connects again and again keeps no other out.
3. What the messages of one turn cause to be sent to one peer leaves together, at the end of the turn.
4. A process for which more than `peer_buffer_bytes` wait, over all its connections, holds up those that cause more,
   for a moment (`poller`). Then the connection that gets it has *stalled*: a client is dropped, a worker gets no more
   calls until it has taken half of what waits.
5. What a process may hold of unfinished messages is bounded (`unfinished`). A client that does not go on with one is
   dropped. A worker is kept: it has one connection, so one message, and its end frees that.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import resource
import socket
import struct
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from hostd.shell.transport.connection import Connection
from hostd.shell.transport.decoder import Decoder
from hostd.shell.transport.poller import linger
from hostd.shell.transport.process import PeerProcess
from hostd.shell.work.closing import Closing
from hostd_workers.wire.frames import BATCHED_BELOW_BYTES, MAX_BATCH_MESSAGES, pack_batch
from hostd_workers.wire.light_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hostd.shell.transport.poller import Poller
    from hostd_workers.wire.frames import Buffer

_log = logging.getLogger(__name__)

LINGER_S = 1.0
"""How long what was just sent may take to leave when the host ends."""

_BACKLOG = 1024

_MAX_NEWCOMERS = 1024
"""Connections of which nobody knows yet what they are: as many programs may start at once."""

NEWCOMER_BYTES = 64 * 1024
"""How long a message of a newcomer may be: it has nothing to say but its hello."""

_RESERVED_DESCRIPTORS = 512
"""Descriptors that clients leave to workers, their pipes, and files."""

_MAX_CLIENT_FD = 16 * 1024
"""Where the system gives more descriptors than that: each connection costs 2 KB, and nobody has so many clients."""

_PEER_CREDENTIALS = struct.Struct("3i")


class Unsent(enum.Enum):
    """Why a message could not be sent: the peer has stalled, or it has no connection."""

    FULL = "FULL"
    GONE = "GONE"


@dataclass(frozen=True)
class Side:
    """What one side of the host does with its peers.

    `admit` gets the identity that a peer claims, and its process, and returns the identity that it has, or None to
    refuse it. `too_long` gets the first frame of a message that was over the limit. `gone` gets the identity of a
    connection that has ended, `unsent` what could not be sent; these two are called by the event loop, after the code
    that caused it.

    Peers that are `trusted` need no vouching, take batches, may have the last descriptor, and are kept although they do
    not read.
    """

    admit: Callable[[bytes, int], bytes | None]
    message: Callable[[bytes, list[Buffer]], None]
    too_long: Callable[[bytes, Buffer], None]
    unsent: Callable[[bytes, Sequence[Buffer], Unsent], None]
    gone: Callable[[bytes], None]
    is_trusted: bool = False


class Listener(Closing):
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
        self._processes: dict[int, PeerProcess[Connection]] = {}
        self._newcomers = 0
        self._corked: dict[bytes, list[Buffer]] | None = None
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._max_newcomers = max(8, min(_MAX_NEWCOMERS, most // 16))
        # The system gives the lowest number that is free, so a high one says that all below it are in use.
        for_clients = min(most - min(_RESERVED_DESCRIPTORS, most // 4), _MAX_CLIENT_FD)
        self._highest_fd = most if side.is_trusted else for_clients
        self._is_full = self._is_resting = False
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

    def __repr__(self) -> str:
        return f"<Listener {self.endpoint}, {len(self._connections)} connections, {self._newcomers} newcomers>"

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
        connections = [each for process in self._processes.values() for each in process.connections]
        linger((each for each in connections if each.wants_to_send), monotonic() + linger_s)
        for each in connections:
            self._poller.remove(each)
            each.close()
        self._connections.clear()
        self._processes.clear()
        self._newcomers = 0

    # What comes to be connected

    def accept(self, until_s: float) -> None:
        """Take in some of those that wait to be connected, until then."""
        while monotonic() < until_s:
            try:
                sock, _ = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                # No descriptor is left, or that one has gone again. What waits in line can wait a little longer.
                if not self._is_resting:
                    self._is_resting = True
                    _log.warning("cannot accept connections for now: %s", error)
                self._poller.rest(self)
                return
            self._is_resting = False
            self._welcome(sock)

    def _welcome(self, sock: socket.socket) -> None:
        pid, uid, _ = _PEER_CREDENTIALS.unpack(
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
        )
        if uid not in {os.geteuid(), 0}:
            sock.close()
            return
        if self._newcomers >= self._max_newcomers:
            crowd = max(self._processes.values(), key=lambda process: len(process.newcomers))
            self.drop(next(iter(crowd.newcomers)), "others came after it, and it had not said what it is")
        if sock.fileno() >= self._highest_fd:
            if not self._make_place(pid):
                sock.close()
                return
            sock, high = sock.dup(), sock  # to the number that is free now: those above are not for clients
            high.close()
        sock.setblocking(False)
        process = self._processes.get(pid)
        if process is None:
            process = self._processes[pid] = PeerProcess(self.peer_buffer_bytes)
        decoder = Decoder(self._poller.buffer, NEWCOMER_BYTES)
        connection = Connection(self, sock, pid, decoder, process)
        process.connections[connection] = process.newcomers[connection] = None
        self._newcomers += 1
        self._poller.add(connection)

    def _make_place(self, pid: int) -> bool:
        """Drop a connection of the process that has most of them; False if that is the process `pid` itself."""
        if not self._is_full:
            self._is_full = True
            _log.warning(
                "%s connections leave this host no more descriptors: the process with most of them loses one for each "
                "that comes; raise the hard limit on open files (ulimit -Hn, LimitNOFILE=, --ulimit nofile=)",
                len(self._connections),
            )
        most = max((process.connections for process in self._processes.values()), key=len, default={})
        own = self._processes.get(pid)
        if len(most) <= 1 + (0 if own is None else len(own.connections)):
            return False
        self.drop(next(reversed(most)), "the host has no descriptors left, and its process has the most connections")
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
            self._forget_newcomer(connection)
            connection.limit(self._max_message_bytes)
            connection.is_batching = is_batching

    def _is_newcomer(self, connection: Connection) -> bool:
        return connection in self._processes[connection.pid].newcomers

    def _forget_newcomer(self, connection: Connection) -> None:
        if self._is_newcomer(connection):
            del self._processes[connection.pid].newcomers[connection]
            self._newcomers -= 1

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
        if connection.identity is None or self._is_newcomer(connection):
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
        self._forget_newcomer(connection)
        process = self._processes[connection.pid]
        del process.connections[connection]
        if not process.connections:
            del self._processes[connection.pid]
        identity = connection.identity
        if identity is not None:
            del self._connections[identity]
            self._poller.tell(self._side.gone, identity)

    def read_dry(self, identity: bytes) -> None:
        """Hand over at once all that a peer has sent before its process ended."""
        connection = self._connections.get(identity)
        if connection is not None:
            self._poller.read_dry(connection)

    def dismiss(self, identity: bytes, why: str) -> None:
        """End the connection of a peer, if it has one."""
        connection = self._connections.get(identity)
        if connection is not None:
            self.drop(connection, why)

    # What goes

    def send(self, identity: bytes, frames: Sequence[Buffer], tag: int | None = None) -> None:
        """Send a message to a peer, now or with others when the cork is drawn; `Side.unsent` hears if it fails.

        What has a `tag` can be taken back, and is not sent to a peer that has stalled.
        """
        connection = self._connections.get(identity)
        if connection is None:
            self._poller.tell(self._side.unsent, identity, frames, Unsent.GONE)
            return
        if connection.is_stalled and (tag is not None or connection.queued_bytes > connection.most_bytes):
            self._poller.tell(self._side.unsent, identity, frames, Unsent.FULL)
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
        connection.send(frames, tag)

    def withdraw(self, identity: bytes, tag: int) -> bool:
        """Take back what was sent under a tag; False if it has begun to leave, or has left."""
        connection = self._connections.get(identity)
        if connection is None or not connection.withdraw(tag):
            return False
        self._poller.eased(connection)
        return True

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
        if connection is None:
            for message in messages:
                self._poller.tell(self._side.unsent, identity, [message], Unsent.GONE)
            return
        for start in range(0, len(messages), MAX_BATCH_MESSAGES):
            batch = messages[start : start + MAX_BATCH_MESSAGES]
            connection.send(batch if len(batch) == 1 else [pack_batch(batch)])

    def waits(self, connection: Connection) -> None:
        """Watch a connection for which something waits."""
        self._poller.watch(connection)
        if connection.process.queued_bytes > self.peer_buffer_bytes:
            self._poller.congested(connection)

    def stalled(self, connection: Connection) -> None:
        """Give up waiting for a peer that does not take what is sent to it."""
        if not self._side.is_trusted:
            _log.warning(
                "process %s does not read its answers, %s bytes of them wait (limits.peer_buffer_bytes): dropped",
                connection.pid,
                connection.process.queued_bytes,
            )
            self.drop(connection, "it did not read")
        else:
            # Beside what made it stall: a stream would wait for ever for a credit that is lost.
            connection.most_bytes = connection.queued_bytes + self.peer_buffer_bytes
            connection.is_stalled = True

    def abandoned(self, connection: Connection) -> None:
        """Give up waiting for the rest of a message."""
        if not self._side.is_trusted:
            _log.warning(
                "process %s does not send the rest of a message, %s bytes are held for it (limits.peer_buffer_bytes): "
                "dropped",
                connection.pid,
                connection.held_bytes,
            )
            self.drop(connection, "it did not send the rest of a message")
