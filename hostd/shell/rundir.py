"""The runtime directory of a host: private, and held by one supervisor at a time.

A flock on a file in it says who holds it; it ends with its process however that ends, so a stale lock does not exist,
and stale sockets may be removed by whoever has the lock. ZeroMQ itself would bind over a live socket without a word.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from typing import TYPE_CHECKING

from hostd import paths
from hostd_workers.wire.errors import FailedPreconditionError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

LOCK_FILE = "hostd.lock"


class AlreadyRunningError(FailedPreconditionError):
    """Another supervisor holds the runtime directory; `details["pid"]` is its process id."""


class RuntimeDirectory:
    """A held runtime directory; leaving the context removes the sockets and lets it go."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_fd = -1

    def __repr__(self) -> str:
        return f"<RuntimeDirectory {self.path} {'held' if self._lock_fd >= 0 else 'free'}>"

    def __enter__(self) -> RuntimeDirectory:
        paths.make_private(self.path)
        lock = self.path / LOCK_FILE
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            self._lock(fd)
            self._remove_sockets()
        except BaseException:
            os.close(fd)
            raise
        self._lock_fd = fd
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        # The lock file stays: removing it would let two others lock two files of the same name.
        try:
            self._remove_sockets()
        finally:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _lock(self, fd: int) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(fd, 32).decode("ascii", errors="replace").strip()
            raise AlreadyRunningError(
                f"a host (process {holder or 'unknown'}) is already running in {self.path}: "
                f"use it, stop it with `hostd shutdown`, or start this one under another --name",
                details={"pid": int(holder) if holder.isdigit() else None, "runtime_dir": str(self.path)},
            ) from None
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())

    def _remove_sockets(self) -> None:
        for name in (paths.CLIENT_SOCKET, paths.WORKER_SOCKET):
            socket = self.path / name
            with contextlib.suppress(FileNotFoundError):
                # Only a socket is ours to remove: ZeroMQ would delete a regular file that it binds over.
                if not stat.S_ISSOCK(socket.lstat().st_mode):
                    raise FailedPreconditionError(f"{socket} is in the way and is not a socket: move it elsewhere")
                socket.unlink()
