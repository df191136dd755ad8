"""Memory that the two ends of a lane share, for what is long: one end writes it once, the other reads it in place.

Rules
1. A region belongs to the end that made it, which alone writes into it, and only while the other end has none of it in
   use: the other end says so (`unused`), once nothing there refers to the region any more. NumPy arrays refer to the
   map itself, not to the view that they were made of, so the references to the map are what is counted.
2. A region's size is sealed: an end that made one shorter would have the other killed by SIGBUS.
3. Each end makes regions of `MAX_BYTES` in all, or as long as one message. What does not fit goes the ordinary way.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import sys
from typing import TYPE_CHECKING, Final

from hostd_workers.wire.errors import ProtocolError
from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hostd_workers.wire.frames import Buffer
    from hostd_workers.wire.lane.spare import Spare

SHARED_FROM_BYTES: Final = 64 * 1024
"""What is shorter goes through the socket sooner than it is written, announced and given back."""

MAX_REGIONS: Final = 64
MAX_BYTES: Final = 256 << 20

ALIGNMENT: Final = 64
"""A cache line, and what vector instructions want."""

_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Place(NamedTuple):
    """Where a buffer lies: the region's number, and the offset in units of `ALIGNMENT`."""

    region: int
    offset: int


class _Own:
    """A region that this end has made."""

    __slots__ = ("fd", "is_free", "is_known", "map", "number", "view")

    def __init__(self, number: int, size_bytes: int) -> None:
        self.number = number
        self.fd = os.memfd_create("hostd-lane", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, size_bytes)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
            self.map = mmap.mmap(self.fd, size_bytes)
        except OSError:
            os.close(self.fd)
            raise
        self.view = memoryview(self.map)
        self.is_free = True
        self.is_known = False

    def __len__(self) -> int:
        return len(self.map)

    def close(self) -> None:
        self.view.release()
        self.map.close()
        os.close(self.fd)


class Placement(NamedTuple):
    """Where the long buffers of one message lie; `fd` and `size_bytes` announce the region, if it is a new one.

    `given_up` are regions that had to make place for it.
    """

    region: int
    offsets: list[int]
    fd: int | None
    size_bytes: int
    given_up: list[int]


class OwnRegions:
    """The regions that this end writes."""

    def __init__(self, spare: Spare) -> None:
        """Take where regions are that are not in use."""
        self._spare = spare
        self._regions: dict[int, _Own] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._regions)

    def place(self, buffers: Sequence[Buffer]) -> Placement | None:
        """Write buffers into a region that is not in use, or a new one; None if there is no room for that."""
        offsets, size = [], 0
        for buffer in buffers:
            offsets.append(size // ALIGNMENT)
            size += -(-len(buffer) // ALIGNMENT) * ALIGNMENT
        given_up: list[int] = []
        region = self._free_for(size, given_up)
        if region is None:
            return None
        self._spare.take(region.map)
        for buffer, offset in zip(buffers, offsets, strict=True):
            at = offset * ALIGNMENT
            region.view[at : at + len(buffer)] = buffer
        region.is_free = False
        fd = None if region.is_known else region.fd
        region.is_known = True
        return Placement(region.number, offsets, fd, len(region), given_up)

    def unused(self, number: int) -> None:
        """Take note that the other end has none of a region in use. Raises `ProtocolError` if it cannot have been."""
        region = self._regions.get(number)
        if region is None or region.is_free:
            raise ProtocolError(f"region {number} is not in use")
        region.is_free = True
        self._spare.add(region.map)

    def forget(self, number: int) -> None:
        """Give up a region that the other end does not use, or has not heard of."""
        region = self._regions.pop(number)
        self._spare.take(region.map)
        region.close()

    def close(self) -> None:
        """Give all regions up."""
        for number in list(self._regions):
            self.forget(number)

    def _free_for(self, size: int, given_up: list[int]) -> _Own | None:
        free = [region for region in self._regions.values() if region.is_free]
        fitting = [region for region in free if len(region) >= size]
        if fitting:
            return min(fitting, key=len)
        while len(self._regions) >= MAX_REGIONS or sum(map(len, self._regions.values())) + size > max(MAX_BYTES, size):
            if not free:
                return None
            given_up.append(free[0].number)
            self.forget(free.pop(0).number)
        self._count += 1
        try:
            region = _Own(self._count, 1 << max(size - 1, mmap.PAGESIZE - 1).bit_length())
        except OSError:
            return None  # no descriptor, or no memory: the ordinary way
        self._regions[region.number] = region
        return region


class OtherRegions:
    """The regions of the other end, which this one reads."""

    def __init__(self) -> None:
        self._maps: dict[int, mmap.mmap] = {}
        self._used: dict[int, None] = {}

    def __len__(self) -> int:
        return len(self._maps)

    @property
    def has_used(self) -> bool:
        """Whether there are regions of which `unused` may tell."""
        return bool(self._used)

    def add(self, number: int, fd: int, size_bytes: int) -> None:
        """Map a region that was announced, and close the descriptor. Raises `ProtocolError` if it is not safe."""
        try:
            if number in self._maps or len(self._maps) >= MAX_REGIONS:
                raise ProtocolError(f"region {number} is there already, or there are {MAX_REGIONS}")
            seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
            if not seals & fcntl.F_SEAL_SHRINK or os.fstat(fd).st_size != size_bytes:
                raise ProtocolError("a region must be sealed in size")
            self._maps[number] = mmap.mmap(fd, size_bytes)
        except (OSError, ValueError) as error:  # ValueError: it is empty
            raise ProtocolError(f"a region cannot be mapped: {error}") from None
        finally:
            os.close(fd)

    def drop(self, number: int) -> None:
        """Forget a region that the other end has given up; what still refers to it keeps it."""
        self._maps.pop(number, None)
        self._used.pop(number, None)

    def view(self, number: int, offset: int, length: int) -> memoryview:
        """Return a buffer that lies in a region. Raises `ProtocolError` if there is none."""
        region = self._maps.get(number)
        at = offset * ALIGNMENT
        if region is None or at + length > len(region):
            raise ProtocolError(f"there is no region {number} with {length} bytes at {at}")
        self._used[number] = None
        return memoryview(region)[at : at + length]

    def unused(self) -> Iterable[int]:
        """Return the regions that were in use and to which nothing refers any more."""
        found = [number for number in self._used if sys.getrefcount(self._maps[number]) == _ALONE]
        for number in found:
            del self._used[number]
        return found

    def close(self) -> None:
        """Forget all regions."""
        self._maps.clear()
        self._used.clear()


def _references_alone() -> int:
    """Return what `getrefcount` says of a map in a dictionary to which nothing else refers."""
    maps = {0: mmap.mmap(-1, mmap.PAGESIZE)}
    return next(sys.getrefcount(maps[number]) for number in maps)


_ALONE: Final = _references_alone()
