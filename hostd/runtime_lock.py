"""The lock on a runtime directory: one host at a time, from before it starts until nothing of it is left.

A flock on a file in it, which ends with the last process that has the descriptor, however that ends. So a stale lock
does not exist, and whoever has the lock may remove what lies about. The supervisor takes it for itself; whoever starts
a host that several processes share takes it and hands it on (`hostd.sharing`).
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from hostd import paths
from hostd_workers.wire.errors import FailedPreconditionError

if TYPE_CHECKING:
    from pathlib import Path

LOCK_FILE = "hostd.lock"

_TRIES = 100
"""How often to look again because the directory went away in between: hosts that end do that, one at a time."""


def take(directory: Path) -> int | None:
    """Return a descriptor that has the lock, with this process noted as the holder; None if another host has it.

    Makes the directory. Raises `FailedPreconditionError` if it is not private.
    """
    for _ in range(_TRIES):
        with suppress(FileNotFoundError):
            paths.make_private(directory)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(directory / LOCK_FILE, flags, 0o600)
            try:
                if not _lock(fd):
                    os.close(fd)
                    return None
                # Who ends removes the directory while it has the lock: this may be the lock of a file that is gone.
                if os.path.samestat(os.fstat(fd), (directory / LOCK_FILE).stat()):
                    note_holder(fd)
                    return fd
                os.close(fd)
            except BaseException:
                os.close(fd)
                raise
    raise FailedPreconditionError(f"{directory} goes away again and again: choose another runtime directory")


def note_holder(fd: int) -> None:
    """Write this process down as the one that has the lock; that is for people, and may fail on a full disk."""
    with suppress(OSError):
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)


def holder_of(directory: Path) -> int | None:
    """Return the process id that whoever has, or last had, the lock wrote down; None if there is none."""
    with suppress(OSError, ValueError):
        return int((directory / LOCK_FILE).read_bytes()[:32].decode("ascii"))
    return None


def remove_if_free(directory: Path) -> None:
    """Remove a runtime directory and what a host left in it, unless there is a host again."""
    fd = take(directory)
    if fd is None:
        return
    try:
        # The lock last: from then on the place may be another host's.
        for entry in sorted(directory.iterdir(), key=lambda path: path.name == LOCK_FILE):
            if entry.is_dir() and not entry.is_symlink():  # the state of a user without a home
                shutil.rmtree(entry)
            else:
                entry.unlink()
        directory.rmdir()
    except OSError:  # what is left is not ours, or another host is there already
        return
    finally:
        os.close(fd)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
