"""What the thread that leads a channel does, and no other: the I/O for all, over the connection and the lanes.

Every method is for the holder of the channel's lead. Other threads put what is to be sent into the outboxes of `lanes`,
with `tracking` held, and call `waker.wake`. They may look at `connection`, and set `is_closed`: the leader then closes.
"""

from __future__ import annotations

import select
import sys
import threading
import time
from typing import TYPE_CHECKING

from hostd.client._sync.waker import Waker
from hostd.client.connection import went_away
from hostd.client.lanes import Lanes
from hostd_workers.wire.errors import CancelledError, HostError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostd.client.connection import Connection
    from hostd.client.lanes import Lane
    from hostd.client.tracker import Pending, Tracker

_AGAIN_S = 0.05
"""How often to try to send to a host that takes nothing at present."""

_POLL_S = 3600.0
_READ_AND_WRITE = select.POLLIN | select.POLLOUT


class Pump:
    """The descriptors of one channel: its connection to the host, its lanes, and what wakes the leader."""

    def __init__(self, endpoint: str, tracker: Tracker, tracking: threading.RLock, *, is_direct: bool) -> None:
        """Take what knows the requests, and the lock under which it changes; there is no connection yet."""
        self.endpoint = endpoint
        self._tracker = tracker
        self._tracking = tracking
        self.connection: Connection | None = None
        self.looked_s = 0.0
        """When the connection was looked at last, of `time.monotonic`."""
        self.is_closed = False
        self.waker = Waker()
        self._poller = _new_poller()
        self._poller.register(self.waker.fd, select.POLLIN)
        self.lanes = Lanes(tracker, self, _later, is_on=is_direct)

    def run(self, is_over: Callable[[], bool], deadline_s: float | None) -> None:
        """Send and receive until `is_over`, the deadline (of `time.monotonic`), or the end of the connection."""
        while not is_over():
            connection = self.connection
            if self.is_closed:
                self.leave()
                return
            if connection is None:
                self.lose(
                    UnavailableError(f"the connection to {self.endpoint} broke before the request was sent: try again")
                )
                return
            # What is queued for a connection that is not known yet waits for its monitor.
            is_stuck = not self.flush() and connection.is_known
            # The descriptors tell of changes, and a send may have swallowed one.
            if connection.has_sent and connection.has_news():
                self._receive(connection)
                continue
            ready = self._look(deadline_s) if self.lanes.spin.limit_s else []
            remaining_s = _POLL_S if deadline_s is None else deadline_s - time.monotonic()
            wait_s = min(remaining_s, _AGAIN_S if is_stuck else _POLL_S)
            ready = ready or self._poller.poll(int(wait_s * 1000) + 1 if wait_s > 0 else 0)
            self.looked_s = time.monotonic()
            for fd, what in ready:
                self._attend(connection, fd, what)
            if not ready and remaining_s <= 0:
                return

    def _look(self, deadline_s: float | None) -> list[tuple[int, int]]:
        """Look for news before a sleep, unless the deadline would come first."""
        spin = self.lanes.spin
        if deadline_s is not None and deadline_s - time.monotonic() <= spin.limit_s:
            return []
        return spin.look(self._poller.poll)

    def flush(self) -> bool:
        """Send what can be sent; False if something waits for the host to take other things."""
        lanes = self.lanes
        if lanes.written:
            lanes.flush()
        connection = self.connection
        return connection is None or not lanes.outbox or connection.send_from(lanes.outbox)

    def has_work(self) -> bool:
        """Say whether there is something to do that was left to the leader."""
        if self.is_closed:
            return self.waker.fd >= 0
        return bool(self.lanes.outbox or self.lanes.written) and self.connection is not None

    def look(self) -> None:
        """Find out whether the connection still stands, and take in what has come."""
        self.looked_s = time.monotonic()
        if self.connection is not None and self.connection.is_broken():
            self.lose(went_away(self.endpoint))
        elif self.connection is not None and self.connection.has_news():
            self._receive(self.connection)  # while calls go directly nobody else looks

    def watch(self, lane: Lane) -> None:
        """Listen to a lane that has come, and no more to one that has gone."""
        if lane.is_over:
            self._poller.unregister(lane.link.fd)
        else:
            self._poller.register(lane.link.fd, select.POLLIN)

    def watch_room(self, lane: Lane) -> None:
        """Listen to whether a lane takes more, too, while something waits for that."""
        self._poller.register(lane.link.fd, _READ_AND_WRITE if lane.link.wants_to_send else select.POLLIN)

    def _attend(self, connection: Connection, fd: int, what: int) -> None:
        lane = self.lanes.open.get(fd)
        if lane is not None:
            if what & select.POLLOUT:
                self.lanes.written[lane] = None
            if what & ~select.POLLOUT:
                with self._tracking:
                    self.lanes.receive(lane)
        elif fd == self.waker.fd:
            self.waker.clear()
        elif connection is self.connection:
            self._receive(connection)
            if connection is self.connection and connection.is_broken():
                self._receive(connection)  # an answer may have come just before the end
                self.lose(went_away(self.endpoint))

    def _receive(self, connection: Connection) -> None:
        try:
            while (frames := connection.receive()) is not None:
                with self._tracking:
                    self._tracker.receive(frames)
        except HostError as error:  # not our protocol: nothing that comes after it can be trusted
            self.lose(error)

    # The connection comes and goes

    def open(self, connection: Connection) -> Pending:
        """Use a new connection, and return the request for its welcome."""
        for fd in connection.descriptors():
            self._poller.register(fd, select.POLLIN)
        # Such a descriptor tells of news to what has found nothing before.
        connection.is_broken()
        with self._tracking:
            pending, hello = self._tracker.hello()
            self.lanes.outbox.appendleft(hello)
        self.connection = connection
        return pending

    def lose(self, error: HostError) -> None:
        """Close the connection, and end all requests with an error."""
        connection, self.connection = self.connection, None
        if connection is not None:
            self._unwatch(connection)
            connection.close()
        with self._tracking:
            self.lanes.close()
            self._tracker.lose(error)

    def leave(self) -> None:
        """Say goodbye and close for good; requests that wait end with CANCELLED."""
        connection, self.connection = self.connection, None
        if connection is not None:
            self._unwatch(connection)
            connection.leave()
        self.lose(CancelledError("the client was closed"))
        self.waker.close()

    def _unwatch(self, connection: Connection) -> None:
        for fd in connection.descriptors():
            self._poller.unregister(fd)


def _new_poller() -> select.poll:
    """Return the system's own: gevent puts one in its place that only the thread may use that has made it."""
    gevent = sys.modules.get("gevent.monkey")
    made: select.poll = select.poll() if gevent is None else gevent.get_original("select", "poll")()
    return made


def _later(delay_s: float, what: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(delay_s, what)
    timer.daemon = True
    timer.start()
    return timer
