"""What goes on after a synchronous client has begun it: pending calls, and iterators."""

from __future__ import annotations

import threading
import time
from concurrent import futures
from typing import TYPE_CHECKING, Any

from hostd.client._sync.streams import ItemStream
from hostd.client.tracker import again
from hostd.not_pickled import NotPickled
from hostd.records import Event
from hostd_workers.wire.errors import CancelledError, DeadlineExceededError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hostd.client._sync.channel import Channel
    from hostd.client.tracker import Make, Pending
    from hostd_workers.wire.errors import HostError


class TooShortError(DeadlineExceededError, futures.TimeoutError):
    """A wait for a call ended before the call did; it is a `concurrent.futures.TimeoutError` too."""


class CallCancelledError(CancelledError, futures.CancelledError):
    """The call was cancelled with its `cancel`; it is a `concurrent.futures.CancelledError` too."""


class PendingCall(NotPickled, futures.Future[Any]):
    """A call that was begun with `model.submit`: a `concurrent.futures.Future`.

    A thread that waits in `result` or `exception` does the I/O. For `concurrent.futures.wait` and `as_completed`, for
    callbacks and `asyncio.wrap_future` a thread does it, which exists only as long as one of these waits; callbacks run
    in it, and may use the client.
    """

    _instead = "it waits in this process; pickle its result(), or a model's handle, and call that there"

    def __init__(self, channel: Channel, pending: Pending, timeout_s: float | None) -> None:
        # As the base class does, but for its condition: to make that takes as long as to encode the call, and few ask.
        self._state = "PENDING"
        self._result = self._exception = None
        self._waiters = []
        self._done_callbacks: list[Any] = []
        self._channel = channel
        self._pending = pending
        self._timeout_s = timeout_s
        self._has_callbacks = False
        self._is_settled = False
        pending.deadline_s = None if timeout_s is None else time.monotonic() + timeout_s

    def __repr__(self) -> str:
        return f"<PendingCall {'done' if self._pending.is_done else 'waiting'}>"

    def done(self) -> bool:
        """Say whether the answer has come; it takes in what has arrived, and does not wait."""
        self._channel.look(self._pending)
        return self._pending.is_done

    def running(self) -> bool:
        """Say whether the call goes on: whether it waits in the host or runs is not known here."""
        return not self.done()

    def cancelled(self) -> bool:
        """Say whether `cancel` has ended the call."""
        return isinstance(self._pending.error, CallCancelledError)

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the answer, at most `timeout` seconds (None: the call's own deadline), and return or raise it.

        After a `timeout` that was too short, which raises a `DeadlineExceededError` that is a `TimeoutError` too, the
        call goes on: ask again, or `cancel` it.
        """
        self._finish(timeout)
        return self._pending.result()

    def exception(self, timeout: float | None = None) -> HostError | None:
        """Wait as `result` does, and return the error of the call, None if it has a result.

        Raises `CancelledError` if the call was cancelled, as a future does.
        """
        self._finish(timeout)
        error = self._pending.error
        if self.cancelled():
            self._pending.result()
        return None if error is None else again(error)

    def _finish(self, timeout: float | None) -> None:
        if timeout is None:
            self._channel.finish(self._pending, self._timeout_s)
            return
        self._channel.wait_until(self._pending, lambda: self._pending.is_done, time.monotonic() + timeout)
        if not self._pending.is_done:
            raise TooShortError(f"there was no answer within {timeout:g} s; the call goes on")

    def cancel(self) -> bool:
        """Give the call up, and say whether that was still possible; the worker skips it if it has not begun."""
        if not self._pending.is_done:
            self._channel.cancel(self._pending, CallCancelledError("the call was cancelled by its caller"))
        return self.cancelled()

    def add_done_callback(self, fn: Callable[[futures.Future[Any]], object]) -> None:
        """Have `fn(call)` called when the call has ended, in a thread of the client's; at once if it has."""
        if self._pending.is_done:
            self.settle()
        self._has_callbacks = True
        super().add_done_callback(fn)
        self.watch()

    # What `concurrent.futures` looks at in a future: its state, which changes in `settle`, and what to tell of it.

    def settle(self) -> None:
        """Tell the base class how the call has ended; it tells those that wait, and runs the callbacks."""
        with self._condition:
            if self._is_settled:
                return
            self._is_settled = True
        if self.cancelled():
            super().cancel()
            self.set_running_or_notify_cancel()
        elif self._pending.error is not None:
            self.set_exception(self._pending.error)
        else:
            self.set_result(None)  # decoded when it is asked for

    def __getattr__(self, name: str) -> Any:
        if name == "_condition":
            return self.__dict__.setdefault(name, threading.Condition())
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def _waiters(self) -> list[Any]:
        return _Waiters(self, self._installed)

    @_waiters.setter
    def _waiters(self, waiters: list[Any]) -> None:
        self._installed = waiters

    def check_may_wait(self) -> None:
        """Raise `FailedPreconditionError` where nobody could end the call while this thread sleeps."""
        if not self._pending.is_done:
            self._channel.check_may_wait()

    def watch(self) -> None:
        """Have somebody see to it that the call ends, and that `settle` is called then."""
        if self._pending.is_done:
            self.settle()
        else:
            self._channel.watcher.watch(self._channel, self, self._pending)

    def unwatch(self) -> None:
        """Withdraw that, if nobody needs it any more."""
        if not self._installed and not self._has_callbacks:
            self._channel.watcher.unwatch(self._channel, self)


class _Waiters(list[Any]):
    """What `concurrent.futures` installs its waiters in: while there is one, the call is watched."""

    def __init__(self, call: PendingCall, installed: list[Any]) -> None:
        super().__init__(installed)
        self._call = call
        self._installed = installed

    def append(self, waiter: Any) -> None:
        self._call.check_may_wait()
        self._installed.append(waiter)
        self._call.watch()

    def remove(self, waiter: Any) -> None:
        self._installed.remove(waiter)
        self._call.unwatch()


def submit(channel: Channel, make: Make, timeout_s: float | None) -> PendingCall:
    """Begin a call."""
    return PendingCall(channel, channel.begin(make), timeout_s)


def stream(channel: Channel, make: Make, timeout_s: float | None) -> ItemStream:
    """Begin a stream, and return an iterator over its items."""
    return ItemStream(channel, channel.begin(make), timeout_s)


def events(channel: Channel, make: Make) -> Iterator[Event]:
    """Begin a subscription, and return an iterator over its events."""
    channel.check_may_wait()
    items = ItemStream(channel, channel.begin(make), None)
    next(items)  # the first item says that the host has noted the subscription
    return _events(items)


def _events(items: ItemStream) -> Iterator[Event]:
    with items:
        for item in items:
            yield Event.from_dict(item)
