"""The models directory: opening it, and finding a model below it without ever leaving it.

Covers what is at an id's place. The directory may be a link that the administrator made; below it no link is followed.
Each operation opens the directory by its path, so one that was away, or was replaced, is found again: that costs 1 us
of 11 for a look at a model.
Covers neither scans of the whole directory (`scanner`) nor changes to it (`staging`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from hostd.core.names import model_id_of
from hostd.shell.linux.syscalls import (
    DIRECTORY,
    LOOK,
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    SystemCalls,
    error_of,
)
from hostd_workers.wire.errors import FailedPreconditionError, HostError, InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_OPENAT2 = frozenset((errno.ENOSYS, errno.EPERM))
"""EPERM too: container runtimes' older filters refuse unknown calls with it; the fallback finds out if it was meant."""

_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a fifo",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class ModelsDirectory:
    """A directory in which each entry, or entry of a folder, is a model."""

    def __init__(self, path: str | os.PathLike[str], *, calls: SystemCalls | None = None) -> None:
        self.path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would fix where a link led at the start
        self.calls = calls or SystemCalls()

    def __repr__(self) -> str:
        return f"<ModelsDirectory {self.path}>"

    @contextlib.contextmanager
    def opened(self) -> Iterator[int]:
        """Open the directory for a while. Raises `FailedPreconditionError` if it is not there or not for us."""
        fd = self.open()
        try:
            yield fd
        finally:
            os.close(fd)

    def open(self) -> int:
        """Return a new descriptor of the directory, which is then the caller's to close."""
        try:
            return self.calls.open(str(self.path), os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError as error:
            raise FailedPreconditionError(f"the models directory {self.path} is not there; create it") from error
        except NotADirectoryError as error:
            raise FailedPreconditionError(f"the models directory {self.path} is not a directory") from error
        except OSError as error:
            raise error_of(error, f"cannot open the models directory {self.path}") from error

    def path_of(self, model_id: str) -> Path:
        """Return where a model is, if it is there. Raises `InvalidArgumentError` for what can be no id."""
        return self.path / model_id_of(model_id)

    def locate(self, model_id: str) -> Path | None:
        """Return the path of a model's directory or file; None if nothing is there. Blocks on the disk.

        Raises `InvalidArgumentError` for what can be no id and `FailedPreconditionError` if something else is there: a
        link on the way, a device, a fifo, a socket, or what this user may not read.
        """
        place = self.path_of(model_id)
        with self.opened() as fd:
            return place if look(self.calls, fd, model_id) else None


def look(calls: SystemCalls, directory_fd: int, model_id: str) -> os.stat_result | None:
    """Return what is at a model's place below an open models directory; None if nothing. Raises as `locate` does."""
    try:
        fd = open_beneath(calls, directory_fd, model_id, LOOK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise refusal_of_place(error, model_id) from error
    try:
        found = calls.fstat(fd)
        if not (stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)):
            kind = _KINDS.get(stat.S_IFMT(found.st_mode), "neither a directory nor a file")
            raise FailedPreconditionError(
                f"{model_id!r} in the models directory is {kind}; a model there must be a directory or a regular file"
            )
        if not calls.may(fd, os.R_OK | (os.X_OK if stat.S_ISDIR(found.st_mode) else 0)):
            raise FailedPreconditionError(f"the host may not read {model_id!r} in the models directory: check its mode")
    except OSError as error:
        raise refusal_of_place(error, model_id) from error
    else:
        return found
    finally:
        os.close(fd)


def refusal_of_place(error: OSError, model_id: str) -> HostError:
    """Return the typed error for a place in the models directory that could not be opened."""
    if error.errno == errno.ELOOP:
        return FailedPreconditionError(
            f"a folder on the way to {model_id!r} in the models directory is a symbolic link, which the host does not "
            "follow; put the directory itself there"
        )
    if error.errno in {errno.EXDEV, errno.ENAMETOOLONG}:
        return InvalidArgumentError(f"{model_id!r} cannot be a place in the models directory: {error.strerror}")
    return error_of(error, f"cannot look at {model_id!r} in the models directory")


def open_beneath(
    calls: SystemCalls, at: int, path: str, flags: int, mode: int = 0, *, is_on_one_mount: bool = False
) -> int:
    """Open `path` below an open directory; the kernel refuses to leave it, and to follow any link.

    Raises OSError: EXDEV for a path that leads out, or with `is_on_one_mount` to what is mounted there; ELOOP for a
    link on the way (with O_PATH and O_NOFOLLOW a link at the end is opened itself). An empty path is the directory.
    """
    if not path:
        return calls.open(".", flags, mode, at=at)
    resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
    try:
        return calls.openat2(at, path, flags, mode, resolve | (RESOLVE_NO_XDEV if is_on_one_mount else 0))
    except OSError as error:
        if error.errno not in _NO_OPENAT2:
            raise
    with contextlib.ExitStack() as on_failure:
        fd = _open_stepwise(calls, at, path, flags, mode)
        on_failure.callback(os.close, fd)
        # Another mount of the same file system looks like a directory here: only openat2(2) knows.
        if is_on_one_mount and calls.fstat(fd).st_dev != calls.fstat(at).st_dev:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
        on_failure.pop_all()
    return fd


def _open_stepwise(calls: SystemCalls, at: int, path: str, flags: int, mode: int) -> int:
    """Do as openat2(2) does, one segment at a time, none of which may be a link."""
    *folders, last = path.split("/")
    if path.startswith("/") or ".." in (*folders, last):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
    current = at
    try:
        for folder in folders:
            above, current = current, _open_step(calls, current, folder, LOOK | os.O_DIRECTORY)
            if above != at:
                os.close(above)
        return _open_step(calls, current, last, flags | os.O_NOFOLLOW, mode)
    finally:
        if current != at:
            os.close(current)


def _open_step(calls: SystemCalls, at: int, name: str, flags: int, mode: int = 0) -> int:
    try:
        return calls.open(name, flags, mode, at=at)
    except NotADirectoryError as error:
        # With O_DIRECTORY a link reads as "not a directory"; openat2(2) says which it was.
        found = calls.lstat(name, at)
        if found is not None and stat.S_ISLNK(found.st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name) from error
        raise


def open_directory(calls: SystemCalls, at: int, path: str, *, is_on_one_mount: bool = False) -> int:
    """Open a directory below another for reading and for fsync, following no link. Raises OSError as `open_beneath`."""
    # Without O_NOFOLLOW, which would make "not a directory" of a link where openat2(2) says that it is one.
    flags = (DIRECTORY & ~os.O_NOFOLLOW) if path else DIRECTORY
    return open_beneath(calls, at, path, flags, is_on_one_mount=is_on_one_mount)


def refusal_of_mount(path: str) -> HostError:
    """Return the typed error for a place that cannot be moved, and must not be emptied: it is another file system."""
    return FailedPreconditionError(
        f"something is mounted at {path!r} in the models directory, so nothing there can be deployed or removed as a "
        "whole; unmount it first"
    )
