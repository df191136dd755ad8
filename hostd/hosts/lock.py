"""The lock on a runtime directory: one host at a time, from before it starts until nothing of it is left.

A flock on a file in it, which ends with the last process that has the descriptor, however that ends. So a stale lock
does not exist, and its holder may remove what lies about. The supervisor takes it for itself; a process that starts
a host that several processes share takes it and hands it on (`hostd.sharing`).

The lock belongs to a file, and people remove files: a host that has lost its own still listens, so its sockets count as
a lock too. A host's state directory has a lock of the same kind, because two hosts may be given one.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from hostd import paths
from hostd.trust import peer_of
from hostd_workers.wire.errors import FailedPreconditionError

if TYPE_CHECKING:
    from pathlib import Path

    from hostd.trust import Peer

LOCK_FILE = "hostd.lock"

_DYING_S = 0.5
"""How long a process may take to end that has been killed: the lock and the sockets go one after the other."""

_TRIES = 100
"""How often to look again because the directory went away in between: hosts that end do that, one at a time."""


def take(directory: Path) -> int | None:
    """Return a descriptor that has the lock, with this process noted as the holder; None if another host has it.

    Makes the directory. Raises `FailedPreconditionError` if it is not private.
    """
    for _ in range(_TRIES):
        with suppress(FileNotFoundError):
            paths.make_private(directory)
            with ExitStack() as stack:
                fd = _open(directory)
                stack.callback(os.close, fd)
                if not _lock(fd):
                    return None
                # A host that ends removes the directory while it has the lock: this may be that of a file that is gone.
                if is_held(directory, fd):
                    if _has_living_socket(directory):
                        return None
                    note_holder(fd)
                    stack.pop_all()
                    return fd
    raise FailedPreconditionError(f"{directory} goes away again and again: choose another runtime directory")


def take_state(directory: Path) -> int | None:
    """Return a descriptor that has the lock of a state directory, which is there; None if another host has it."""
    with ExitStack() as stack:
        fd = _open(directory)
        stack.callback(os.close, fd)
        if not _lock(fd):
            return None
        note_holder(fd)
        stack.pop_all()
    return fd


def is_held(directory: Path, fd: int) -> bool:
    """Say whether the lock file of a directory is still the one that is open here."""
    try:
        return os.path.samestat(os.fstat(fd), (directory / LOCK_FILE).lstat())
    except OSError:
        return False


def note_holder(fd: int) -> None:
    """Write this process down as the one that has the lock; that is for people, and may fail on a full disk."""
    with suppress(OSError):
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)


def holder_of(directory: Path) -> int | None:
    """Return the process id of the holder, or last holder, of the lock as it wrote it down; None if there is none."""
    with suppress(OSError, ValueError):
        # Neither through a link nor waiting for the writer of a pipe: in a directory of others it may be anything.
        fd = os.open(directory / LOCK_FILE, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return int(os.read(fd, 32).decode("ascii"))
        finally:
            os.close(fd)
    return next((peer.pid for peer in _listeners(directory)), None)


def remove_if_free(directory: Path) -> None:
    """Remove a runtime directory and what a host left in it, unless there is a host again."""
    fd = take(directory)
    if fd is None:
        return
    try:
        # The lock last: from then on the place may be another host's.
        for entry in sorted(directory.iterdir(), key=lambda path: path.name == LOCK_FILE):
            if entry.is_dir() and not entry.is_symlink():  # the state of a user without a home
                import shutil  # noqa: PLC0415 - there is hardly ever anything

                shutil.rmtree(entry)
            else:
                entry.unlink()
        directory.rmdir()
    except OSError:  # what is left is not ours, or another host is there already
        return
    finally:
        os.close(fd)


def _open(directory: Path) -> int:
    return os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _has_living_socket(directory: Path) -> bool:
    """Say whether a host listens in a directory; one that is just being killed may have lost its lock first."""
    for peer in _listeners(directory):
        try:
            process_fd = os.pidfd_open(peer.pid)
        except ProcessLookupError:
            continue
        except OSError:  # of another namespace: it cannot be watched
            return True
        try:
            poller = select.poll()
            poller.register(process_fd, select.POLLIN)
            if not poller.poll(_DYING_S * 1000):
                return True
        finally:
            os.close(process_fd)
    return False


def _listeners(directory: Path) -> list[Peer]:
    found = []
    for name in (paths.CLIENT_SOCKET, paths.WORKER_SOCKET):
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            probe.connect(str(directory / name))
            found.append(peer_of(probe))
    return found


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
