"""Which bytes of a file have come, in whatever order."""

from __future__ import annotations

import bisect

from hostd_workers.wire.errors import ResourceExhaustedError

MAX_PIECES = 1000
"""Apart from each other. A client that sends in order has one, and one per piece that it has in flight."""


class Ranges:
    """Ranges of the bytes 0 to `size`, joined where they touch. Not thread-safe."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._ranges: list[tuple[int, int]] = []

    def __repr__(self) -> str:
        return f"<Ranges {self._ranges} of {self.size}>"

    @property
    def missing(self) -> int:
        """How many bytes have not come."""
        return self.size - sum(end - start for start, end in self._ranges)

    def add(self, start: int, end: int) -> None:
        """Note that the bytes from `start` up to `end` are there. Raises `ResourceExhaustedError`: too many holes."""
        if start >= end:
            return
        ranges = self._ranges
        first = bisect.bisect_left(ranges, start, key=lambda each: each[1])
        after = bisect.bisect_right(ranges, end, key=lambda each: each[0])
        touched = ranges[first:after]
        if not touched and len(ranges) >= MAX_PIECES:
            raise ResourceExhaustedError(f"a file came in more than {MAX_PIECES} pieces apart; send it in order")
        if touched:
            start, end = min(start, touched[0][0]), max(end, touched[-1][1])
        ranges[first:after] = [(start, end)]
