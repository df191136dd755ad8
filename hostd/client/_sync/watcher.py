"""A thread that waits for calls on behalf of those that do not wait themselves.

`concurrent.futures.wait` and `as_completed` sleep until they are told, and callbacks are for when nobody waits at all.
So for as long as there are such calls, and no longer, a thread leads or follows like any other, and tells of the calls
that have ended. It holds nothing while it does: callbacks may use the client as they like.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Protocol

from hostd.client.tracker import Pending

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostd.client._sync.inside import Inside

_SWEEP_PERIOD_S = 0.25
"""How often to look for calls that are overdue: the host ends late ones itself, unless it hangs."""


class Call(Protocol):
    """What can be watched."""

    def settle(self) -> None:
        """Tell those that want to know that the call has ended."""
        ...


class Channel(Protocol):
    """What the thread leads or follows."""

    inside: Inside

    def wake(self) -> None:
        """Have the leader look again."""

    def wait_until(self, pending: Pending, is_over: Callable[[], bool], until_s: float | None) -> object:
        """Lead or follow until then."""

    def cancel_overdue(self) -> None:
        """End the calls that are late."""


class Watcher:
    """The calls of one channel that are watched, and the thread that does."""

    def __init__(self) -> None:
        self._changing = threading.RLock()
        self._calls: set[Call] = set()
        self._ended: deque[Call] = deque()
        self._bell = Pending(0)
        self._is_running = False

    def watch(self, channel: Channel, call: Call, pending: Pending) -> None:
        """Have `settle` of a call called once its request has ended."""
        with channel.inside, self._changing:
            if call not in self._calls:
                self._calls.add(call)
                pending.listeners.append(partial(self._note, call))
            if not self._is_running:
                self._is_running = True
                # A daemon: no program waits at its end for results that it has not asked for.
                threading.Thread(target=self._run, args=(channel,), name="hostd-calls", daemon=True).start()
        if pending.is_done:  # perhaps just before it had the listener
            self._note(call)
            channel.wake()

    def unwatch(self, channel: Channel, call: Call) -> None:
        """Leave a call alone; with the last one the thread ends."""
        with self._changing:
            self._calls.discard(call)
        self._bell.tell()
        channel.wake()

    def _note(self, call: Call) -> None:
        # In whichever thread has ended the call, with its locks: so this only notes it.
        if call in self._calls:
            self._ended.append(call)
            self._bell.tell()

    def _run(self, channel: Channel) -> None:
        while self._is_needed():
            channel.wait_until(self._bell, self._is_rung, time.monotonic() + _SWEEP_PERIOD_S)
            channel.cancel_overdue()
            while self._ended:
                call = self._ended.popleft()
                with self._changing:
                    self._calls.discard(call)
                call.settle()

    def _is_rung(self) -> bool:
        return bool(self._ended) or not self._calls

    def _is_needed(self) -> bool:
        with self._changing:
            self._is_running = bool(self._calls)
            return self._is_running
