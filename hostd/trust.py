"""Whether a place is this user's: who may change what is there, and who listens at a socket.

Rules
1. A user trusts himself, and root, who can do everything anyway.
2. Who owns a directory, or may write it, decides what its names stand for. In a sticky directory (inode(7)) others may
   add names and change only their own: that is enough above a directory, not for one in which names are known before.
3. Links on the way count as the kernel has it with `fs.protected_symlinks` (proc_sys_fs(5)), which is off by default:
   in a sticky directory that anybody may write, only this user's own and those of the directory's owner are followed.
4. The directory says who could listen there, SO_PEERCRED (unix(7)) who does. Both count: with the directory alone
   another could come in between, with the process alone another could choose which of a user's own hosts is meant.

With the standard library alone: every client imports this.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from hostd_workers.wire.errors import FailedPreconditionError
from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_LINKS = 40
"""As many as the kernel follows (path_resolution(7))."""

IPC = "ipc://"


class Peer(NamedTuple):
    """The process at the other end of a UNIX socket, as it was when it began to listen or to connect."""

    pid: int
    uid: int
    gid: int


def peer_of(connection: socket.socket) -> Peer:
    """Return the process at the other end of a UNIX socket."""
    ucred = struct.Struct("iII")
    return Peer(*ucred.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, ucred.size)))


def why_not_private(directory: Path) -> str | None:
    """Return why others could tamper with `directory`, with what to do about it; None if it is this user's alone."""
    found = directory.lstat()
    if stat.S_ISLNK(found.st_mode) or not stat.S_ISDIR(found.st_mode):
        return f"{directory} is not a directory; remove it or choose another runtime directory"
    if found.st_uid != os.geteuid():
        return (
            f"{directory} belongs to user {found.st_uid}, not to you ({os.geteuid()}); choose another runtime directory"
        )
    if found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        return f"{directory} is open to other users (mode {mode:04o}); close it with: chmod 0700 {directory}"
    # In a shared /tmp another user can make the directory above before us, and then rename ours and put up his own.
    problem = _why_above(directory)
    return f"{problem}; choose another runtime directory" if problem else None


def why_not_ours(directory: Path, *, is_sticky_enough: bool = False) -> str | None:
    """Return why names in `directory` may stand for what others put there, with what to do; None if they do not.

    Others may look into it, and it may be root's, or a link of a trusted user's. Sticky is enough for a name that is
    checked by itself.
    """
    link, found = directory.lstat(), directory.stat()
    if not is_trusted(link.st_uid):
        return f"{directory} belongs to user {link.st_uid}, not to you ({os.geteuid()}); choose another"
    if not is_trusted(found.st_uid):
        return f"{directory} leads to a directory of user {found.st_uid}; choose another"
    is_sticky = is_sticky_enough and found.st_mode & stat.S_ISVTX
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not is_sticky:
        mode = stat.S_IMODE(found.st_mode)
        return f"{directory} may be written by others (mode {mode:04o}); close it with: chmod 0700 {directory}"
    problem = _why_above(directory)
    return f"{problem}; choose another" if problem else None


def check_place(endpoint: str) -> None:
    """Raise FailedPreconditionError if others decide what listens at an endpoint on this machine.

    Says nothing of what is not there, nor of other kinds of endpoints.
    """
    if not endpoint.startswith(IPC):
        return
    try:
        problem = why_not_ours(Path(endpoint.removeprefix(IPC)).absolute().parent, is_sticky_enough=True)
    except OSError:
        return  # nothing can be reached there, and a client that tries is told why
    if problem is not None:
        raise FailedPreconditionError(
            f"the host at {endpoint} is not trusted, and nothing was sent to it: {problem}. Another user could put up "
            "a host there and get what you send. Have the host and its clients use a directory of yours, by "
            "XDG_RUNTIME_DIR (HOSTD_RUNTIME_DIR for one host)",
            details={"endpoint": endpoint},
        )


def check_peer(fd: int, endpoint: str) -> bool:
    """Say whether a descriptor is still the connection to an ipc endpoint.

    Raises FailedPreconditionError if a user listens there that is not trusted.
    """
    with contextlib.ExitStack() as stack:
        try:
            # A duplicate, because the number is another thread's to close, and may be another file's when we look.
            copy = os.dup(fd)
            stack.callback(os.close, copy)
            connection = socket.socket(fileno=copy)
            stack.callback(connection.detach)
            if connection.family != socket.AF_UNIX:
                return False
            peer = peer_of(connection)
        except OSError:
            return False
    if not is_trusted(peer.uid):
        raise FailedPreconditionError(
            f"the host at {endpoint} is not trusted, and nothing was sent to it: process {peer.pid}, which listens "
            f"there, is of user {peer.uid}, and not yours ({os.geteuid()}). A host serves the user that has started it",
            details={"endpoint": endpoint, "uid": peer.uid, "pid": peer.pid},
        )
    return True


def is_trusted(uid: int) -> bool:
    """Say whether a user is this one, or root."""
    return uid in (0, os.geteuid())


def _why_above(directory: Path) -> str | None:
    """Return why others could exchange a directory for another of the same path; None if they could not."""
    above = directory.parent.stat()
    is_anybodys = above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX
    if not is_trusted(above.st_uid) or is_anybodys:
        return f"{directory.parent} is under the control of other users"
    for link, found, above in _links(directory):
        is_shared = above.st_mode & stat.S_ISVTX and above.st_mode & stat.S_IWOTH
        if is_shared and found.st_uid not in (os.geteuid(), above.st_uid):
            return f"{directory} is found through {link}, a link of user {found.st_uid}"
    return None


def _links(path: Path) -> Iterator[tuple[Path, os.stat_result, os.stat_result]]:
    """Yield each link on the way to an absolute path, with what is known of it and of the directory that it is in."""
    place, pending, left = Path("/"), [*reversed(path.parts)], _MAX_LINKS
    while pending and left:
        step = place / pending.pop()
        found = step.lstat()
        if stat.S_ISLNK(found.st_mode):
            yield step, found, place.stat()
            left -= 1
            pending += reversed(step.readlink().parts)
        else:
            # Not by the text: ".." after a link leads to where that leads.
            place = step.resolve() if step.name == ".." else step
