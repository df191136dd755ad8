"""Feeds of the synchronous client, which has no thread: whichever waits for a call iterates over what feeds it.

Rules
1. An item is made only when the model asks for it. Before each the thread takes in what has come: so the items of a
   stream and an early end are late by no more than it takes to make one item.
2. One thread iterates, and closes the iterator, in no lock of ours: what it runs is the user's, and may use the client.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final, Protocol

from hostd.client.feed import gave_out, no_more

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostd.client.feed import Feeding
    from hostd.client.tracker import Pending
    from hostd_workers.wire.frames import Buffer

_END: Final = object()


class Channel(Protocol):
    """What waits, and sends."""

    def lead_or_follow(self, pending: Pending, is_over: Callable[[], bool], deadline_s: float | None) -> None:
        """Wait until then."""

    def finish(self, pending: Pending, timeout_s: float | None, began_s: float | None = None) -> None:
        """Wait until a request has ended, with `wait`."""

    def feed(self, pending: Pending, frames: list[Buffer]) -> None:
        """Send what belongs to the feed of a call."""

    def feed_item(self, pending: Pending, feeding: Feeding, item: object) -> None:
        """Send an item."""

    def cancel(self, pending: Pending) -> None:
        """End a request, and close its feed."""


def wait(
    channel: Channel, pending: Pending, feeding: Feeding, is_over: Callable[[], bool], deadline_s: float | None
) -> None:
    """Feed a call until `is_over` or the deadline (of `time.monotonic`). Raises what the items raise."""
    while not is_over():
        channel.lead_or_follow(pending, lambda: is_over() or _is_wanted(feeding), deadline_s)
        channel.lead_or_follow(pending, is_over, time.monotonic())
        if is_over() or (deadline_s is not None and time.monotonic() >= deadline_s):
            break
        _go_on(channel, pending, feeding)
    if pending.is_done:
        close(feeding)


def answer(channel: Channel, pending: Pending, feeding: Feeding, timeout_s: float | None, began_s: float) -> Any:
    """Feed a call until it has ended, and return its result or raise its error; whatever interrupts this ends it."""
    try:
        channel.finish(pending, timeout_s, began_s)
        return pending.result()
    finally:
        if not pending.is_done:
            channel.cancel(pending)
        close(feeding)


def close(feeding: Feeding) -> None:
    """Close what the items came from, unless a thread iterates over it, which does so then."""
    feeding.sender.close()
    if feeding.busy.acquire(blocking=False):
        try:
            iterator, feeding.iterator = feeding.iterator, None
            if isinstance(iterator, Generator):
                iterator.close()
        finally:
            feeding.busy.release()


def _is_wanted(feeding: Feeding) -> bool:
    return feeding.sender.may_send and not feeding.busy.locked()


def _go_on(channel: Channel, pending: Pending, feeding: Feeding) -> None:
    """Send an item, or the end, if the model asks for it and no other thread is about to."""
    if not feeding.busy.acquire(blocking=False):
        return
    try:
        if feeding.sender.may_send:
            if feeding.iterator is None:
                feeding.iterator = iter(feeding.items)
            item = next(feeding.iterator, _END)
            if item is _END:
                feeding.sender.end()
                channel.feed(pending, no_more(pending.id))
            else:
                channel.feed_item(pending, feeding, item)
    except BaseException as error:
        channel.feed(pending, gave_out(pending.id, error))
        channel.cancel(pending)
        raise
    finally:
        feeding.busy.release()
        if pending.is_done:
            close(feeding)
        pending.tell()  # others may wait for their turn
