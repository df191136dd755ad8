"""A page of figures that a worker writes and its host reads, without a message for each call.

It has the calls that come by lanes, and of all calls how long they waited and ran. The host makes it, sealed in size,
and the worker maps it. It holds unsigned words of 64 bits, in the order of the machine. Each is written in one step, so
each is true by itself; what belongs together may be one call apart. A worker that writes nonsense there harms only what
is shown of itself.

    word 0       version of this layout
    word 1..     begun, ended, bytes in flight, last use (ns of the monotonic clock), connections; how many succeeded,
                 failed and were cancelled, the sums of their durations in ns; all calls that ran, how long these
                 waited and ran in ns
    window       the last durations in ns, a ring: `ended` modulo its length is the next
    slots        one for each method of the first that were called, one for all others: the number of the method in the
                 sorted list from 1 (0: none), the sum of durations in ns, and counts by duration (`BUCKETS_S`, above)
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from hostd_workers.wire.lane.figures import BUCKETS_S, MAX_METHODS, NO_FIGURES, WINDOW, Figures, MethodFigures

if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION: Final = 2

_BUCKETS_NS: Final = tuple(int(bound_s * 1e9) for bound_s in BUCKETS_S)
_BEGUN, _ENDED, _BYTES, _LAST_USE, _CONNECTIONS = range(1, 6)
SUCCEEDED, FAILED, CANCELLED = range(6, 9)
_TO_NS: Final = 3
"""From one of these to the sum of its durations."""

_EXECUTIONS, _QUEUE_NS, _COMPUTE_NS = range(12, 15)
_FIGURES: Final = struct.Struct("14Q")
_WINDOW_AT: Final = 16
_SLOTS_AT: Final = _WINDOW_AT + WINDOW
_SLOT_WORDS: Final = 2 + len(BUCKETS_S) + 1
_WORDS: Final = _SLOTS_AT + (MAX_METHODS + 1) * _SLOT_WORDS
PAGE_BYTES: Final = -(-_WORDS * 8 // mmap.PAGESIZE) * mmap.PAGESIZE

MOST: Final = 1 << 53
"""No count is more: what is summed up must still fit into 64 bits, or it could not be told to anybody."""

_MOST_NS: Final = 1 << 60
"""36 years, for the same reason."""

_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
"""A worker that makes it shorter would have its host killed by SIGBUS."""


def new() -> int:
    """Return the descriptor of an empty page, which no process that gets it can shrink or grow. Raises `OSError`."""
    fd = os.memfd_create("hostd-lane-page", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, PAGE_BYTES)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(fd)
        raise
    return fd


class Writer:
    """The worker's side. `begun`, `ran` and `ended` are called for each call, so they do little."""

    __slots__ = ("_numbers", "_slots", "_words")

    def __init__(self, fd: int | None, methods: Sequence[str]) -> None:
        """Map a page, None for one that nobody reads; `methods` are all of the model's, sorted. Raises `OSError`."""
        self._words = memoryview(bytearray(PAGE_BYTES) if fd is None else mmap.mmap(fd, PAGE_BYTES)).cast("Q")
        self._words[0] = VERSION
        self._numbers = {method: number for number, method in enumerate(methods, 1)}
        self._slots: dict[str | None, int] = {None: _SLOTS_AT + MAX_METHODS * _SLOT_WORDS}

    def connected(self, count: int) -> None:
        """Say how many clients there are."""
        self._words[_CONNECTIONS] = count

    def begun(self, size_bytes: int) -> None:
        """Count a call that has come."""
        words = self._words
        words[_BEGUN] += 1
        words[_BYTES] += size_bytes

    def ran(self, queue_ns: int, compute_ns: int) -> None:
        """Count a call that has run, by whatever way it came, before its answer leaves."""
        words = self._words
        words[_EXECUTIONS] += 1
        words[_QUEUE_NS] += queue_ns
        words[_COMPUTE_NS] += compute_ns

    def ended(self, method: str | None, size_bytes: int, duration_ns: int, now_ns: int, outcome: int) -> None:
        """Count the end of a call of a lane: SUCCEEDED, FAILED or CANCELLED.

        `method` is None if the model has none of that name.
        """
        words = self._words
        words[_WINDOW_AT + words[_ENDED] % WINDOW] = duration_ns
        slot = self._slots.get(method) or self._slot(method)
        words[slot + 1] += duration_ns
        words[slot + 2 + bisect_left(_BUCKETS_NS, duration_ns)] += 1
        words[_LAST_USE] = now_ns
        words[_BYTES] -= size_bytes
        words[outcome] += 1
        words[outcome + _TO_NS] += duration_ns
        words[_ENDED] += 1

    def _slot(self, method: str | None) -> int:
        used = len(self._slots) - 1
        at = _SLOTS_AT + min(used, MAX_METHODS) * _SLOT_WORDS
        if used < MAX_METHODS and method is not None:
            self._words[at] = self._numbers[method]
        self._slots[method] = at
        return at


class Page:
    """The host's side: what its worker has written, whatever that is."""

    __slots__ = ("_figures", "_map", "_methods", "_seen", "_words")

    def __init__(self, fd: int, methods: Sequence[str]) -> None:
        """Map a page; `methods` are all of the model's, sorted. It can be closed with `close`."""
        self._map = mmap.mmap(fd, PAGE_BYTES, prot=mmap.PROT_READ)
        self._words = memoryview(self._map).cast("Q")
        self._methods = methods
        self._seen = b""
        self._figures = NO_FIGURES

    def figures(self) -> Figures:
        """Return the figures of the moment, the same object while they are the same."""
        # A page that has not changed costs no more than to copy a line of the cache: the host looks at those of all
        # workers every second and for every list, and most are idle.
        seen = self._map[: _WINDOW_AT * 8]
        if seen != self._seen:
            words = (0, *_FIGURES.unpack_from(seen, _BEGUN * 8))
            self._seen = seen
            self._figures = Figures(
                min(words[_BEGUN], MOST),
                min(words[_ENDED], MOST),
                min(words[FAILED], MOST),
                min(words[_BYTES], MOST),
                words[_LAST_USE] / 1e9,
                min(words[_CONNECTIONS], MOST),
                min(words[SUCCEEDED], MOST),
                min(words[CANCELLED], MOST),
                min(words[SUCCEEDED + _TO_NS], _MOST_NS),
                min(words[FAILED + _TO_NS], _MOST_NS),
                min(words[_EXECUTIONS], MOST),
                min(words[_QUEUE_NS], _MOST_NS),
                min(words[_COMPUTE_NS], _MOST_NS),
            )
        return self._figures

    def durations_s(self) -> list[float]:
        """Return the last durations, in no order."""
        known = min(self._words[_ENDED], WINDOW)
        return [duration_ns / 1e9 for duration_ns in self._words[_WINDOW_AT : _WINDOW_AT + known]]

    def by_method(self) -> list[MethodFigures]:
        """Return the calls of each method that was called, and of those without a slot together (None)."""
        found = []
        for slot in range(MAX_METHODS + 1):
            at = _SLOTS_AT + slot * _SLOT_WORDS
            number, sum_ns, *counts = self._words[at : at + _SLOT_WORDS]
            if any(counts):
                method = self._methods[number - 1] if 0 < number <= len(self._methods) else None
                found.append(MethodFigures(method, [min(count, MOST) for count in counts], sum_ns / 1e9))
        return found

    def close(self) -> None:
        """Unmap the page."""
        self._words.release()
        self._map.close()
