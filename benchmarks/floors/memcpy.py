"""One memcpy of the payload into memory that is there already: what passing an array costs at the very least."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.floors.lane import Shape

NAME = "one memcpy"


class CopyLane:
    """A copy within this process; `send` does the work and `receive` has nothing left to do."""

    def __init__(self, shape: Shape) -> None:
        self._payload = memoryview(shape.payload())
        self._copy = memoryview(bytearray(shape.payload_bytes))

    def call(self) -> None:
        """Copy the payload."""
        self._copy[:] = self._payload

    def send(self) -> None:
        """Copy the payload."""
        self.call()

    def receive(self) -> None:
        """Do nothing."""


@contextmanager
def open_lane(shape: Shape) -> Iterator[CopyLane]:
    """Make the memory."""
    yield CopyLane(shape)
