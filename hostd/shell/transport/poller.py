"""Gives the connections their turns, on the event loop.

Rules
1. A turn ends after `TURN_S`, and the loop's other work has its own after `PASS_S`. Budgets are of time, because one
   message may cost a thousand times as much as another of its length.
2. What the messages of a turn cause to be sent leaves at its end.
3. The system's poller tells again of everything that was not done (level triggered), so nothing can be missed.
4. Whoever causes more to be sent to a peer than may wait for it is not read from until the peer has taken half of it.
"""

from __future__ import annotations

import select
from time import monotonic
from typing import TYPE_CHECKING

from hostd.shell.transport.decoder import BUFFER_BYTES

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from hostd.shell.transport.connection import Connection
    from hostd.shell.transport.listener import Listener

TURN_S = 0.0005
"""Ten small calls. Whoever waits for one other peer waits for this long."""

PASS_S = 0.005
"""Until the loop's other work has its turn."""

PATIENCE_S = 0.25
"""How long a peer that takes nothing may hold others up. One that lives takes something every few milliseconds."""

_LOOK_PERIOD_S = 0.05
"""How often to look whether a congested peer takes anything; only while there is one."""

_REST_S = 0.1
"""How long nobody is accepted after the system had no descriptor."""


class Poller:
    """The epoll set of all sockets of the supervisor, itself watched by the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.on_quiet: Callable[[], None] = lambda: None
        """Called after each pass, when what has come is done."""
        self.buffer = memoryview(bytearray(BUFFER_BYTES))
        """What all connections receive into, one after another."""
        self._epoll = select.epoll()
        self._listeners: dict[int, Listener] = {}
        self._connections: dict[int, Connection] = {}
        self._unfinished: dict[Connection, None] = {}
        """Those whose turn was over before everything in hand was done."""
        self._congested: dict[Connection, None] = {}
        self._current: Connection | None = None
        self._looks: asyncio.TimerHandle | None = None
        self._is_due = False
        loop.add_reader(self._epoll.fileno(), self._run)

    def __enter__(self) -> Poller:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give no more turns; the listeners are closed by then."""
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        if self._looks is not None:
            self._looks.cancel()

    def soon(self) -> None:
        """Have a pass once the code that runs now is done."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._run)

    # Who has turns

    def add_listener(self, listener: Listener) -> None:
        """Accept the connections of a listener."""
        self._listeners[listener.fd] = listener
        self._epoll.register(listener.fd, select.EPOLLIN)

    def remove_listener(self, listener: Listener) -> None:
        """Accept nobody more."""
        self._epoll.unregister(listener.fd)
        del self._listeners[listener.fd]

    def rest(self, listener: Listener) -> None:
        """Accept nobody for a moment."""
        self._epoll.modify(listener.fd, 0)
        self._loop.call_later(_REST_S, self._accept_again, listener)

    def _accept_again(self, listener: Listener) -> None:
        if self._listeners.get(listener.fd) is listener:
            self._epoll.modify(listener.fd, select.EPOLLIN)

    def add(self, connection: Connection) -> None:
        """Give a connection turns."""
        self._connections[connection.fd] = connection
        self.watch(connection)

    def watch(self, connection: Connection) -> None:
        """Ask the system about what matters of a connection at present."""
        wanted = (0 if connection.blockers else select.EPOLLIN) | (select.EPOLLOUT if connection.wants_to_send else 0)
        if wanted == connection.watched:
            return
        if not wanted:
            # The end of a connection is told whether or not it is asked for, and again and again.
            self._epoll.unregister(connection.fd)
        elif connection.watched:
            self._epoll.modify(connection.fd, wanted)
        else:
            self._epoll.register(connection.fd, wanted)
        connection.watched = wanted

    def remove(self, connection: Connection) -> None:
        """Give a connection no more turns; it is about to be closed."""
        if connection.watched:
            self._epoll.unregister(connection.fd)
            connection.watched = 0
        del self._connections[connection.fd]
        self._unfinished.pop(connection, None)
        for other in self._congested:
            other.held_up.discard(connection)
        self._relieve(connection)

    # Congestion

    def congested(self, connection: Connection) -> None:
        """Hold up whoever has its turn: too much waits for this connection."""
        if connection not in self._congested:
            self._congested[connection] = None
            connection.progress_s = monotonic()
            if self._looks is None:
                self._looks = self._loop.call_later(_LOOK_PERIOD_S, self._look)
        current = self._current
        if current is not None and not connection.is_stalled and current not in connection.held_up:
            connection.held_up.add(current)
            current.blockers += 1
            self.watch(current)

    def _look(self) -> None:
        self._looks = None
        late_s = monotonic() - PATIENCE_S
        for connection in list(self._congested):
            if not connection.is_stalled and connection.progress_s < late_s:
                connection.stalled()
                self._let_go(connection)
        if self._congested:
            self._looks = self._loop.call_later(_LOOK_PERIOD_S, self._look)
        self.soon()

    def _relieve(self, connection: Connection) -> None:
        if self._congested.pop(connection, self) is None:
            connection.is_stalled = False
            self._let_go(connection)

    def _let_go(self, connection: Connection) -> None:
        held_up, connection.held_up = connection.held_up, set()
        for other in held_up:
            other.blockers -= 1
            if not other.is_closed:
                self.watch(other)
                if other.has_rest and not other.blockers:
                    self._unfinished[other] = None
                    self.soon()

    # Turns

    def _run(self) -> None:
        self._is_due = False
        if self._epoll.closed:
            return
        until_s = monotonic() + PASS_S
        try:
            while self._give_turns():
                if monotonic() >= until_s:
                    self.soon()
                    break
        except BaseException:
            self.soon()  # a fault of ours in one message: the others have their turns all the same
            raise
        self.on_quiet()

    def _give_turns(self) -> bool:
        """Give everybody a turn that has something; False if nobody has."""
        events = self._epoll.poll(0)
        turns, self._unfinished = self._unfinished, {}
        if not events and not turns:
            return False
        for fd, what in events:
            connection = self._connections.get(fd)
            if connection is None:
                if (listener := self._listeners.get(fd)) is not None:
                    listener.accept()
                continue
            if what & select.EPOLLOUT:
                self._flush(connection)
            if what & ~select.EPOLLOUT:
                turns[connection] = None
        try:
            while turns:
                connection, _ = turns.popitem()
                if not connection.is_closed and not connection.blockers:
                    self._give_turn(connection)
        finally:
            self._unfinished.update(turns)  # those after one whose turn failed
        return True

    def _give_turn(self, connection: Connection) -> None:
        self._current = connection
        listeners = self._listeners.values()
        for listener in listeners:
            listener.cork()
        try:
            connection.turn(monotonic() + TURN_S)
        finally:
            for listener in listeners:
                listener.uncork()
            self._current = None
            if connection.has_rest and not connection.is_closed and not connection.blockers:
                self._unfinished[connection] = None

    def _flush(self, connection: Connection) -> None:
        connection.flush()
        self.watch(connection)
        if connection in self._congested and connection.is_relieved:
            self._relieve(connection)


def linger(connections: Iterable[Connection], until_s: float) -> None:
    """Send what waits for some connections, for as long as their peers take it until then. Blocks."""
    waiting = {connection.fd: connection for connection in connections}
    poller = select.poll()
    for fd in waiting:
        poller.register(fd, select.POLLOUT)
    while waiting and (left_s := until_s - monotonic()) > 0:
        for fd, what in poller.poll(left_s * 1000):
            waiting[fd].flush()
            if what & (select.POLLHUP | select.POLLERR) or not waiting[fd].wants_to_send:
                poller.unregister(fd)
                del waiting[fd]
