"""System shared memory, Triton's extension: tensors in POSIX shared memory of this machine, which clients register.

Rules
1. A key is one name in /dev/shm, of letters, digits, - and _, with or without a slash before it. Only a file that this
   user owns is taken, and no link; so no key leads elsewhere.
2. Bytes are copied with pread and pwrite. To map the memory would save the copy, but whoever truncates the file then
   ends this process with SIGBUS; read so, it is an error of one request.
3. The file's size is looked at at each use, and what a request may read is bounded as its body is.
4. Regions are those of one front's process: one that starts again knows none, as a Triton that starts again.
5. Only who may load may register and use them: the front opens files of its user, which others of the machine may not.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hostd.fronts.errors import IS_TRUSTED
from hostd.fronts.oip.requests import Place
from hostd_workers.wire.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    MessageTooLargeError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostd_workers.wire.frames import Buffer

MAX_REGIONS: Final = 256
"""Each holds a descriptor, of which a process may have 1024 by default."""

MAX_NAME_CHARS: Final = 255
"""As much as a key may have."""

_DIRECTORY: Final = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory is (shm_overview(7))
_KEY: Final = re.compile(r"/?([A-Za-z0-9_-]{1,255})")
_CHUNK_BYTES: Final = 1 << 30
"""Of one call; the kernel transfers less than 2 GiB at a time (read(2))."""


@dataclass(frozen=True, eq=False)
class _Region:
    key: str
    offset: int
    byte_size: int
    fd: int


class Regions:
    """The regions that the clients of one front have registered; a request reads at most `max_bytes` of them."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._known: dict[str, _Region] = {}

    def __repr__(self) -> str:
        return f"<Regions {sorted(self._known)}>"

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Open memory that a client has made.

        Raises `AlreadyExistsError` for a name that is taken, `InvalidArgumentError`, `NotFoundError` and
        `PermissionDeniedError` for a key that is none, leads nowhere, or to somebody else's memory.
        """
        if name in self._known:
            raise AlreadyExistsError(f"shared memory region '{name}' already in manager: unregister it first")
        if len(self._known) >= MAX_REGIONS:
            raise ResourceExhaustedError(f"{MAX_REGIONS} shared memory regions are registered: unregister some")
        if not 0 < len(name) <= MAX_NAME_CHARS or offset < 0 or byte_size <= 0:
            raise InvalidArgumentError(
                f"shared memory region {name!r:.300}: got offset {offset} and {byte_size} bytes, expected a name of 1 "
                f"to {MAX_NAME_CHARS} characters, an offset of 0 or more and a size of 1 or more"
            )
        fd = _opened(key)
        region = _Region(key, offset, byte_size, fd)
        try:
            _check_size(name, region)
        except FailedPreconditionError:
            os.close(fd)
            raise
        self._known[name] = region

    def unregister(self, name: str = "") -> None:
        """Forget a region, or all; one that is not known is none, as in Triton."""
        for known in [name] if name else list(self._known):
            region = self._known.pop(known, None)
            if region is not None:
                os.close(region.fd)

    def status(self, name: str = "") -> list[dict[str, Any]]:
        """Return a region, or all. Raises `NotFoundError`."""
        found = {name: self._region(name)} if name else self._known
        return [
            {"name": name, "key": region.key, "offset": region.offset, "byte_size": region.byte_size}
            for name, region in found.items()
        ]

    def reading(self) -> Callable[[Place, str], bytes]:
        """Return what reads the inputs of one request. It raises `HostError` that names the input."""
        left = self._max_bytes

        def read(place: Place, where: str) -> bytes:
            nonlocal left
            region = self._of_use(place, where)
            left -= place.byte_size
            if left < 0:
                raise MessageTooLargeError(
                    f"{where}: a request reads at most {self._max_bytes} bytes of shared memory (fronts.max_body_bytes)"
                )
            return _read(region.fd, region.offset + place.offset, place.byte_size, where)

        return read

    def write(self, place: Place, data: Buffer, where: str) -> Place:
        """Write an output, and return where it is. Raises `HostError` that names it."""
        region = self._of_use(place, where)
        size = len(data)
        if size > place.byte_size:
            raise InvalidArgumentError(
                f"{where}: shared memory size specified with the request ({place.byte_size} bytes) should be at least "
                f"{size} bytes to hold the results"
            )
        view = memoryview(data)
        done = 0
        try:
            while done < size:
                done += os.pwrite(region.fd, view[done : done + _CHUNK_BYTES], region.offset + place.offset + done)
        except OSError as error:  # pages of a region come into being when they are written
            raise ResourceExhaustedError(f"{where}: shared memory cannot be written: {error.strerror}") from None
        return Place(place.region, place.offset, size)

    def _region(self, name: str) -> _Region:
        region = self._known.get(name)
        if region is None:
            raise NotFoundError(f"Unable to find shared memory region: '{name}': register it first")
        return region

    def _of_use(self, place: Place, where: str) -> _Region:
        if not IS_TRUSTED.get():
            raise PermissionDeniedError(f"{where}: to use shared memory needs the role load")
        region = self._region(place.region)
        if place.offset < 0 or place.byte_size < 0 or place.offset + place.byte_size > region.byte_size:
            raise InvalidArgumentError(
                f"{where}: got {place.byte_size} bytes from {place.offset} on, expected to be within shared memory "
                f"region '{place.region}' of {region.byte_size} bytes"
            )
        _check_size(place.region, region)
        return region


def _opened(key: str) -> int:
    found = _KEY.fullmatch(key)
    if found is None:
        raise InvalidArgumentError(
            f"shared memory key {key!r:.300}: expected one name in {_DIRECTORY}, of letters, digits, - and _"
        )
    try:
        fd = os.open(_DIRECTORY / found[1], os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotFoundError(f"there is no shared memory {key!r}: the client makes it before it is registered") from None
    except OSError as error:
        raise PermissionDeniedError(f"shared memory {key!r} cannot be opened: {error.strerror}") from None
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        os.close(fd)
        raise PermissionDeniedError(f"shared memory {key!r} is not this host's user's")
    return fd


def _check_size(name: str, region: _Region) -> None:
    size = os.fstat(region.fd).st_size
    if size < region.offset + region.byte_size:
        raise FailedPreconditionError(
            f"shared memory region '{name}' is {region.byte_size} bytes from {region.offset} on, and {region.key} has "
            f"{size} bytes"
        )


def _read(fd: int, offset: int, size: int, where: str) -> bytes:
    parts = []
    while size:
        part = os.pread(fd, min(size, _CHUNK_BYTES), offset)
        if not part:
            raise FailedPreconditionError(f"{where}: its shared memory was truncated while it was read")
        parts.append(part)
        offset += len(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
