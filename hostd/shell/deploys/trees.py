"""Whole trees of files: what one is, whether it can be removed, and removing it.

No link is followed and nothing that is mounted inside is entered, and a tree may be of any depth and width: two
descriptors are open at a time, whatever it holds.
Covers one tree at a time and no journal; where trees come from and go to is in `moves`.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from hostd.shell.linux.syscalls import DIRECTORY, LOOK
from hostd.shell.repository.directory import open_beneath, open_directory, refusal_of_mount
from hostd_workers.wire.errors import FailedPreconditionError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hostd.shell.linux.syscalls import SystemCalls

_OWNERS_BITS = stat.S_IRWXU


def remove_tree(calls: SystemCalls, at: int, name: str) -> None:
    """Remove a file, a link or a whole directory; nothing if it is gone. May be repeated after a failure.

    Directories that their owner may not write are opened up first, if they are this user's. Raises OSError.
    """
    found = calls.lstat(name, at)
    if found is None:
        return
    if not stat.S_ISDIR(found.st_mode):
        calls.unlink(name, at)
        return
    _empty(calls, at, name)
    calls.rmdir(name, at)


def _empty(calls: SystemCalls, at: int, name: str) -> None:
    # Back up through "..", and not through a descriptor per level: a tree may be deeper than a process may open files.
    current = _open_to_change(calls, at, name)
    above: list[tuple[os.stat_result, list[str]]] = []
    try:
        folders = _unlink_all(calls, current)
        while folders or above:
            if folders:
                above.append((calls.fstat(current), folders))
                inner = _open_to_change(calls, current, folders[-1])
                os.close(current)
                current = inner
                folders = _unlink_all(calls, current)
            else:
                left, folders = above.pop()
                outer = calls.open("..", DIRECTORY, at=current)
                os.close(current)
                current = outer
                if not os.path.samestat(calls.fstat(current), left):
                    raise OSError(errno.ESTALE, "a directory was moved while it was being removed", folders[-1])
                calls.rmdir(folders.pop(), current)
    finally:
        os.close(current)


def _unlink_all(calls: SystemCalls, fd: int) -> list[str]:
    """Remove all but the directories, and return their names."""
    folders = []
    for name in calls.names(fd):
        try:
            calls.unlink(name, fd)
        except FileNotFoundError:  # noqa: PERF203 - each for itself
            pass
        except OSError as error:
            found = calls.lstat(name, fd)
            if error.errno not in {errno.EISDIR, errno.EPERM} or found is None or not stat.S_ISDIR(found.st_mode):
                raise
            folders.append(name)
    return folders


def _open_to_change(calls: SystemCalls, at: int, name: str) -> int:
    # What is mounted inside of a model is not the model's: its rename took it along, but it must not be emptied.
    look = open_beneath(calls, at, name, LOOK | os.O_DIRECTORY, is_on_one_mount=True)
    try:
        open_up(calls, look)
        return calls.open(".", DIRECTORY, at=look)
    finally:
        os.close(look)


def open_up(calls: SystemCalls, fd: int) -> None:
    """Let the owner of an open directory read and change it, if that is this user and the mode says otherwise."""
    found = calls.fstat(fd)
    if found.st_uid == os.geteuid() and found.st_mode & _OWNERS_BITS != _OWNERS_BITS:
        calls.chmod(fd, stat.S_IMODE(found.st_mode) | _OWNERS_BITS)


def is_folder_of_models(calls: SystemCalls, at: int, path: str) -> bool:
    """Say whether a directory is only a way to others: no file lies directly in it, and some do below it.

    Hidden files do not count: a `.gitkeep` makes no model of a folder. Raises OSError, and `FailedPreconditionError` if
    something is mounted there.
    """
    for folder, _, entries in _folders(calls, at, path):
        has_files = any(not stat.S_ISDIR(entry.st_mode) for name, entry in entries if not name.startswith("."))
        if has_files:
            return folder != path
    return False


def check_removable(calls: SystemCalls, at: int, path: str) -> None:
    """Refuse a tree that could be removed in part only, or not moved: `FailedPreconditionError`. Raises OSError too."""
    me = os.geteuid()
    if me != 0:
        _check_not_stuck(calls, at, path, me)
    for folder, fd, entries in _folders(calls, at, path):
        if me == 0:
            continue  # only what is mounted somewhere stops root, and the walk has seen that
        is_mine = calls.fstat(fd).st_uid == me
        if entries and not is_mine and not calls.may(fd, os.W_OK | os.X_OK):
            raise FailedPreconditionError(
                f"{folder!r} in the models directory belongs to another user and its files cannot be removed; "
                "let its owner remove them"
            )
        is_sticky = bool(calls.fstat(fd).st_mode & stat.S_ISVTX)
        if is_sticky and not is_mine and any(entry.st_uid != me for _, entry in entries):
            raise FailedPreconditionError(f"{folder!r} in the models directory holds files of other users")


def _check_not_stuck(calls: SystemCalls, at: int, path: str, me: int) -> None:
    """Refuse what only others may rename, because its folder is sticky (inode(7))."""
    above, _, base = path.rpartition("/")
    above_fd = open_directory(calls, at, above)
    try:
        folder, found = calls.fstat(above_fd), calls.lstat(base, above_fd)
    finally:
        os.close(above_fd)
    if found is not None and folder.st_mode & stat.S_ISVTX and me not in {folder.st_uid, found.st_uid}:
        raise FailedPreconditionError(
            f"{path!r} in the models directory belongs to another user, and in a sticky folder only its owner may move "
            "it; let its owner remove it"
        )


def _folders(calls: SystemCalls, at: int, path: str) -> Iterator[tuple[str, int, list[tuple[str, os.stat_result]]]]:
    """Yield each directory of a tree, outer ones first: its path, its descriptor, and what is in it.

    What is no directory yields nothing; a directory that may not be read is taken for an empty one. Raises
    `FailedPreconditionError` at what is mounted there: neither may it be emptied, nor its place be moved.
    """
    pending = [path]
    while pending:
        folder = pending.pop()
        try:
            fd = open_beneath(calls, at, folder, DIRECTORY, is_on_one_mount=True)
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise refusal_of_mount(folder) from error
            if error.errno in {errno.ENOTDIR, errno.ENOENT, errno.EACCES, errno.ENAMETOOLONG}:
                continue
            raise
        try:
            entries = [(name, found) for name in calls.names(fd) if (found := calls.lstat(name, fd)) is not None]
            yield folder, fd, entries
            pending.extend(f"{folder}/{name}" for name, found in entries if stat.S_ISDIR(found.st_mode))
        finally:
            os.close(fd)
