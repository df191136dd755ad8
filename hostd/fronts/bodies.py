"""What the bodies of all requests that a front is answering may take together.

A body counts as it comes, inflated ones also as they are inflated, until its request is answered: what is made of it
lies in memory for as long. The body that would be over is refused, and counts no more when the rest of it has been read
off, so of too many that come at a time some are read to their end. That a body was announced does not count: to
announce costs nothing.

Does not cover what one body may take: whoever reads it knows that.
"""

from __future__ import annotations

import threading
from contextvars import ContextVar

from hostd.fronts.errors import FrontFullError
from hostd_workers.wire.errors import CancelledError

_HELD: ContextVar[Held | None] = ContextVar("_HELD", default=None)
"""What the request of this context holds; None where nobody bounds it."""


class Bodies:
    """The bytes that all requests hold."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.bytes = 0
        self.changing = threading.Lock()
        """Bodies are inflated in threads."""

    def __repr__(self) -> str:
        return f"<Bodies {self.bytes} of {self.limit_bytes} bytes>"

    def holding(self) -> Held:
        """Count what `hold` is told in the block of a `with`, until its end."""
        return Held(self)


class Held:
    """The bytes that one request holds. A class, because a generator takes three times as long, for every request."""

    __slots__ = ("_before", "_bodies", "_is_over", "bytes")

    def __init__(self, bodies: Bodies) -> None:
        self.bytes = 0
        self._bodies = bodies
        self._is_over = False

    def __enter__(self) -> None:
        self._before = _HELD.set(self)

    def __exit__(self, *_: object) -> None:
        _HELD.reset(self._before)
        self.end()

    def end(self) -> None:
        """Count nothing any more; what still takes, in a thread that nobody waits for, is told so."""
        with self._bodies.changing:
            self._is_over = True
            self._bodies.bytes -= self.bytes
            self.bytes = 0

    def take(self, size_bytes: int) -> None:
        """Count so much more, or less. Raises `FrontFullError`, and `CancelledError` after the end."""
        bodies = self._bodies
        with bodies.changing:
            if self._is_over:
                raise CancelledError("nobody waits for this request any more")
            if size_bytes > 0 and bodies.bytes + size_bytes > bodies.limit_bytes:
                raise FrontFullError(
                    f"the bodies of all requests take {bodies.bytes} bytes, and {size_bytes} more are over what this "
                    f"front may hold, {bodies.limit_bytes} (fronts.max_bodies_bytes): ask again, or send less at a time"
                )
            self.bytes += size_bytes
            bodies.bytes += size_bytes


def hold(size_bytes: int) -> None:
    """Count so much more of the body of this context's request. Raises as `Held.take`."""
    held = _HELD.get()
    if held is not None:
        held.take(size_bytes)
