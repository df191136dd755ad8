"""The runtime directory of a host: private, and held by one supervisor at a time.

Stale sockets may be removed by the holder of the lock (`hostd.hosts.lock`). ZeroMQ itself would bind over a live
socket without a word.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

from hostd import paths
from hostd.hosts import lock as runtime_lock
from hostd_workers.wire.errors import FailedPreconditionError

if TYPE_CHECKING:
    from pathlib import Path


class AlreadyRunningError(FailedPreconditionError):
    """Another supervisor holds the runtime directory; `details["pid"]` is its process id."""


class RuntimeDirectory:
    """A held runtime directory; leaving the context removes the sockets and lets it go.

    `lock_fd` is a descriptor that has its lock already, which the process that started this one has taken.
    """

    def __init__(self, path: Path, lock_fd: int | None = None) -> None:
        self.path = path
        self._given_fd = lock_fd
        self._lock_fd = -1

    def __repr__(self) -> str:
        return f"<RuntimeDirectory {self.path} {'held' if self._lock_fd >= 0 else 'free'}>"

    def __enter__(self) -> RuntimeDirectory:
        fd = self._given_fd
        if fd is None and (fd := runtime_lock.take(self.path)) is None:
            raise _already_running(self.path)
        try:
            runtime_lock.note_holder(fd)
            # The reaper that gave us the lock listens at the door already; else a killed host has left that.
            self._remove_sockets(*(() if self._given_fd is not None else (paths.DOOR_SOCKET,)))
        except BaseException:  # raised again
            os.close(fd)
            raise
        self._lock_fd = fd
        return self

    def __exit__(self, *_: object) -> None:
        # The lock file stays: removing it would let two others lock two files of the same name.
        try:
            if runtime_lock.is_held(self.path, self._lock_fd):  # else the sockets may be another host's
                self._remove_sockets()
        finally:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def trouble(self) -> str | None:
        """Return what somebody has taken away from under this host, and what to do; None if all is there. Blocks."""
        what = None
        if not self.path.is_dir():
            what = f"the runtime directory {self.path} was removed: no new client finds this host, and no worker"
        elif not runtime_lock.is_held(self.path, self._lock_fd):
            what = f"the lock file {self.path / runtime_lock.LOCK_FILE} was removed or replaced, which keeps others out"
        else:
            for name, user in ((paths.CLIENT_SOCKET, "client"), (paths.WORKER_SOCKET, "worker")):
                if not (self.path / name).is_socket():
                    what = f"the socket {self.path / name} was removed: no new {user} finds this host"
                    break
        return what and f"{what}; what is connected works on. Start the host again (kill {os.getpid()} ends this one)"

    def _remove_sockets(self, *others: str) -> None:
        lanes = [path.name for path in self.path.glob(f"{paths.LANE_SOCKETS}*")]
        for name in (paths.CLIENT_SOCKET, paths.WORKER_SOCKET, *lanes, *others):
            socket = self.path / name
            with contextlib.suppress(FileNotFoundError):
                # Only a socket is ours to remove: ZeroMQ would delete a regular file that it binds over.
                if not stat.S_ISSOCK(socket.lstat().st_mode):
                    raise FailedPreconditionError(f"{socket} is in the way and is not a socket: move it elsewhere")
                socket.unlink()


class StateDirectory:
    """A state directory, which is there and locked by this host, unless another has it and that `may_be_shared`.

    A host that several processes share may be started again while one runs that has lost its runtime directory.
    They do each other no harm but to mix the logs of models with the same id.
    """

    def __init__(self, path: Path, *, may_be_shared: bool) -> None:
        self.path = path
        self._may_be_shared = may_be_shared
        self._lock_fd: int | None = None

    def __repr__(self) -> str:
        return f"<StateDirectory {self.path} {'free' if self._lock_fd is None else 'held'}>"

    def __enter__(self) -> StateDirectory:
        paths.make_state(self.path)
        with paths.told(self.path, "state"):
            trouble = self.trouble()
        if trouble and not self._may_be_shared:
            details = {"pid": runtime_lock.holder_of(self.path), "state_dir": str(self.path)}
            raise FailedPreconditionError(trouble, details=details)
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock_fd is not None:
            os.close(self._lock_fd)

    def trouble(self) -> str | None:
        """Return which host has the lock, and what to do; None if this one has it, which takes it if it is free."""
        if self._lock_fd is None:
            self._lock_fd = runtime_lock.take_state(self.path)
        if self._lock_fd is not None:
            return None
        holder = runtime_lock.holder_of(self.path)
        return (
            f"another host (process {holder or 'unknown'}) keeps its state in {self.path}: stop it (kill "
            f"{holder or 'PID'}), or give this one a state directory of its own (--state-dir, HOSTD_STATE_DIR)"
        )


def _already_running(path: Path) -> AlreadyRunningError:
    holder = runtime_lock.holder_of(path)
    return AlreadyRunningError(
        f"a host (process {holder or 'unknown'}) is already running in {path}: "
        f"use it, stop it with `hostd shutdown`, or start this one under another --name",
        details={"pid": holder, "runtime_dir": str(path)},
    )
