"""Which threads are in the middle of something, so that what interrupts one of them knows."""

from __future__ import annotations

from threading import get_ident


class Inside:
    """A reentrant context manager without a lock: a signal handler or a finalizer may run at any point of it."""

    def __init__(self) -> None:
        self._depths: dict[int, int] = {}

    def is_here(self) -> bool:
        """Say whether this thread is inside."""
        return get_ident() in self._depths

    def __enter__(self) -> None:
        thread = get_ident()
        self._depths[thread] = self._depths.get(thread, 0) + 1

    def __exit__(self, *_: object) -> None:
        thread = get_ident()
        depth = self._depths.pop(thread) - 1
        if depth:
            self._depths[thread] = depth
