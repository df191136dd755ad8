"""A thread-safe channel over one connection, without a thread of its own.

Whichever thread waits for an answer does the I/O for all: it leads. A lone caller therefore pays for no hand-over
between threads, which would cost more than the whole round trip. Others that come meanwhile put their message in the
outbox, wake the leader through an eventfd, and sleep until it has their answer or hands the lead over.

Rules
1. Only the holder of `_lead` touches the connection and the tracker's incoming side.
2. A thread that gives the lead back looks at the outbox once more, and wakes one follower if there is any. One that
   stops waiting for whatever reason does so too if none leads: it may be the one that was woken to lead.
3. When the connection breaks every request ends with UNAVAILABLE; the next one makes a new connection. A request is
   noted and put into the outbox in one step, and lost in one, so what has ended is never sent to a later host.
4. A signal handler or a finalizer may run at any point of a thread, also where that leads or holds a lock. What may be
   done there takes reentrant locks only, and only tries the lead: `begin` on the connection that there is, `cancel`,
   `grant`, and `close`, which the leader completes. Nothing waits there: `check_may_wait` refuses that before anything
   is sent, because what it would wait for is below it on the same stack.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

import zmq

from hostd import trust
from hostd.client import forks
from hostd.client._sync.followers import Followers
from hostd.client._sync.inside import Inside
from hostd.client._sync.waker import Waker
from hostd.client._sync.watcher import Watcher
from hostd.client.connection import Connection, Patience, went_away
from hostd.client.tracker import Pending, PendingStream, Tracker
from hostd.hosts.listing import unreachable, why_unreachable
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
        self._outbox: deque[list[Buffer]] = deque()
        self._followers = Followers()
        self.inside = Inside()
        self.watcher = Watcher()
        self._connection: Connection | None = None
        self._looked_s = 0.0
        self._is_closed = False
        self.is_orphaned = False
        self._waker = Waker()
        forks.watch(self)
        self._ensure_connected()

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "connected" if self._connection else "disconnected"
        return f"<Channel {self.endpoint} {state} waiting={len(self._tracker)}>"

    @property
    def max_message_bytes(self) -> int | None:
        """What the host accepts as one message; None if it did not say."""
        return self._tracker.welcome.get("max_message_bytes")

    def close(self) -> None:
        """Say goodbye and close; requests that wait end with CANCELLED.

        In what interrupts a call of this channel it does not wait: the leader closes as soon as it goes on.
        """
        self._is_closed = True
        if self.is_orphaned:
            return  # the connection is the parent's, and the thread that held the lead is not here to give it back
        self._waker.wake()
        is_alone = not self.inside.is_here()
        with self.inside:
            if self._lead.acquire(blocking=is_alone):
                try:
                    self._say_goodbye()
                finally:
                    self._stop_leading()

    def begin(self, make: Callable[[Tracker], tuple[P, list[Buffer]]]) -> P:
        """Send a request that `make` makes, and return it. Connects first if there is no connection."""
        self._make_ready()
        with self.inside:
            with self._tracking:
                pending, frames = make(self._tracker)
                self._outbox.append(frames)
            self._hurry()
        return pending

    def begin_all(self, makers: Iterable[Callable[[Tracker], tuple[P, list[Buffer]]]]) -> list[P]:
        """Send several requests together, and return them, where they can be waited for."""
        self.check_may_wait()
        self._make_ready()
        begun: list[P] = []
        try:
            for make in makers:
                with self.inside, self._tracking:
                    pending, frames = make(self._tracker)
                    self._outbox.append(frames)
                begun.append(pending)
        except BaseException:
            for pending in begun:  # nobody will ever ask for them
                self.cancel(pending)
            raise
        with self.inside:
            self._hurry()
        return begun

    def _make_ready(self) -> None:
        self._check_usable()
        if self._connection is None or time.monotonic() - self._looked_s > _TRUSTED_S:
            self._ensure_connected()

    def ask(self, make: Callable[[Tracker], tuple[Pending, list[Buffer]]], timeout_s: float | None) -> Any:
        """Send a request and wait for its answer."""
        self.check_may_wait()
        return self.wait(self.begin(make), timeout_s)

    def cancel(self, pending: Pending, error: HostError | None = None) -> None:
        """End a request here, with an error that says why, and tell the host."""
        if self.is_orphaned:
            return
        with self.inside, self._tracking:
            self._tracker.forget(pending, error or CancelledError("the call was cancelled by its caller"))
        if not self._is_closed and self._connection is not None:
            self._send(wire.pack(msg.CANCEL, pending.id))

    def cancel_overdue(self) -> None:
        """End the requests that are past their own deadline (`Pending.deadline_s`): the host should have done so."""
        for pending in self._tracker.overdue(time.monotonic()):
            self.cancel(pending, DeadlineExceededError("the host did not answer in time"))

    def grant(self, stream: PendingStream, items: int) -> None:
        """Let a stream go on by some items."""
        self._send(msg.pack_credit(stream.id, items))

    def wait(self, pending: Pending, timeout_s: float | None) -> Any:
        """Return the value of a request's answer, or raise its error; the deadline's if none comes in time."""
        self.finish(pending, timeout_s)
        return pending.result()

    def finish(self, pending: Pending, timeout_s: float | None) -> None:
        """Wait until a request has ended, which it has when the host has not answered in time."""
        if not pending.is_done:
            deadline_s = None if timeout_s is None else time.monotonic() + timeout_s + GRACE_S
            self.wait_until(pending, lambda: pending.is_done, deadline_s)
            if not pending.is_done:
                self.cancel(pending, DeadlineExceededError(f"the host did not answer within {timeout_s:g} s"))

    def wait_until(self, pending: Pending, is_over: Callable[[], bool], deadline_s: float | None) -> None:
        """Lead or follow until `is_over` or the deadline (of `time.monotonic`)."""
        if self.is_orphaned:
            self._check_usable()
        if is_over():
            return
        self.check_may_wait()
        with self.inside:
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

    def look(self, pending: Pending) -> None:
        """Take in what has arrived, without waiting, unless this thread is in the middle of doing so."""
        if not pending.is_done and not self.inside.is_here():
            self.wait_until(pending, lambda: pending.is_done, time.monotonic())

    def check_may_wait(self) -> None:
        """Raise `FailedPreconditionError` in a forked child, and where this thread is in a call of this client."""
        if self.is_orphaned:
            self._check_usable()
        if self.inside.is_here():
            raise FailedPreconditionError(
                "this runs in a signal handler or a finalizer that has interrupted a call of the same client in the "
                "same thread, and that call cannot go on before it returns; close(), submit and cancel() work here; "
                "for the rest take a client of its own (hostd.connect()), or another thread"
            )

    # Leading and following

    def _stop_leading(self) -> None:
        self._lead.release()
        while self._is_something_left() and self._lead.acquire(blocking=False):
            try:
                if self._is_closed:
                    self._say_goodbye()
                is_stuck = not self._flush()
            finally:
                self._lead.release()
            if is_stuck:
                break
        if self._followers:
            self._followers.wake_one()

    def _is_something_left(self) -> bool:
        """Say whether there is something to do that was left to the leader."""
        if self._is_closed:
            return self._waker.fd >= 0
        return bool(self._outbox) and self._connection is not None

    def _send(self, frames: list[Buffer]) -> None:
        with self.inside:
            self._outbox.append(frames)
            self._hurry()

    def _hurry(self) -> None:
        """Have the outbox sent, here or by the leader; inside."""
        if self._lead.acquire(blocking=False):
            try:
                self._flush()
            finally:
                self._stop_leading()
        else:
            self._waker.wake()

    def wake(self) -> None:
        """Have the leader look whether what it waits for has come."""
        self._waker.wake()

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
            # What is queued for a connection that is not known yet waits for its monitor.
            wanted = _POLLIN if self._flush() or not connection.is_known else _POLLIN_OR_OUT
            sources: list[Any] = [(connection.socket, wanted), (connection.monitor, _POLLIN), (self._waker.fd, _POLLIN)]
            timeout_ms = int(remaining_s * 1000) + 1 if remaining_s > 0 else 0
            ready = [source for source, _ in zmq.zmq_poll(sources, timeout_ms)]
            self._looked_s = time.monotonic()
            if connection.socket in ready:
                self._receive(connection)
            if self._waker.fd in ready:
                self._waker.clear()
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
            connection.leave()
        self._lose(CancelledError("the client was closed"))
        self._waker.close()

    def _ensure_connected(self) -> None:
        """Connect, unless there is a connection; while a thread leads it looks after it."""
        if self.inside.is_here():
            if self._connection is None:
                self.check_may_wait()
            return
        began_s = time.monotonic()  # here, because others may try first
        with self.inside:
            if self._connection is not None and self._lead.acquire(blocking=False):
                try:
                    self._looked_s = time.monotonic()
                    if self._connection is not None and self._connection.is_broken():
                        self._lose(went_away(self.endpoint))
                finally:
                    self._stop_leading()
            # A lock of its own: the lead alone would be waited for as long as the thread that connected first leads.
            with self._connecting:
                if self._connection is None:  # and so nobody leads for long
                    self._lead.acquire()
                    try:
                        self._connect(began_s)
                    finally:
                        self._stop_leading()

    def _connect(self, began_s: float) -> None:
        while not self._try_to_connect(began_s + self._patience.total_s):
            self._patience.check(self.endpoint, time.monotonic() + _RETRY_S - began_s)
            time.sleep(_RETRY_S)
        self._patience = Patience(self._connect_timeout_s)

    def _try_to_connect(self, deadline_s: float) -> bool:
        """Return whether a host answered; raises what it answered if it does not take us."""
        self._check_usable()
        trust.check_place(self.endpoint)
        if why_unreachable(self.endpoint) is not None:
            return False
        # There it is. If it goes now it is most likely being started again.
        self._patience = Patience(self._patience.total_s)
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
