# Generated from hostd/client/_async/streams.py by .ci/unasync.py: edit that one.
"""What comes bit by bit: the items of a stream, the results of many calls, the lines of a log."""

from __future__ import annotations

import time
from collections import deque
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from hostd.client.arguments import MAP_WINDOW, only_inputs
from hostd.client.tracker import Pending
from hostd.log_lines import FOLLOW_PERIOD_S
from hostd.not_pickled import NotPickled
from hostd_workers.wire.errors import DeadlineExceededError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hostd.client._sync.channel import Channel
    from hostd.client.tracker import PendingStream
    from hostd.log_lines import Follower, LogLine


class ItemStream(NotPickled):
    """An iterator over items. Closing it, or leaving a `with` block, cancels what is still to come."""

    _instead = "its items come to this process; pickle them, or a model's handle, and begin a stream there"

    def __init__(self, channel: Channel, pending: PendingStream, timeout_s: float | None) -> None:
        self._channel = channel
        self._pending = pending
        self._deadline_s = None if timeout_s is None else time.monotonic() + timeout_s

    def __iter__(self) -> ItemStream:
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
            raise pending.failure(error)
        raise StopIteration

    def close(self) -> None:
        """Cancel the stream, in the worker too."""
        if not self._pending.is_done:
            self._channel.cancel(self._pending)
            self._pending.error = None
        self._pending.items.clear()

    def __enter__(self) -> ItemStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # A loop that was left early drops its iterator without a word; the worker must not go on for nobody.
        self.close()


def results(
    channel: Channel,
    call: Callable[..., Any],
    args: tuple[Any, ...],
    timeout_s: float | None,
) -> Iterator[Any]:
    """Do a call with each of many inputs, and iterate over the results in their order."""
    (inputs,) = only_inputs(args)
    waiting, remaining = deque[Pending](), iter(inputs)
    try:
        while True:
            if len(waiting) <= MAP_WINDOW // 2:
                fresh = islice(remaining, MAP_WINDOW - len(waiting))
                waiting.extend(channel.begin_all(partial(call, args=(x,)) for x in fresh))
            if not waiting:
                return
            yield channel.wait(waiting.popleft(), timeout_s)
    finally:
        for pending in waiting:
            channel.cancel(pending)


def log_lines(follower: Follower, read: Callable[[], Any]) -> Iterator[LogLine]:
    """Iterate over the lines of a log, of which `read` asks for the next."""
    while not follower.is_over:
        yield from follower.take(read())
        if follower.is_waiting and not follower.is_over:
            time.sleep(FOLLOW_PERIOD_S)
