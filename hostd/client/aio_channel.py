"""The channel of the asyncio client: requests out and answers in, on one event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from hostd.client.channel import GRACE_S, LINGER_MS
from hostd.client.connection import Connection, Patience, went_away
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
    from collections.abc import Callable

    from hostd_workers.wire.frames import Buffer

_RETRY_S = 0.05
"""How often to look for a socket that is not there yet, or that has no room."""

_SWEEP_PERIOD_S = 0.25
"""How often to look for requests that are overdue."""


class AsyncChannel:
    """One connection to a host, made when it is needed; everything happens on the loop that uses it."""

    def __init__(self, endpoint: str, connect_timeout_s: float, wait_s: float = 0.0) -> None:
        self.endpoint = endpoint
        self._connect_timeout_s = connect_timeout_s
        self._patience = Patience(wait_s, connect_timeout_s)
        self._tracker = Tracker()
        self._connection: Connection | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connecting = asyncio.Lock()
        self._outbox: deque[list[Buffer]] = deque()
        self._retry: asyncio.TimerHandle | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._is_closed = False

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "connected" if self._connection else "disconnected"
        return f"<AsyncChannel {self.endpoint} {state} waiting={len(self._tracker)}>"

    @property
    def max_message_bytes(self) -> int | None:
        """What the host accepts as one message; None if it did not say."""
        return self._tracker.welcome.get("max_message_bytes")

    def close(self) -> None:
        """Say goodbye and close; requests that wait end with CANCELLED."""
        self._is_closed = True
        if self._connection is not None:
            self._connection.send_from(self._outbox)
            self._connection.send(wire.pack(msg.BYE, 0))
        self._disconnect(CancelledError("the client was closed"), LINGER_MS)

    def close_from_elsewhere(self) -> None:
        """Close for a program that is not on the loop: there if it runs, else at once, because then nobody uses it."""
        self._is_closed = True
        loop, connection = self._loop, self._connection
        if loop is not None and loop.is_running():
            loop.call_soon_threadsafe(self.close)
        elif connection is not None:
            self._connection = None
            if loop is not None and not loop.is_closed():
                for fd in connection.descriptors():
                    loop.remove_reader(fd)
            connection.close()

    async def connect(self) -> None:
        """Connect, unless there is a connection. Raises `UnavailableError` if no host answers in time."""
        began_s = asyncio.get_running_loop().time()  # here, because others may try first
        self._check_usable()
        async with self._connecting:
            if self._connection is None:
                await self._connect(began_s)

    async def begin(self, make: Callable[[Tracker], tuple[Any, list[Buffer]]]) -> Any:
        """Send a request that `make` makes, and return it. Connects first if there is no connection."""
        # One that is being made may yet fail, or whoever makes it may be cancelled.
        while self._connection is None or self._connecting.locked():
            await self.connect()
        pending, frames = make(self._tracker)
        self._send(frames)
        return pending

    async def wait(self, pending: Pending, timeout_s: float | None) -> Any:
        """Return the value of a request's answer, or raise its error; a cancel of the task cancels the request."""
        if not pending.is_done:
            loop = asyncio.get_running_loop()
            arrived: asyncio.Future[None] = loop.create_future()
            pending.listeners.append(lambda: None if arrived.done() else arrived.set_result(None))
            if timeout_s is not None:
                pending.deadline_s = loop.time() + timeout_s + GRACE_S
                if self._sweeper is None:
                    self._sweeper = loop.call_later(_SWEEP_PERIOD_S, self._sweep)
            try:
                await arrived
            except asyncio.CancelledError:
                self.cancel(pending)
                raise
        return pending.result()

    def _sweep(self) -> None:
        """End the requests that the host should have ended; it answers late ones itself, unless it hangs.

        One timer for all, because one for each call costs more than the call's own bookkeeping.
        """
        loop = asyncio.get_running_loop()
        for pending in self._tracker.overdue(loop.time()):
            self._tracker.forget(pending, DeadlineExceededError("the host did not answer in time"))
            if self._connection is not None:
                self._send(wire.pack(msg.CANCEL, pending.id))
        self._sweeper = loop.call_later(_SWEEP_PERIOD_S, self._sweep) if len(self._tracker) else None

    def cancel(self, pending: Pending) -> None:
        """End a request here and tell the host."""
        self._tracker.forget(pending, CancelledError("the call was cancelled by its caller"))
        if self._connection is not None:
            self._send(wire.pack(msg.CANCEL, pending.id))

    def grant(self, stream: PendingStream, items: int) -> None:
        """Let a stream go on by some items."""
        self._send(msg.pack_credit(stream.id, items))

    def _send(self, frames: list[Buffer]) -> None:
        # Not at once: what other tasks send in this turn of the loop leaves together with it.
        if not self._outbox and self._retry is None:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outbox.append(frames)

    def _flush(self) -> None:
        connection, outbox = self._connection, self._outbox
        if connection is None or not outbox:
            return
        loop = asyncio.get_running_loop()
        if not connection.send_from(outbox) and self._retry is None:
            self._retry = loop.call_later(_RETRY_S, self._try_again)
        # A send may swallow the descriptor's news of a message that came meanwhile.
        if connection.has_news():
            loop.call_soon(self._receive)

    def _try_again(self) -> None:
        self._retry = None
        self._flush()

    def _receive(self) -> None:
        connection = self._connection
        if self._outbox and connection is not None:
            # The descriptor also tells that a connection stands or has room again, but a send alone does not see that:
            # for a millisecond after another it does not look (libzmq's max_command_delay).
            connection.has_news()
            self._flush()
        try:
            while connection is not None and (frames := connection.receive()) is not None:
                self._tracker.receive(frames)
        except HostError as error:  # not our protocol: nothing that comes after it can be trusted
            self._disconnect(error)

    def _on_monitor(self) -> None:
        if self._connection is not None and self._connection.is_broken():
            self._receive()  # an answer may have come just before the end
            self._disconnect(went_away(self.endpoint))

    def _disconnect(self, error: HostError, linger_ms: int = 0) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            loop = asyncio.get_running_loop()
            for fd in connection.descriptors():
                loop.remove_reader(fd)
            connection.close(linger_ms)
        for timer in (self._retry, self._sweeper):
            if timer is not None:
                timer.cancel()
        self._retry = self._sweeper = None
        self._outbox.clear()
        self._tracker.lose(error)

    # The connection

    def _check_usable(self) -> None:
        if self._is_closed:
            raise FailedPreconditionError("this client is closed: connect again with hostd.AsyncClient.connect()")

    async def _connect(self, began_s: float) -> None:
        loop, patience = asyncio.get_running_loop(), self._patience
        while not await self._try_to_connect(began_s + patience.total_s):
            self._check_usable()
            patience.check(self.endpoint, loop.time() + _RETRY_S - began_s)
            await asyncio.sleep(_RETRY_S)
        # A host that is gone is most likely being started again.
        self._patience = Patience(self._connect_timeout_s)

    async def _try_to_connect(self, deadline_s: float) -> bool:
        """Return whether a host answered; raises what it answered if it does not take us."""
        self._check_usable()
        if why_unreachable(self.endpoint) is not None:
            return False
        loop = self._loop = asyncio.get_running_loop()
        connection = self._connection = Connection(self.endpoint)
        readers = (self._receive, self._on_monitor)
        for fd, reader in zip(connection.descriptors(), readers, strict=True):
            loop.add_reader(fd, reader)
        # The descriptor of a ZeroMQ socket tells only those of news who found nothing before.
        connection.is_broken()
        pending, hello = self._tracker.hello()
        try:
            self._send(hello)
            await self.wait(pending, max(0.0, deadline_s - loop.time() - GRACE_S))
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
