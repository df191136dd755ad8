"""What the synchronous client hands out for a call that goes on: a pending call, and the items of a stream."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from hostd.client.tracker import again
from hostd_workers.wire.errors import DeadlineExceededError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from hostd.client.channel import Channel
    from hostd.client.tracker import Pending, PendingStream


class PendingCall:
    """A call that was begun with `model.submit`."""

    def __init__(self, channel: Channel, pending: Pending, timeout_s: float | None) -> None:
        self._channel = channel
        self._pending = pending
        self._timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"<PendingCall {'done' if self._pending.is_done else 'waiting'}>"

    def done(self) -> bool:
        """Say whether the answer has come; it takes in what has arrived, and does not wait."""
        if not self._pending.is_done:
            self._channel.wait_until(self._pending, lambda: self._pending.is_done, time.monotonic())
        return self._pending.is_done

    def result(self, timeout_s: float | None = None) -> Any:
        """Wait for the answer, at most `timeout_s` (None: the call's own deadline), and return or raise it.

        After a `timeout_s` that was too short the call goes on: ask again, or `cancel` it.
        """
        if timeout_s is None:
            return self._channel.wait(self._pending, self._timeout_s)
        self._channel.wait_until(self._pending, lambda: self._pending.is_done, time.monotonic() + timeout_s)
        if not self._pending.is_done:
            raise DeadlineExceededError(f"there was no answer within {timeout_s:g} s; the call goes on")
        return self._pending.result()

    def cancel(self) -> None:
        """Give the call up; the worker skips it if it has not begun."""
        if not self._pending.is_done:
            self._channel.cancel(self._pending)


class ItemStream:
    """The items of a stream, as they come. Closing it, or leaving a `with` block, cancels what is still to come."""

    def __init__(self, channel: Channel, pending: PendingStream, timeout_s: float | None) -> None:
        self._channel = channel
        self._pending = pending
        self._deadline_s = None if timeout_s is None else time.monotonic() + timeout_s

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        pending = self._pending
        self._channel.wait_until(pending, lambda: bool(pending.items) or pending.is_done, self._deadline_s)
        if pending.items:
            item, credit = pending.take()
            if credit and not pending.is_done:
                self._channel.grant(pending, credit)
            return item
        if not pending.is_done:
            self.close()
            raise DeadlineExceededError("the deadline passed before the stream's next item came")
        if pending.error is not None:
            error, pending.error = pending.error, None
            raise again(error)
        raise StopIteration

    def close(self) -> None:
        """Cancel the stream, in the worker too."""
        if not self._pending.is_done:
            self._channel.cancel(self._pending)
            self._pending.error = None
        self._pending.items.clear()

    def __enter__(self) -> ItemStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        # A `for` loop that was left early drops its iterator without a word; the worker must not go on for nobody.
        self.close()
