"""`ProcessPoolExecutor` with one worker: what the standard library asks for the same isolation (with pickle)."""

from __future__ import annotations

import multiprocessing
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from benchmarks.floors.lane import Shape, die_with_parent

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "ProcessPoolExecutor"


def echo(value: Any) -> Any:
    """Return the value."""
    return value


def size_of(value: Any) -> int:
    """Return the length of the value, in items."""
    return len(value)


class PoolLane:
    """The caller's end: futures in the order of their submission."""

    def __init__(self, pool: ProcessPoolExecutor, shape: Shape) -> None:
        self._pool = pool
        self._payload = shape.payload()
        self._function = echo if shape.is_echo else size_of
        self._pending: deque[Future[Any]] = deque()

    def call(self) -> None:
        """Send one request and wait for its answer."""
        self._pool.submit(self._function, self._payload).result()

    def send(self) -> None:
        """Send one request."""
        self._pending.append(self._pool.submit(self._function, self._payload))

    def receive(self) -> None:
        """Wait for the oldest answer."""
        self._pending.popleft().result()


@contextmanager
def open_lane(shape: Shape) -> Iterator[PoolLane]:
    """Open a pool of one; a spawned worker, because forking a process with threads is not sound."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=die_with_parent) as pool:
        yield PoolLane(pool, shape)
