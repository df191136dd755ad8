"""A thread-safe channel over one connection, without a thread of its own.

Whichever thread waits for an answer does the I/O for all: it leads. A lone caller therefore pays for no hand-over
between threads, which would cost more than the whole round trip. Others that come meanwhile put their message in the
outbox, wake the leader through an eventfd, and sleep until it has their answer or hands the lead over.

Rules
1. Only the holder of `_lead` uses the pump (`pump.py`): the connection, the lanes, the tracker's incoming side.
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
from typing import TYPE_CHECKING, Any, TypeVar

from hostd import paths, trust
from hostd.client import forks
from hostd.client._sync import feeding as feeds
from hostd.client._sync.followers import Followers
from hostd.client._sync.inside import Inside
from hostd.client._sync.pump import Pump
from hostd.client._sync.watcher import Watcher
from hostd.client.connection import Connection, Patience
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

    from hostd.client.feed import Feeding
    from hostd_workers.wire.frames import Buffer

P = TypeVar("P", bound=Pending)

_RETRY_S = 0.05
"""How often to look for a socket that is not there yet."""

_TRUSTED_S = 0.1
"""How long after somebody looked at it the connection is taken to stand: to look costs 3 us."""


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
        self._followers = Followers()
        self.inside = Inside()
        self.watcher = Watcher()
        self.is_orphaned = False
        may_be_direct = is_direct and paths.is_local(endpoint)
        self._pump = Pump(endpoint, self._tracker, self._tracking, is_direct=may_be_direct)
        self._lanes = self._pump.lanes
        forks.watch(self)
        self._ensure_connected()

    def __repr__(self) -> str:
        state = "closed" if self._pump.is_closed else "connected" if self._pump.connection else "disconnected"
        return f"<Channel {self.endpoint} {state} waiting={len(self._tracker)}>"

    @property
    def max_message_bytes(self) -> int | None:
        """What the host accepts as one message; None if it did not say."""
        return self._tracker.welcome.get("max_message_bytes")

    def close(self) -> None:
        """Say goodbye and close; requests that wait end with CANCELLED.

        In what interrupts a call of this channel it does not wait: the leader closes as soon as it goes on.
        """
        self._pump.is_closed = True
        if self.is_orphaned:
            return  # the connection is the parent's, and the thread that held the lead is not here to give it back
        self._pump.waker.wake()
        is_alone = not self.inside.is_here()
        with self.inside:
            if self._lead.acquire(blocking=is_alone):
                try:
                    self._pump.leave()
                finally:
                    self._stop_leading()

    def begin(self, make: Callable[[Tracker], tuple[P, list[Buffer]]]) -> P:
        """Send a request that `make` makes, and return it. Connects first if there is no connection."""
        self._make_ready()
        with self.inside:
            with self._tracking:
                pending = self._lanes.begin(make)
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
                    pending = self._lanes.begin(make)
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
        if self._pump.connection is None or time.monotonic() - self._pump.looked_s > _TRUSTED_S:
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
                        pending = self._lanes.begin(make)
                    deadline_s = None if timeout_s is None else began_s + timeout_s + pending.grace_s
                    if pending.feeding is None:
                        self._pump.run(lambda: pending.is_done, deadline_s)
                finally:
                    self._stop_leading()
            else:
                pending = self.begin(make)
        if pending.feeding is not None:
            return feeds.answer(self, pending, pending.feeding, timeout_s, began_s)
        if not pending.is_done:
            self.finish(pending, timeout_s, began_s)
        return pending.result()

    def cancel(self, pending: Pending, error: HostError | None = None) -> None:
        """End a request here, with an error that says why, and tell the host."""
        if self.is_orphaned:
            return
        with self.inside, self._tracking:
            self._tracker.forget(pending, error or CancelledError("the call was cancelled by its caller"))
        if not self._pump.is_closed and self._pump.connection is not None:
            self._send(pending, wire.pack(msg.CANCEL, pending.id))
        if pending.feeding is not None:
            feeds.close(pending.feeding)

    def cancel_overdue(self) -> None:
        """End the requests that are past their own deadline (`Pending.deadline_s`): the host should have done so."""
        for pending in self._tracker.overdue(time.monotonic()):
            self.cancel(pending, pending.overdue())

    def grant(self, stream: PendingStream, items: int) -> None:
        """Let a stream go on by some items."""
        self._send(stream, msg.pack_credit(stream.id, items))

    def feed(self, pending: Pending, frames: list[Buffer], feeding: Feeding | None = None, size_bytes: int = 0) -> None:
        """Send what belongs to the feed of a call that has not ended; with `feeding` an item."""
        with self.inside:
            with self._tracking:
                if pending.is_done:
                    return
                if feeding is not None:
                    feeding.sender.sent(size_bytes)
                self._lanes.send(pending, frames)
            self._hurry()

    def feed_item(self, pending: Pending, feeding: Feeding, item: object) -> None:
        """Send an item of a feed. Raises `InvalidArgumentError` if it cannot travel."""
        frames, size_bytes = self._tracker.item(pending, item)
        self.feed(pending, frames, feeding, size_bytes)

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
        """Wait until `is_over` or the deadline (of `time.monotonic`), and feed the call meanwhile if it has a feed."""
        if pending.feeding is None:
            self.lead_or_follow(pending, is_over, deadline_s)
        else:
            feeds.wait(self, pending, pending.feeding, is_over, deadline_s)

    def lead_or_follow(self, pending: Pending, is_over: Callable[[], bool], deadline_s: float | None) -> None:
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
                            self._pump.run(is_over, deadline_s)
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
        while self._pump.has_work() and self._lead.acquire(blocking=False):
            try:
                if self._pump.is_closed:
                    self._pump.leave()
                is_stuck = not self._pump.flush()
            finally:
                self._lead.release()
            if is_stuck:
                break
        if self._followers:
            self._followers.wake_one()

    def _send(self, pending: Pending, frames: list[Buffer]) -> None:
        """Send what belongs to a request the way that it has gone."""
        with self.inside:
            with self._tracking:
                self._lanes.send(pending, frames)
            self._hurry()

    def _hurry(self) -> None:
        """Have the outbox sent, here or by the leader; inside."""
        if self._lead.acquire(blocking=False):
            try:
                self._pump.flush()
            finally:
                self._stop_leading()
        else:
            self._pump.waker.wake()

    def wake(self) -> None:
        """Have the leader look whether what it waits for has come."""
        self._pump.waker.wake()

    # Connecting

    def _ensure_connected(self) -> None:
        """Connect, unless there is a connection; while a thread leads it looks after it."""
        if self.inside.is_here():
            if self._pump.connection is None:
                self.check_may_wait()
            return
        began_s = time.monotonic()  # here, because others may try first
        with self.inside:
            if self._pump.connection is not None and self._lead.acquire(blocking=False):
                try:
                    self._pump.look()
                finally:
                    self._stop_leading()
            # A lock of its own: the lead alone would be waited for as long as the thread that connected first leads.
            with self._connecting:
                if self._pump.connection is None:  # and so nobody leads for long
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
        pending = self._pump.open(connection)
        try:
            self._pump.run(lambda: pending.is_done, deadline_s)
            if not pending.is_done:
                raise unreachable(self.endpoint, self._connect_timeout_s)  # noqa: TRY301 - cleaned up after below
            if self._pump.connection is connection:
                self._tracker.accept_welcome(pending)
                connection.is_batching = self._tracker.welcome.get("batches") is True
                return True
            if not isinstance(pending.error, (UnavailableError, CancelledError)):
                pending.result()
        except BaseException as error:
            self._pump.lose(error if isinstance(error, HostError) else UnavailableError("not connected"))
            raise
        return False

    def _check_usable(self) -> None:
        if self._pump.is_closed:
            raise FailedPreconditionError("this client is closed: connect again with hostd.connect()")
        if self.is_orphaned:
            raise FailedPreconditionError(
                "this client was made before a fork; a ZeroMQ socket cannot be shared: connect in the child"
            )
