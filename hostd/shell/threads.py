"""Threads where the system gives few: containers and users may have no more than so many (pids.max, RLIMIT_NPROC)."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Threads(ThreadPoolExecutor):
    """A pool that has a thread from the start, and makes do with what it has when the system gives no more.

    The standard one raises in that case and keeps the work all the same: its result would never come, or it would be
    done twice. Raises RuntimeError when there is not even the first thread.
    """

    def __init__(self, count: int, name: str, initializer: Callable[[], object] | None = None) -> None:
        super().__init__(count, name, initializer)
        self.submit(int).result()

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            if not self._threads:
                raise


def may_start(count: int) -> bool:
    """Say whether so many threads can run at once."""
    begin = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=begin.wait)
            thread.start()
            started.append(thread)
    except RuntimeError:
        return False
    finally:
        begin.set()
        for thread in started:
            thread.join()
    return True
