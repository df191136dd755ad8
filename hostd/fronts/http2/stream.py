"""A stream of HTTP/2: a request and its response."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass(eq=False, slots=True)
class Stream:
    """A stream. `room_bytes` is what their side takes, `allowed_bytes` what ours still does."""

    id: int
    room_bytes: int
    allowed_bytes: int
    is_whole: bool = False
    """Whether they have sent all."""
    is_ended: bool = False
    """Whether we have, or have given up."""
    ungranted_bytes: int = 0
    waiting: deque[memoryview] = field(default_factory=deque)
    trailers: bytes | None = None
    """The block that goes behind what waits."""
    stalled_looks: int = 0
    """How often somebody has looked since something of what waits went."""
