"""A thread-safe channel over one connection, without a thread of its own.

Whichever thread waits for an answer does the I/O for all: it leads. A lone caller therefore pays for no hand-over
between threads, which would cost more than the whole round trip. Others that come meanwhile put their message in the
outbox, wake the leader through an eventfd, and sleep until it has their answer or hands the lead over.

Rules
1. Only the holder of `_lead` touches the connection and the tracker's incoming side.
2. Who stops leading looks at the outbox once more, and wakes one follower if there is any.
3. When the connection breaks every request ends with UNAVAILABLE; the next one makes a new connection.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

import zmq

from hostd.client.connection import Connection, unreachable, went_away, why_unreachable
from hostd.client.tracker import Pending, PendingStream, Tracker
from workers.wire import frames as wire
from workers.wire import messages as msg
from workers.wire.errors import (
    CancelledError,
    DeadlineExceededError,
    FailedPreconditionError,
    HostError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.wire.frames import Buffer

P = TypeVar("P", bound=Pending)

GRACE_S = 1.0
"""How long after its deadline an answer may come: the host answers late ones itself, and says why."""

_RETRY_S = 0.05
"""How often to look for a socket that is not there yet."""

_POLL_MS = 3_600_000

# Plain ints: an operation on zmq's flags costs half a microsecond.
_POLLIN = int(zmq.POLLIN)
_POLLIN_OR_OUT = int(zmq.POLLIN | zmq.POLLOUT)


_CHANNELS: weakref.WeakSet[Channel] = weakref.WeakSet()


def _orphan_all() -> None:
    for channel in _CHANNELS:
        channel._is_orphaned = True  # noqa: SLF001 - a part of the class that must be a function


os.register_at_fork(after_in_child=_orphan_all)  # asking for the process id in every call costs more than the lock


class Channel:
    """Requests out and answers in, for any number of threads."""

    def __init__(self, endpoint: str, connect_timeout_s: float) -> None:
        """Connect. Raises `UnavailableError` if no host answers within `connect_timeout_s`."""
        self.endpoint = endpoint
        self._connect_timeout_s = connect_timeout_s
        self._tracker = Tracker()
        self._tracking = threading.Lock()
        self._lead = threading.Lock()
        self._outbox: deque[list[Buffer]] = deque()
        self._followers: deque[threading.Event] = deque()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._connection: Connection | None = None
        self._is_closed = False
        self._is_orphaned = False
        _CHANNELS.add(self)
        try:
            with self._lead:
                self._connect()
        except BaseException:
            os.close(self._wake_fd)
            raise

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "connected" if self._connection else "disconnected"
        return f"<Channel {self.endpoint} {state} waiting={len(self._tracker)}>"

    def close(self) -> None:
        """Say goodbye and close; requests that wait end with CANCELLED."""
        if self._is_closed:
            return
        self._is_closed = True
        os.eventfd_write(self._wake_fd, 1)
        with self._lead:
            if self._connection is not None:
                self._connection.send(wire.pack(msg.BYE, 0))
                self._connection.close(linger_ms=100)
                self._connection = None
            self._tracker.lose(CancelledError("the client was closed"))
            os.close(self._wake_fd)
        for follower in list(self._followers):
            follower.set()

    def begin(self, make: Callable[[Tracker], tuple[P, list[Buffer]]]) -> P:
        """Send a request that `make` makes, and return it. Connects first if there is no connection."""
        self._check_usable()
        if self._connection is None:
            with self._lead:
                if self._connection is None:
                    self._connect()
        with self._tracking:
            pending, frames = make(self._tracker)
        self._send(frames)
        return pending

    def cancel(self, pending: Pending) -> None:
        """End a request here and tell the host."""
        with self._tracking:
            self._tracker.forget(pending, CancelledError("the call was cancelled by its caller"))
        if not self._is_closed and self._connection is not None:
            self._send(wire.pack(msg.CANCEL, pending.id))

    def abandon(self, pending: Pending) -> None:
        """Cancel a request without waiting for a lock, for finalizers: they run at any point of any thread.

        The host's answer to it is what makes the tracker forget the request.
        """
        if not self._is_closed and self._connection is not None:
            self._send(wire.pack(msg.CANCEL, pending.id))

    def grant(self, stream: PendingStream, items: int) -> None:
        """Let a stream go on by some items."""
        self._send(msg.pack_credit(stream.id, items))

    def wait(self, pending: Pending, timeout_s: float | None) -> Any:
        """Return the value of a request's answer, or raise its error; the deadline's if none comes in time."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s + GRACE_S
        self.wait_until(pending, lambda: pending.is_done, deadline_s)
        if not pending.is_done:
            self.cancel(pending)
            raise DeadlineExceededError(f"the host did not answer within {timeout_s:g} s")
        return pending.result()

    def wait_until(self, pending: Pending, is_over: Callable[[], bool], deadline_s: float | None) -> None:
        """Lead or follow until `is_over` or the deadline (of `time.monotonic`)."""
        while not is_over():
            if self._lead.acquire(blocking=False):
                try:
                    self._pump(is_over, deadline_s)
                finally:
                    self._stop_leading()
            else:
                self._follow(pending, is_over, deadline_s)
            if deadline_s is not None and time.monotonic() >= deadline_s:
                return

    # Leading and following

    def _follow(self, pending: Pending, is_over: Callable[[], bool], deadline_s: float | None) -> None:
        event = threading.Event()
        pending.on_done = event.set
        if isinstance(pending, PendingStream):
            pending.on_item = event.set
        self._followers.append(event)
        try:
            # The lead may have become free before we were in the list; then nobody would wake us.
            if not is_over() and self._lead.locked():
                event.wait(None if deadline_s is None else max(0.0, deadline_s - time.monotonic()))
        finally:
            self._followers.remove(event)
            if event.is_set() and is_over() and self._followers:
                # We were woken to lead, maybe, and leave because our answer is here: pass that on.
                self._wake_follower()

    def _wake_follower(self) -> None:
        for follower in list(self._followers):
            if not follower.is_set():
                follower.set()
                return

    def _stop_leading(self) -> None:
        self._lead.release()
        while self._outbox and self._connection is not None and self._lead.acquire(blocking=False):
            is_stuck = not self._flush()
            self._lead.release()
            if is_stuck:
                break
        if self._followers:
            self._wake_follower()

    def _send(self, frames: list[Buffer]) -> None:
        self._outbox.append(frames)
        if self._lead.acquire(blocking=False):
            try:
                self._flush()
            finally:
                self._stop_leading()
        else:
            os.eventfd_write(self._wake_fd, 1)

    def _flush(self) -> bool:
        connection, outbox = self._connection, self._outbox
        while outbox and connection is not None:
            if not connection.send(outbox[0]):
                return False
            outbox.popleft()
        return True

    def _pump(self, is_over: Callable[[], bool], deadline_s: float | None) -> None:
        while not is_over():
            connection = self._connection
            if connection is None or self._is_closed:
                self._lose(UnavailableError("the client was closed" if self._is_closed else "not connected"))
                return
            timeout_ms = _POLL_MS
            if deadline_s is not None:
                timeout_ms = int((deadline_s - time.monotonic()) * 1000) + 1
                if timeout_ms <= 0:
                    return
            wanted = _POLLIN if self._flush() else _POLLIN_OR_OUT
            sources: list[Any] = [(connection.socket, wanted), (connection.monitor, _POLLIN), (self._wake_fd, _POLLIN)]
            ready = [source for source, _ in zmq.zmq_poll(sources, timeout_ms)]
            if connection.socket in ready:
                self._receive(connection)
            if self._wake_fd in ready:
                os.eventfd_read(self._wake_fd)
            if connection.monitor in ready and connection.is_broken():
                self._receive(connection)  # an answer may have come just before the end
                self._lose(went_away(self.endpoint))

    def _receive(self, connection: Connection) -> None:
        while (frames := connection.receive()) is not None:
            with self._tracking:
                self._tracker.receive(frames)

    def _lose(self, error: HostError) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._outbox.clear()
        with self._tracking:
            self._tracker.lose(error)

    # Connecting

    def _connect(self) -> None:
        deadline_s = time.monotonic() + self._connect_timeout_s
        while (why := why_unreachable(self.endpoint)) is not None:
            if time.monotonic() + _RETRY_S > deadline_s:
                raise unreachable(self.endpoint, self._connect_timeout_s)
            del why
            time.sleep(_RETRY_S)
        connection = Connection(self.endpoint)
        try:
            with self._tracking:
                pending, hello = self._tracker.hello()
            if connection.await_writable(deadline_s - time.monotonic()):
                connection.send(hello)
                self._connection = connection
                self._pump(lambda: pending.is_done, deadline_s)
            if not pending.is_done:
                raise unreachable(self.endpoint, self._connect_timeout_s)  # noqa: TRY301 - cleaned up after below
            self._tracker.accept_welcome(pending)
        except BaseException:
            connection.close()
            self._connection = None
            raise

    def _check_usable(self) -> None:
        if self._is_closed:
            raise FailedPreconditionError("this client is closed: connect again with hostd.connect()")
        if self._is_orphaned:
            raise FailedPreconditionError(
                "this client was made before a fork; a ZeroMQ socket cannot be shared: connect in the child"
            )
