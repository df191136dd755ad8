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

import select
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from hostd import paths, trust
from hostd.client import forks
from hostd.client._sync.followers import Followers
from hostd.client._sync.inside import Inside
from hostd.client._sync.waker import Waker
from hostd.client._sync.watcher import Watcher
from hostd.client.connection import Connection, Patience, went_away
from hostd.client.lanes import Lanes
from hostd.client.tracker import Pending, PendingStream, Tracker
from hostd.hosts.listing import unreachable, why_unreachable
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.errors import (
    CancelledError,
    FailedPreconditionError,
    HostError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from hostd.client.lanes import Lane
    from hostd_workers.wire.frames import Buffer

P = TypeVar("P", bound=Pending)

_RETRY_S = 0.05
"""How often to look for a socket that is not there yet."""

_TRUSTED_S = 0.1
"""How long after somebody looked at it the connection is taken to stand: to look costs 3 us."""

_POLL_S = 3600.0
_READ_AND_WRITE = select.POLLIN | select.POLLOUT


class Channel:
    """Requests out and answers in, for any number of threads."""

    def __init__(self, endpoint: str, connect_timeout_s: float, wait_s: float = 0.0, *, is_direct: bool = True) -> None:
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
        self._poller = select.poll()
        self._poller.register(self._waker.fd, select.POLLIN)
        may_be_direct = is_direct and paths.is_local(endpoint)
        self._lanes = Lanes(self._tracker, self, _later, is_on=may_be_direct)
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
                pending = self._queue(make)
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
                    pending = self._queue(make)
                begun.append(pending)
        except BaseException:
            for pending in begun:  # nobody will ever ask for them
                self.cancel(pending)
            raise
        with self.inside:
            self._hurry()
        return begun

    def _queue(self, make: Callable[[Tracker], tuple[P, list[Buffer]]]) -> P:
        pending, frames = make(self._tracker)
        lane = None if pending.model_id is None else self._lanes.of(pending.model_id)
        if lane is None:
            self._outbox.append(frames)
        else:
            self._lanes.note(lane, pending, frames)
        return pending

    def _make_ready(self) -> None:
        self._check_usable()
        if self._connection is None or time.monotonic() - self._looked_s > _TRUSTED_S:
            self._ensure_connected()

    def ask(self, make: Callable[[Tracker], tuple[Pending, list[Buffer]]], timeout_s: float | None) -> Any:
        """Send a request and wait for its answer."""
        self.check_may_wait()
        self._make_ready()
        began_s = time.monotonic()
        with self.inside:
            if self._lead.acquire(blocking=False):  # nobody else waits: it is sent and waited for in one go
                try:
                    with self._tracking:
                        pending = self._queue(make)
                    deadline_s = None if timeout_s is None else began_s + timeout_s + pending.grace_s
                    self._pump(lambda: pending.is_done, deadline_s)
                finally:
                    self._stop_leading()
            else:
                pending = self.begin(make)
        if not pending.is_done:
            self.finish(pending, timeout_s, began_s)
        return pending.result()

    def cancel(self, pending: Pending, error: HostError | None = None) -> None:
        """End a request here, with an error that says why, and tell the host."""
        if self.is_orphaned:
            return
        with self.inside, self._tracking:
            self._tracker.forget(pending, error or CancelledError("the call was cancelled by its caller"))
        if not self._is_closed and self._connection is not None:
            self._send(pending, wire.pack(msg.CANCEL, pending.id))

    def cancel_overdue(self) -> None:
        """End the requests that are past their own deadline (`Pending.deadline_s`): the host should have done so."""
        for pending in self._tracker.overdue(time.monotonic()):
            self.cancel(pending, pending.overdue())

    def grant(self, stream: PendingStream, items: int) -> None:
        """Let a stream go on by some items."""
        self._send(stream, msg.pack_credit(stream.id, items))

    def wait(self, pending: Pending, timeout_s: float | None) -> Any:
        """Return the value of a request's answer, or raise its error; the deadline's if none comes in time."""
        self.finish(pending, timeout_s)
        return pending.result()

    def finish(self, pending: Pending, timeout_s: float | None, began_s: float | None = None) -> None:
        """Wait until a request has ended, which it has when the host has not answered in time."""
        if timeout_s is None:
            self.wait_until(pending, lambda: pending.is_done, None)
            return
        deadline_s = (time.monotonic() if began_s is None else began_s) + timeout_s
        while not pending.is_done:
            self.wait_until(pending, lambda: pending.is_done, deadline_s + pending.grace_s)
            # What a worker has given back has the host's grace, too.
            if not pending.is_done and time.monotonic() >= deadline_s + pending.grace_s:
                self.cancel(pending, pending.overdue(timeout_s))

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
        return bool(self._outbox or self._lanes.written) and self._connection is not None

    def _send(self, pending: Pending, frames: list[Buffer]) -> None:
        """Send what belongs to a request the way that it has gone."""
        with self.inside:
            with self._tracking:
                lane = None if pending.lane is None else self._lanes.open.get(pending.lane)
                if lane is None:
                    self._outbox.append(frames)
                else:
                    self._lanes.send(lane, frames)
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
        """Send what can be sent; False if something waits for the host to take other things."""
        written = self._lanes.written
        while written:
            lane, _ = written.popitem()
            was_blocked = lane.link.wants_to_send
            lane.flush()
            if was_blocked or lane.link.wants_to_send:
                self.watch(lane)
        connection = self._connection
        return connection is None or not self._outbox or connection.send_from(self._outbox)

    def to_host(self, frames: list[Buffer]) -> None:
        """Have a message sent to the host with the next flush."""
        self._outbox.append(frames)

    def watch(self, lane: Lane) -> None:
        """Ask the system about what matters of a lane at present."""
        if lane.is_over:
            self._poller.unregister(lane.link.fd)
        else:
            self._poller.register(lane.link.fd, _READ_AND_WRITE if lane.link.wants_to_send else select.POLLIN)

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
            # What is queued for a connection that is not known yet waits for its monitor.
            is_stuck = not self._flush() and connection.is_known
            # The descriptors tell of changes, and a send may have swallowed one.
            if connection.has_sent and connection.has_news():
                self._receive(connection)
                continue
            remaining_s = _POLL_S if deadline_s is None else min(deadline_s - time.monotonic(), _POLL_S)
            timeout_ms = int(min(remaining_s, _RETRY_S if is_stuck else _POLL_S) * 1000) + 1 if remaining_s > 0 else 0
            ready = self._poller.poll(timeout_ms)
            self._looked_s = time.monotonic()
            for fd, what in ready:
                self._look_at(connection, fd, what)
            if not ready and remaining_s <= 0:
                return

    def _look_at(self, connection: Connection, fd: int, what: int) -> None:
        lane = self._lanes.open.get(fd)
        if lane is not None:
            if what & select.POLLOUT:
                self._lanes.written[lane] = None
            if what & ~select.POLLOUT:
                with self._tracking:
                    self._lanes.receive(lane)
        elif fd == self._waker.fd:
            self._waker.clear()
        elif connection is self._connection:
            self._receive(connection)
            if connection is self._connection and connection.is_broken():
                self._receive(connection)  # an answer may have come just before the end
                self._lose(went_away(self.endpoint))

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
            self._unwatch(connection)
            connection.close()
        with self._tracking:
            self._outbox.clear()
            self._lanes.close()
            self._tracker.lose(error)

    def _unwatch(self, connection: Connection) -> None:
        for fd in connection.descriptors():
            self._poller.unregister(fd)

    def _say_goodbye(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._unwatch(connection)
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
                    elif self._connection is not None and self._connection.has_news():
                        self._receive(self._connection)  # while calls go directly nobody else looks
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
        for fd in connection.descriptors():
            self._poller.register(fd, select.POLLIN)
        # Such a descriptor tells of news to what has found nothing before.
        connection.is_broken()
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


def _later(delay_s: float, what: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(delay_s, what)
    timer.daemon = True
    timer.start()
    return timer
