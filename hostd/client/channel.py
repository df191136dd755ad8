"""A thread-safe channel over one connection, without a thread of its own.

Whichever thread waits for an answer does the I/O for all: it leads. A lone caller therefore pays for no hand-over
between threads, which would cost more than the whole round trip. Others that come meanwhile put their message in the
outbox, wake the leader through an eventfd, and sleep until it has their answer or hands the lead over.

Rules
1. Only the holder of `_lead` touches the connection and the tracker's incoming side.
2. Who gives the lead back looks at the outbox once more, and wakes one follower if there is any. Who stops waiting for
   whatever reason does so too if nobody leads: it may be the one that was woken to lead.
3. When the connection breaks every request ends with UNAVAILABLE; the next one makes a new connection. A request is
   noted and put into the outbox in one step, and lost in one, so what has ended is never sent to a later host.
4. A finalizer may run at any point of any thread, also of one that holds a lock, and may `cancel`: so the locks which
   that takes are reentrant, and the lead is only tried.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

import zmq

from hostd.client import forks
from hostd.client.connection import Connection, Patience, went_away
from hostd.client.followers import Followers
from hostd.client.tracker import Pending, PendingStream, Tracker
from hostd.hosts import unreachable, why_unreachable
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.errors import (
    CancelledError,
    DeadlineExceededError,
    FailedPreconditionError,
    HostError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from hostd_workers.wire.frames import Buffer

P = TypeVar("P", bound=Pending)

GRACE_S = 1.0
"""How long after its deadline an answer may come: the host answers late ones itself, and says why."""

LINGER_MS = 100
"""How long the goodbye of a client may take to leave."""

_RETRY_S = 0.05
"""How often to look for a socket that is not there yet."""

_TRUSTED_S = 0.1
"""How long after somebody looked at it the connection is taken to stand: to look costs 3 us."""

_POLL_S = 3600.0

# Plain ints: an operation on zmq's flags costs half a microsecond.
_POLLIN = int(zmq.POLLIN)
_POLLIN_OR_OUT = int(zmq.POLLIN | zmq.POLLOUT)


class Channel:
    """Requests out and answers in, for any number of threads."""

    def __init__(self, endpoint: str, connect_timeout_s: float, wait_s: float = 0.0) -> None:
        """Connect. Raises `UnavailableError` if no host is there within `wait_s`, or answers in `connect_timeout_s`."""
        self.endpoint = endpoint
        self._connect_timeout_s = connect_timeout_s
        self._patience = Patience(wait_s, connect_timeout_s)
        self._tracker = Tracker()
        self._tracking = threading.RLock()
        self._lead = threading.Lock()
        self._connecting = threading.Lock()
        self._waking = threading.RLock()
        self._outbox: deque[list[Buffer]] = deque()
        self._followers = Followers()
        self._connection: Connection | None = None
        self._looked_s = 0.0
        self._is_closed = False
        self.is_orphaned = False
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        forks.watch(self)
        try:
            self._ensure_connected()
        except BaseException:
            self._close_wake_fd()
            raise

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "connected" if self._connection else "disconnected"
        return f"<Channel {self.endpoint} {state} waiting={len(self._tracker)}>"

    @property
    def max_message_bytes(self) -> int | None:
        """What the host accepts as one message; None if it did not say."""
        return self._tracker.welcome.get("max_message_bytes")

    def __del__(self) -> None:
        if hasattr(self, "_wake_fd"):
            self._close_wake_fd()

    def close(self) -> None:
        """Say goodbye and close; requests that wait end with CANCELLED."""
        self._is_closed = True
        if self.is_orphaned:
            return  # the connection is the parent's, and who held the lead is not here to give it back
        self._wake_leader()
        with self._lead:
            self._say_goodbye()
            self._close_wake_fd()
        self._followers.wake_one()

    def begin(self, make: Callable[[Tracker], tuple[P, list[Buffer]]]) -> P:
        """Send a request that `make` makes, and return it. Connects first if there is no connection."""
        self._check_usable()
        if self._connection is None or time.monotonic() - self._looked_s > _TRUSTED_S:
            self._ensure_connected()
        with self._tracking:
            pending, frames = make(self._tracker)
            self._outbox.append(frames)
        self._hurry()
        return pending

    def begin_all(self, makers: Iterable[Callable[[Tracker], tuple[P, list[Buffer]]]]) -> list[P]:
        """Send several requests together, and return them."""
        self._check_usable()
        if self._connection is None or time.monotonic() - self._looked_s > _TRUSTED_S:
            self._ensure_connected()
        begun: list[P] = []
        try:
            for make in makers:
                with self._tracking:
                    pending, frames = make(self._tracker)
                    self._outbox.append(frames)
                begun.append(pending)
        except BaseException:
            for pending in begun:  # nobody will ever ask for them
                self.cancel(pending)
            raise
        self._hurry()
        return begun

    def cancel(self, pending: Pending) -> None:
        """End a request here and tell the host."""
        if self.is_orphaned:
            return
        with self._tracking:
            self._tracker.forget(pending, CancelledError("the call was cancelled by its caller"))
        if not self._is_closed and self._connection is not None:
            self._send(wire.pack(msg.CANCEL, pending.id))

    def grant(self, stream: PendingStream, items: int) -> None:
        """Let a stream go on by some items."""
        self._send(msg.pack_credit(stream.id, items))

    def wait(self, pending: Pending, timeout_s: float | None) -> Any:
        """Return the value of a request's answer, or raise its error; the deadline's if none comes in time."""

        def is_over() -> bool:
            return pending.is_done

        if not is_over():
            deadline_s = None if timeout_s is None else time.monotonic() + timeout_s + GRACE_S
            self.wait_until(pending, is_over, deadline_s)
            if not is_over():
                self.cancel(pending)
                raise DeadlineExceededError(f"the host did not answer within {timeout_s:g} s")
        return pending.result()

    def wait_until(self, pending: Pending, is_over: Callable[[], bool], deadline_s: float | None) -> None:
        """Lead or follow until `is_over` or the deadline (of `time.monotonic`)."""
        if self.is_orphaned:
            self._check_usable()
        try:
            while not is_over():
                if self._lead.acquire(blocking=False):
                    try:
                        self._pump(is_over, deadline_s)
                    finally:
                        self._stop_leading()
                else:
                    # The lead may become free before we are in the list; then nobody would wake us.
                    self._followers.follow(pending, lambda: not is_over() and self._lead.locked(), deadline_s)
                if deadline_s is not None and time.monotonic() >= deadline_s:
                    return
        finally:
            if self._followers and not self._lead.locked():
                self._followers.wake_one()

    # Leading and following

    def _stop_leading(self) -> None:
        self._lead.release()
        while self._outbox and self._connection is not None and self._lead.acquire(blocking=False):
            try:
                is_stuck = not self._flush()
            finally:
                self._lead.release()
            if is_stuck:
                break
        if self._followers:
            self._followers.wake_one()

    def _send(self, frames: list[Buffer]) -> None:
        self._outbox.append(frames)
        self._hurry()

    def _hurry(self) -> None:
        """Have the outbox sent, here or by the leader."""
        if self._lead.acquire(blocking=False):
            try:
                self._flush()
            finally:
                self._stop_leading()
        else:
            self._wake_leader()

    def _wake_leader(self) -> None:
        with self._waking:  # after `close` the descriptor's number may be another file's
            if self._wake_fd >= 0:
                os.eventfd_write(self._wake_fd, 1)

    def _close_wake_fd(self) -> None:
        with self._waking:
            fd, self._wake_fd = self._wake_fd, -1
        if fd >= 0:
            os.close(fd)

    def _flush(self) -> bool:
        connection = self._connection
        return connection is None or connection.send_from(self._outbox)

    def _pump(self, is_over: Callable[[], bool], deadline_s: float | None) -> None:
        while not is_over():
            connection = self._connection
            if self._is_closed:
                self._say_goodbye()
                return
            if connection is None:
                self._lose(
                    UnavailableError(f"the connection to {self.endpoint} broke before the request was sent: try again")
                )
                return
            remaining_s = _POLL_S if deadline_s is None else min(deadline_s - time.monotonic(), _POLL_S)
            wanted = _POLLIN if self._flush() else _POLLIN_OR_OUT
            sources: list[Any] = [(connection.socket, wanted), (connection.monitor, _POLLIN), (self._wake_fd, _POLLIN)]
            timeout_ms = int(remaining_s * 1000) + 1 if remaining_s > 0 else 0
            ready = [source for source, _ in zmq.zmq_poll(sources, timeout_ms)]
            self._looked_s = time.monotonic()
            if connection.socket in ready:
                self._receive(connection)
            if self._wake_fd in ready:
                os.eventfd_read(self._wake_fd)
            if connection.monitor in ready and connection.is_broken():
                self._receive(connection)  # an answer may have come just before the end
                self._lose(went_away(self.endpoint))
            if not ready and remaining_s <= 0:
                return

    def _receive(self, connection: Connection) -> None:
        try:
            while (frames := connection.receive()) is not None:
                with self._tracking:
                    self._tracker.receive(frames)
        except HostError as error:  # not our protocol: nothing that comes after it can be trusted
            self._lose(error)

    # Connecting and losing the connection; with the lead

    def _lose(self, error: HostError) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        with self._tracking:
            self._outbox.clear()
            self._tracker.lose(error)

    def _say_goodbye(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.send(wire.pack(msg.BYE, 0))
            connection.close(LINGER_MS)
        self._lose(CancelledError("the client was closed"))

    def _ensure_connected(self) -> None:
        """Connect, unless there is a connection; while somebody leads he looks after it."""
        began_s = time.monotonic()  # here, because others may try first
        if self._connection is not None and self._lead.acquire(blocking=False):
            try:
                self._looked_s = time.monotonic()
                if self._connection is not None and self._connection.is_broken():
                    self._lose(went_away(self.endpoint))
            finally:
                self._stop_leading()
        # A lock of its own: who waited for the lead alone would wait for as long as whoever connected first leads.
        with self._connecting:
            if self._connection is None:  # and so nobody leads for long
                self._lead.acquire()
                try:
                    self._connect(began_s)
                finally:
                    self._stop_leading()

    def _connect(self, began_s: float) -> None:
        patience = self._patience
        while not self._try_to_connect(began_s + patience.total_s):
            self._check_usable()
            patience.check(self.endpoint, time.monotonic() + _RETRY_S - began_s)
            time.sleep(_RETRY_S)
        # A host that is gone is most likely being started again.
        self._patience = Patience(self._connect_timeout_s)

    def _try_to_connect(self, deadline_s: float) -> bool:
        """Return whether a host answered; raises what it answered if it does not take us."""
        if why_unreachable(self.endpoint) is not None:
            return False
        connection = Connection(self.endpoint)
        with self._tracking:
            pending, hello = self._tracker.hello()
            self._outbox.appendleft(hello)
        self._connection = connection
        try:
            self._pump(lambda: pending.is_done, deadline_s)
            if not pending.is_done:
                raise unreachable(self.endpoint, self._connect_timeout_s)  # noqa: TRY301 - cleaned up after below
            if self._connection is connection:
                self._tracker.accept_welcome(pending)
                connection.is_batching = self._tracker.welcome.get("batches") is True
                return True
            if not isinstance(pending.error, (UnavailableError, CancelledError)):
                pending.result()
        except BaseException as error:
            self._lose(error if isinstance(error, HostError) else UnavailableError("not connected"))
            raise
        return False

    def _check_usable(self) -> None:
        if self._is_closed:
            raise FailedPreconditionError("this client is closed: connect again with hostd.connect()")
        if self.is_orphaned:
            raise FailedPreconditionError(
                "this client was made before a fork; a ZeroMQ socket cannot be shared: connect in the child"
            )
