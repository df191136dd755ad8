"""A channel of the asyncio client: requests out and answers in, on one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from typing import TYPE_CHECKING, Any

from hostd import paths, trust
from hostd.client import forks
from hostd.client._async.feeding import AsyncFeeder, ended
from hostd.client.connection import Connection, Patience, went_away
from hostd.client.lanes import Lanes
from hostd.client.tracker import GRACE_S, Pending, PendingStream, Tracker
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

    from hostd.client.feed import Feeding
    from hostd.client.lanes import Lane
    from hostd.client.tracker import Make
    from hostd_workers.wire.frames import Buffer

_RETRY_S = 0.05
"""How often to look for a socket that is not there yet, or that has no room."""

_SWEEP_PERIOD_S = 0.25
"""How often to look for requests that are overdue."""


class AsyncChannel:
    """One connection to a host, made when it is needed; everything happens on one loop.

    The loop does not keep it, so that a client that was dropped closes although its loop goes on.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        endpoint: str,
        connect_timeout_s: float,
        wait_s: float,
        *,
        is_direct: bool,
    ) -> None:
        self._loop = loop
        self.endpoint = endpoint
        self._connect_timeout_s = connect_timeout_s
        self._patience = Patience(wait_s, connect_timeout_s)
        self._tracker = Tracker(may_await=True)
        self._connection: Connection | None = None
        self._connecting = asyncio.Lock()
        may_be_direct = is_direct and paths.is_local(endpoint)
        self._lanes = Lanes(self._tracker, self, loop.call_later, is_on=may_be_direct)
        self._retry: asyncio.TimerHandle | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._is_due = False
        self.is_orphaned = False
        forks.watch(self)

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "connected" if self._connection else "disconnected"
        return f"<AsyncChannel {self.endpoint} {state} waiting={len(self._tracker)}>"

    def __del__(self) -> None:
        connection = self._connection
        if connection is not None and not self.is_orphaned:
            with contextlib.suppress(RuntimeError):  # its loop is closed: nobody listens to the descriptors any more
                self._loop.call_soon_threadsafe(_forget, self._loop, connection)

    @property
    def max_message_bytes(self) -> int | None:
        """What the host accepts as one message; None if it did not say."""
        return self._tracker.welcome.get("max_message_bytes")

    def close(self) -> None:
        """Say goodbye and close, on the loop or while that does not run; requests that wait end with CANCELLED."""
        self._is_closed = True
        if self.is_orphaned:
            return  # connection and loop are the parent's
        if self._connection is not None:
            self._connection.send_from(self._lanes.outbox)
        self._disconnect(CancelledError("the client was closed"), is_goodbye=True)

    def abandon(self) -> None:
        """Let the connection go, which says goodbye then: the loop is closed, and nothing waits in it any more."""
        self._is_closed = True
        self._connection = None

    async def connect(self) -> None:
        """Connect, unless there is a connection. Raises `UnavailableError` if no host answers in time."""
        began_s = asyncio.get_running_loop().time()  # here, because others may try first
        self._check_usable()
        async with self._connecting:
            if self._connection is None:
                await self._connect(began_s)

    async def ask(self, make: Make, timeout_s: float | None) -> Any:
        """Send a request and wait for its answer."""
        pending = await self.begin(make)
        if pending.feeding is None:
            return await self.wait(pending, timeout_s)
        try:
            return await self.wait(pending, timeout_s)
        finally:
            await ended(pending.feeding)

    async def begin(self, make: Make) -> Any:
        """Send a request that `make` makes, and return it. Connects first if there is no connection."""
        if self.is_orphaned or self._connection is None or self._connecting.locked():
            await self._make_ready()
        return self._begin(make)

    async def begin_all(self, makers: Iterable[Make]) -> list[Any]:
        """Send several requests together, and return them."""
        await self._make_ready()
        begun: list[Pending] = []
        try:
            for make in makers:
                begun.append(self._begin(make))  # noqa: PERF401 - those before one that fails are known
        except BaseException:
            for pending in begun:  # nobody will ever ask for them
                self.cancel(pending)
            raise
        return begun

    def _begin(self, make: Make) -> Any:
        pending = self._lanes.begin(make)
        self._flush_soon()
        if pending.feeding is not None:
            AsyncFeeder(self, pending, pending.feeding)
        return pending

    async def _make_ready(self) -> None:
        self._check_usable()
        # A connection that is being made may yet fail, or the task that makes it may be cancelled.
        while self._connection is None or self._connecting.locked():
            await self.connect()

    async def wait(self, pending: Pending, timeout_s: float | None) -> Any:
        """Return the value of a request's answer, or raise its error; a cancel of the task cancels the request."""
        if not pending.is_done:
            loop = asyncio.get_running_loop()
            arrived: asyncio.Future[None] = loop.create_future()
            pending.listeners.append(lambda: None if arrived.done() else arrived.set_result(None))
            if timeout_s is not None:
                pending.deadline_s = loop.time() + timeout_s
                if self._sweeper is None:
                    self._sweeper = loop.call_later(_SWEEP_PERIOD_S, self._sweep)
            try:
                await arrived
            except asyncio.CancelledError:
                self.cancel(pending)
                raise
        return pending.result()

    async def wait_until(self, pending: Pending, is_over: Callable[[], bool], deadline_s: float | None) -> None:
        """Wait until `is_over`, which may change when something comes for `pending`, or the deadline."""
        if is_over():
            return
        arrived = asyncio.Event()
        pending.listeners.append(arrived.set)
        timer: asyncio.TimerHandle | None = None
        try:
            while not is_over():
                arrived.clear()
                if deadline_s is not None:
                    left_s = deadline_s - time.monotonic()
                    if left_s <= 0:
                        return
                    timer = self._loop.call_later(left_s, arrived.set)
                # Not asyncio.wait_for: before Python 3.12 it forgets a cancel that comes in the turn of its result.
                try:
                    await arrived.wait()
                finally:
                    if timer is not None:
                        timer.cancel()
        finally:
            pending.listeners.remove(arrived.set)

    def _sweep(self) -> None:
        """End the requests that the host should have ended; it answers late ones itself, unless it hangs.

        One timer for all, because one for each call costs more than the call's own bookkeeping.
        """
        loop = asyncio.get_running_loop()
        for pending in self._tracker.overdue(loop.time()):
            self._tracker.forget(pending, pending.overdue())
            self._send(pending, wire.pack(msg.CANCEL, pending.id))
        self._sweeper = loop.call_later(_SWEEP_PERIOD_S, self._sweep) if self._tracker.has_deadlines else None

    def cancel(self, pending: Pending) -> None:
        """End a request here and tell the host."""
        self._tracker.forget(pending, CancelledError("the call was cancelled by its caller"))
        self._send(pending, wire.pack(msg.CANCEL, pending.id))

    def grant(self, stream: PendingStream, items: int) -> None:
        """Let a stream go on by some items."""
        self._send(stream, msg.pack_credit(stream.id, items))

    def feed(self, pending: Pending, frames: list[Buffer]) -> None:
        """Send what belongs to the feed of a call that has not ended."""
        if not pending.is_done:
            self._send(pending, frames)

    def feed_item(self, pending: Pending, feeding: Feeding, item: object) -> None:
        """Send an item of a feed. Raises `InvalidArgumentError` if it cannot travel."""
        frames, size_bytes = self._tracker.item(pending, item)
        feeding.sender.sent(size_bytes)
        self.feed(pending, frames)

    def _send(self, pending: Pending, frames: list[Buffer]) -> None:
        """Send what belongs to a request the way that it has gone."""
        if self._connection is not None:
            self._lanes.send(pending, frames)
            self._flush_soon()

    def _flush_soon(self) -> None:
        # Not at once: what other tasks send in this turn of the loop leaves together with it.
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_due = False
        self._lanes.flush()
        self._flush_to_host()

    def watch(self, lane: Lane) -> None:
        """Listen to a lane that has come, and no more to one that has gone."""
        fd = lane.link.fd
        if lane.is_over:
            self._loop.remove_reader(fd)
            self._loop.remove_writer(fd)
        else:
            self._loop.add_reader(fd, _run_lane_if_there, weakref.WeakMethod(self._receive_lane), lane)
            self._flush_soon()

    def watch_room(self, lane: Lane) -> None:
        """Listen to whether a lane takes more, while something waits for that."""
        if lane.link.wants_to_send:
            self._loop.add_writer(lane.link.fd, _run_lane_if_there, weakref.WeakMethod(self._go_on), lane)
        else:
            self._loop.remove_writer(lane.link.fd)

    def _receive_lane(self, lane: Lane) -> None:
        if not lane.is_over:
            self._lanes.receive(lane)
            if self._lanes.outbox:  # it has given something back, or has ended
                self._flush_soon()

    def _go_on(self, lane: Lane) -> None:
        if not lane.is_over:
            self._lanes.written[lane] = None
            self._lanes.flush()

    def _flush_to_host(self) -> None:
        connection, outbox = self._connection, self._lanes.outbox
        if connection is None or not outbox or not connection.is_known:
            return
        loop = asyncio.get_running_loop()
        if not connection.send_from(outbox) and self._retry is None:
            self._retry = loop.call_later(_RETRY_S, self._try_again)
        # A send may swallow the descriptor's news of a message that came meanwhile.
        if connection.has_news():
            loop.call_soon(self._receive)

    def _try_again(self) -> None:
        self._retry = None
        self._flush_to_host()

    def _receive(self) -> None:
        connection = self._connection
        if self._lanes.outbox and connection is not None:
            # The descriptor also tells that a connection stands or has room again, but a send alone does not see that:
            # for a millisecond after another it does not look (libzmq's max_command_delay).
            connection.has_news()
            self._flush_to_host()
        try:
            while connection is not None and (frames := connection.receive()) is not None:
                self._tracker.receive(frames)
        except HostError as error:  # not our protocol: nothing that comes after it can be trusted
            self._disconnect(error)

    def _on_monitor(self) -> None:
        try:
            is_broken = self._connection is not None and self._connection.is_broken()
        except HostError as error:
            self._disconnect(error)
            return
        if is_broken:
            self._receive()  # an answer may have come just before the end
            self._disconnect(went_away(self.endpoint))
        else:
            self._flush_to_host()

    def _disconnect(self, error: HostError, *, is_goodbye: bool = False) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            _forget(self._loop, connection)
            if is_goodbye:
                connection.leave()
            else:
                connection.close()
        for timer in (self._retry, self._sweeper):
            if timer is not None:
                timer.cancel()
        self._retry = self._sweeper = None
        self._lanes.close()
        self._tracker.lose(error)

    # The connection

    def _check_usable(self) -> None:
        if self._is_closed:
            raise FailedPreconditionError("this client is closed: connect again with hostd.AsyncClient.connect()")
        if self.is_orphaned:
            raise FailedPreconditionError(
                "this event loop and the client's connection in it were made before a fork, and cannot be shared: run "
                "another loop in the child (asyncio.run), in which the client connects anew"
            )

    async def _connect(self, began_s: float) -> None:
        while not await self._try_to_connect(began_s + self._patience.total_s):
            self._patience.check(self.endpoint, self._loop.time() + _RETRY_S - began_s)
            await asyncio.sleep(_RETRY_S)
        self._patience = Patience(self._connect_timeout_s)

    async def _try_to_connect(self, deadline_s: float) -> bool:
        """Return whether a host answered; raises what it answered if it does not take us."""
        self._check_usable()
        trust.check_place(self.endpoint)
        if why_unreachable(self.endpoint) is not None:
            return False
        # There it is. If it goes now it is most likely being started again.
        self._patience = Patience(self._patience.total_s)
        connection = self._connection = Connection(self.endpoint)
        readers = (self._receive, self._on_monitor)
        for fd, reader in zip(connection.descriptors(), readers, strict=True):
            self._loop.add_reader(fd, _run_if_there, weakref.WeakMethod(reader), connection)
        pending, hello = self._tracker.hello()
        try:
            # The descriptor of a ZeroMQ socket tells of news only after a look that found nothing.
            connection.is_broken()
            self._lanes.outbox.append(hello)
            self._flush_soon()
            await self.wait(pending, max(0.0, deadline_s - self._loop.time() - GRACE_S))
            self._tracker.accept_welcome(pending)
            connection.is_batching = self._tracker.welcome.get("batches") is True
        except (UnavailableError, CancelledError):
            self._disconnect(UnavailableError("not connected"))
            return False
        except DeadlineExceededError:
            self._disconnect(UnavailableError("not connected"))
            raise unreachable(self.endpoint, self._connect_timeout_s) from None
        except BaseException:
            self._disconnect(UnavailableError("not connected"))
            raise
        return True


def _run_if_there(method: weakref.WeakMethod[Callable[[], None]], _: Connection) -> None:
    # The connection is what the loop does keep: descriptors must not close while a loop listens to them.
    found = method()
    if found is not None:
        found()


def _run_lane_if_there(method: weakref.WeakMethod[Any], lane: Lane) -> None:
    found = method()
    if found is not None:
        found(lane)


def _forget(loop: asyncio.AbstractEventLoop, connection: Connection) -> None:
    """Have a loop listen no more to a connection, which closes when nobody else refers to it."""
    for fd in connection.descriptors():
        loop.remove_reader(fd)
