"""Threads that sleep until their answer is here, or until it is their turn to lead."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostd.client.tracker import Pending


class Sleep:
    """The sleep of one thread. Not an Event: a finalizer could find its lock taken by its own thread."""

    __slots__ = ("_lock", "is_over")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self.is_over = False

    def end(self) -> None:
        """Wake the thread; only the first time counts."""
        self.is_over = True
        try:
            self._lock.release()
        except RuntimeError:  # somebody else woke it
            return

    def wait(self, deadline_s: float | None) -> None:
        """Sleep until `end`, or the deadline (of `time.monotonic`)."""
        timeout_s = -1.0 if deadline_s is None else max(0.0, deadline_s - time.monotonic())
        self._lock.acquire(timeout=min(timeout_s, threading.TIMEOUT_MAX))


class Followers:
    """The threads that sleep, in the order in which they came."""

    def __init__(self) -> None:
        self._sleeps: deque[Sleep] = deque()

    def __len__(self) -> int:
        return len(self._sleeps)

    def follow(self, pending: Pending, is_needed: Callable[[], bool], deadline_s: float | None) -> None:
        """Sleep until something came for `pending`, until it is time to lead, or until the deadline.

        `is_needed` is asked once a `wake_one` can reach the caller: what it waits for may have happened just before.
        """
        sleep = Sleep()
        pending.listeners.append(sleep.end)
        self._sleeps.append(sleep)
        try:
            if is_needed():
                sleep.wait(deadline_s)
        finally:
            self._sleeps.remove(sleep)
            pending.listeners.remove(sleep.end)

    def wake_one(self) -> None:
        """Wake one thread that still sleeps, if there is any."""
        for sleep in list(self._sleeps):
            if not sleep.is_over:
                sleep.end()
                return
