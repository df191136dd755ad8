"""Gives the connections their turns, on the event loop.

Rules
1. A turn ends after `TURN_S`, and the loop's other work has its own after `PASS_S`. Budgets are of time, because one
   message may cost a thousand times as much as another of its length.
2. Processes have turns one after another, however many connections each of them has; those of one process share its.
3. What the messages of a turn cause to be sent leaves at its end.
4. The system's poller tells again of everything that was not done (level triggered), so nothing can be missed.
5. A peer that causes more to be sent to a process than may wait for it is not read from until that has taken half.
   When others were held up for it for too long (`process`), the connection for which most waits has *stalled*.
6. A process that has too much of unfinished messages (`unfinished`) is not read from, but for the oldest of them.
7. A handler that fails costs its message and nothing else: what a listener hears beside messages comes from the loop.
"""

from __future__ import annotations

import select
from collections import deque
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from hostd.shell.transport.decoder import BUFFER_BYTES
from hostd.shell.transport.process import LOOK_PERIOD_S
from hostd.shell.transport.unfinished import LARGE_LOOK_PERIOD_S
from hostd.shell.work.closing import Closing

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable

    from hostd.shell.transport.connection import Connection
    from hostd.shell.transport.process import PeerProcess
    from hostd.shell.transport.unfinished import Unfinished

TURN_S = 0.0005
"""Ten small calls. A peer that waits for one other waits for this long."""

PASS_S = 0.005
"""Until the loop's other work has its turn."""

_LAST_TURNS = 8
"""Each takes a buffer in. The system holds some 200 KiB of what nobody has read, unless somebody has inherited the
peer's end and goes on."""

_LET_GO_AT_ONCE = range(32)
"""A tenth of a millisecond."""

_REST_S = 0.1
"""How long nobody is accepted after the system had no descriptor."""


class Accepting(Protocol):
    """What accepts connections at the socket `fd`."""

    fd: int

    def accept(self, until_s: float) -> None:
        """Take in some of those that wait to be connected, until then."""

    def cork(self) -> None:
        """Hold small messages back."""

    def uncork(self) -> None:
        """Send what was held back."""


class Poller(Closing):
    """The epoll set of all sockets of the supervisor, itself watched by the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_quiet: Callable[[], object] = lambda: None) -> None:
        """Take what is called after each pass, when what has come is done."""
        self._loop = loop
        self.on_quiet = on_quiet
        self.buffer = memoryview(bytearray(BUFFER_BYTES))
        """What all connections receive into, one after another."""
        self._epoll = select.epoll()
        self._listeners: dict[int, Accepting] = {}
        self._connections: dict[int, Connection] = {}
        self._line: dict[int, deque[Connection]] = {}
        """Those that wait for a turn, by process; `Connection.told` is 0 for all others."""
        self._congested: dict[Connection, set[Connection]] = {}
        """Those for which too much waits, and which others each of them holds up."""
        self._current: Connection | None = None
        self._looks: asyncio.TimerHandle | None = None
        self._large: set[Unfinished[Connection]] = set()
        """Of processes that have to go on."""
        self._large_looks: asyncio.TimerHandle | None = None
        self._is_due = False
        loop.add_reader(self._epoll.fileno(), self._on_news)

    def close(self) -> None:
        """Give no more turns; the listeners are closed by then."""
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        for looks in (self._looks, self._large_looks):
            if looks is not None:
                looks.cancel()

    def soon(self) -> None:
        """Have a pass once the code that runs now is done."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._run)

    def tell(self, handler: Callable[..., None], *what: object) -> None:
        """Have a handler hear of something once the code that runs now is done: it may fail, and that must go on."""
        self._loop.call_soon(handler, *what)
        self.soon()

    # What has turns

    def add_listener(self, listener: Accepting) -> None:
        """Accept the connections of a listener."""
        self._listeners[listener.fd] = listener
        self._epoll.register(listener.fd, select.EPOLLIN)

    def remove_listener(self, listener: Accepting) -> None:
        """Accept nobody more."""
        self._epoll.unregister(listener.fd)
        del self._listeners[listener.fd]

    def rest(self, listener: Accepting) -> None:
        """Accept nobody for a moment."""
        self._epoll.modify(listener.fd, 0)
        self._loop.call_later(_REST_S, self._accept_again, listener)

    def _accept_again(self, listener: Accepting) -> None:
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
        if connection.blockers:
            for held_up in self._congested.values():
                held_up.discard(connection)
        self._relieve(connection)
        connection.process.unfinished.forget(connection)
        self._let_on(connection.process.unfinished)

    # Congestion

    def congested(self, connection: Connection) -> None:
        """Hold up the connection that has its turn: too much waits for this one."""
        held_up = self._congested.get(connection)
        if held_up is None:
            held_up = self._congested[connection] = set()
            if not any(other.process is connection.process for other in self._congested if other is not connection):
                connection.process.congested()
            if self._looks is None:
                wait_s = 0.0 if connection.process.is_out_of_patience else LOOK_PERIOD_S
                self._looks = self._loop.call_later(wait_s, self._look)
        current = self._current
        if current is not None and not current.is_closed and not connection.is_stalled and current not in held_up:
            held_up.add(current)
            current.blockers += 1
            self.watch(current)

    def eased(self, connection: Connection) -> None:
        """Let those go on that a connection holds up, if so little waits for it now that they may."""
        if connection in self._congested and connection.is_relieved:
            self._relieve(connection)

    def _look(self) -> None:
        self._looks = None
        worst: dict[PeerProcess[Connection], Connection] = {}
        for connection in self._congested:
            known = worst.get(connection.process)
            if not connection.is_stalled and (known is None or connection.queued_bytes > known.queued_bytes):
                worst[connection.process] = connection
        for process, connection in worst.items():
            if process.has_stalled():
                self._let_go(self._congested[connection])
                connection.stalled()
        if self._congested:
            self._looks = self._loop.call_later(LOOK_PERIOD_S, self._look)

    def _relieve(self, connection: Connection) -> None:
        held_up = self._congested.pop(connection, None)
        if held_up is not None:
            connection.is_stalled = False
            self._let_go(held_up)

    def _let_go(self, held_up: set[Connection]) -> None:
        while held_up:
            self._free(held_up.pop())

    def _free(self, connection: Connection) -> None:
        """Have one reason less not to read from a connection."""
        connection.blockers -= 1
        if not connection.is_closed:
            self.watch(connection)
            self._come_back(connection)
        if self._line:
            self.soon()

    # Unfinished messages

    def _note(self, connection: Connection) -> None:
        """Take note of what a connection holds after its turn, and which may go on then."""
        share = connection.process.unfinished
        if not share.note(connection):
            return
        if share.waiting:
            self._let_on(share)
        if share.is_large and share not in self._large:
            self._large.add(share)
            if self._large_looks is None:
                self._large_looks = self._loop.call_later(LARGE_LOOK_PERIOD_S, self._look_at_large)

    def _hold_back(self, connection: Connection) -> None:
        connection.process.unfinished.waiting[connection] = None
        connection.blockers += 1
        self.watch(connection)

    def _let_on(self, share: Unfinished[Connection]) -> None:
        for _ in _LET_GO_AT_ONCE:
            connection = share.next()
            if connection is None:
                return
            self._free(connection)
        if not share.is_due:
            share.is_due = True
            self._loop.call_soon(self._let_more_on, share)

    def _let_more_on(self, share: Unfinished[Connection]) -> None:
        share.is_due = False
        if not self._epoll.closed:
            self._let_on(share)

    def _look_at_large(self) -> None:
        self._large_looks = None
        self._large = {share for share in self._large if share.is_large}
        for share in self._large:
            stalled = share.look()
            if stalled is not None:
                stalled.abandoned()
        if self._large:
            self._large_looks = self._loop.call_later(LARGE_LOOK_PERIOD_S, self._look_at_large)

    # Turns

    def _on_news(self) -> None:
        if not self._is_due:  # else there is a pass in this turn of the loop already
            self._run()

    def _run(self) -> None:
        self._is_due = False
        if self._epoll.closed:
            return
        until_s = monotonic() + PASS_S
        try:
            while self._ask():
                if not self._give_turns(until_s):
                    self.soon()
                    break
        except BaseException:
            self.soon()  # a fault of ours in one message: the others have their turns all the same
            raise
        self.on_quiet()

    def _ask(self) -> bool:
        """Ask the system which have something, and accept those that come; False if none needs a turn."""
        has_accepted = False
        for fd, what in self._epoll.poll(0):
            connection = self._connections.get(fd)
            if connection is not None:
                self._line_up(connection, what)
            elif (listener := self._listeners.get(fd)) is not None:
                listener.accept(monotonic() + TURN_S)
                has_accepted = True
        return bool(self._line) or has_accepted

    def _line_up(self, connection: Connection, what: int) -> None:
        if connection.told:
            connection.told |= what
            return
        connection.told = what
        line = self._line.get(connection.pid)
        if line is None:
            self._line[connection.pid] = deque((connection,))
        else:
            line.append(connection)

    def _come_back(self, connection: Connection) -> None:
        """Have a connection in line if it has something in hand that it may go on with, of which no system tells."""
        if connection.has_rest and not connection.blockers and not connection.is_closed:
            self._line_up(connection, select.EPOLLIN)

    def _give_turns(self, until_s: float) -> bool:
        """Give each process a turn; False if the time was over, and then those without one are the first next time."""
        now_s = monotonic()
        for pid in list(self._line):
            line = self._line.pop(pid)
            connection = line.popleft()
            if line:
                self._line[pid] = line
            told, connection.told = connection.told, 0
            if connection.is_closed:
                continue
            if told & ~select.EPOLLIN:
                self._flush(connection, now_s + TURN_S)
            if told & ~select.EPOLLOUT and not connection.blockers:
                if connection.process.unfinished.must_wait(connection):
                    self._hold_back(connection)
                else:
                    self._give_turn(connection, now_s + TURN_S)
            now_s = monotonic()
            if now_s >= until_s:
                return False
        return now_s < until_s

    def _give_turn(self, connection: Connection, until_s: float) -> None:
        self._current = connection
        listeners = self._listeners.values()
        for listener in listeners:
            listener.cork()
        try:
            connection.turn(until_s)
        finally:
            for listener in listeners:
                listener.uncork()
            self._current = None
            if not connection.is_closed:
                self._note(connection)
            if connection.has_rest:
                self._come_back(connection)

    def read_dry(self, connection: Connection) -> None:
        """Have a connection take in all that its peer has sent before it ended."""
        for _ in range(_LAST_TURNS):
            if connection.is_closed or connection.blockers:
                return
            self._give_turn(connection, inf)

    def _flush(self, connection: Connection, until_s: float) -> None:
        connection.flush(until_s)
        self.watch(connection)
        self.eased(connection)


def linger(connections: Iterable[Connection], until_s: float) -> None:
    """Send what waits for some connections, for as long as their peers take it until then. Blocks."""
    waiting = {connection.fd: connection for connection in connections}
    poller = select.poll()
    for fd in waiting:
        poller.register(fd, select.POLLOUT)
    while waiting and (left_s := until_s - monotonic()) > 0:
        for fd, what in poller.poll(left_s * 1000):
            waiting[fd].flush(until_s)
            if what & (select.POLLHUP | select.POLLERR) or not waiting[fd].wants_to_send:
                poller.unregister(fd)
                del waiting[fd]
