"""The bare call of the same method in the caller's own process: no isolation at all."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from benchmarks.models import import_echo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.floors.lane import Shape

NAME = "in-process call"


class CallLane:
    """A function call; `send` does the work and `receive` has nothing left to do."""

    def __init__(self, shape: Shape) -> None:
        model = import_echo()
        self._method = model.echo if shape.is_echo else model.size_of
        self._payload = shape.payload()

    def call(self) -> None:
        """Call the method."""
        self._method(self._payload)

    def send(self) -> None:
        """Call the method."""
        self._method(self._payload)

    def receive(self) -> None:
        """Do nothing."""


@contextmanager
def open_lane(shape: Shape) -> Iterator[CallLane]:
    """Load the model here."""
    yield CallLane(shape)
