"""The system calls with which files of models are placed and removed, one method each.

Covers what `directory`, `trees`, `journal`, `moves` and `staging` do to a disk: all of it goes through an object of
this class, so that a test can count the calls, end the process at any of them, or take an old kernel's part. Two calls
are not in the standard library: openat2(2) and renameat2(2). Where they are missing they fail as an old kernel would
(ENOSYS), and their callers fall back. Covers no decisions.

Paths are relative to a directory's descriptor (`at`), and nothing but `open` of a whole path follows a link.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from typing import Any

from hostd_workers.wire.errors import FailedPreconditionError, HostError, ResourceExhaustedError

OPENAT2_NUMBER = 437
"""The same on all architectures of Linux but alpha (arch/*/entry/syscalls of 5.6, where it came)."""

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
"""A descriptor to look through: needs no permission on the file itself, blocks on no fifo, wakes no device."""
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_FORBIDDEN = frozenset((errno.EACCES, errno.EPERM, errno.EROFS))
_EXHAUSTED = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE))


class _OpenHow(ctypes.Structure):
    """`struct open_how` of openat2(2)."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def error_of(error: OSError, doing: str) -> HostError:
    """Return the typed error for what the system said, with its words; `doing` begins the message."""
    kind: type[HostError] = HostError
    if error.errno in _FORBIDDEN:
        kind = FailedPreconditionError
    elif error.errno in _EXHAUSTED:
        kind = ResourceExhaustedError
    words = error.strerror or str(error)
    where = f" ({os.fsdecode(error.filename)!r})" if isinstance(error.filename, (str, bytes)) else ""
    name = errno.errorcode.get(error.errno or 0, "no errno")
    return kind(f"{doing}: {words} [{name}]{where}", details={"errno": error.errno or 0})


class SystemCalls:
    """What the kernel does. Every method raises OSError; names in it are what was asked for."""

    def __init__(self) -> None:
        # CDLL lets go of the GIL during a call.
        self._libc: Any = ctypes.CDLL(None, use_errno=True)
        self._libc.syscall.restype = ctypes.c_long

    # Opening and looking

    def open(self, path: str, flags: int, mode: int = 0, *, at: int | None = None) -> int:
        """Open, from a directory if one is given."""
        return os.open(path, flags | os.O_CLOEXEC, mode, dir_fd=at)

    def openat2(self, at: int, path: str, flags: int, mode: int, resolve: int) -> int:
        """Open a path of which the kernel itself checks each step."""
        if "\0" in path:
            raise ValueError("embedded null byte")  # as the standard library says; ctypes would cut the path there
        how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
        return self._checked(
            path,
            lambda: self._libc.syscall(
                ctypes.c_long(OPENAT2_NUMBER),
                ctypes.c_int(at),
                ctypes.c_char_p(os.fsencode(path)),
                ctypes.byref(how),
                ctypes.c_size_t(ctypes.sizeof(how)),
            ),
        )

    def fstat(self, fd: int) -> os.stat_result:
        """Look at what is open."""
        return os.fstat(fd)

    def lstat(self, name: str, at: int) -> os.stat_result | None:
        """As fstatat(2) without following a link; None if there is no such name."""
        try:
            return os.stat(name, dir_fd=at, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def names(self, fd: int) -> list[str]:
        """Return the names in an open directory, sorted."""
        return sorted(os.listdir(fd))

    def may(self, fd: int, mode: int) -> bool:
        """Say whether this process may read, write or search (access(2)) what an open descriptor refers to."""
        return os.access(f"/proc/self/fd/{fd}", mode, effective_ids=os.access in os.supports_effective_ids)

    def free_bytes(self, fd: int) -> int | None:
        """Return what fstatvfs(3) says is free to this user; None where a file system does not count blocks."""
        found = os.fstatvfs(fd)
        return found.f_bavail * found.f_frsize if found.f_blocks else None

    # Names

    def mkdir(self, name: str, at: int, mode: int = 0o750) -> None:
        """As mkdirat(2); the default is for what is not of others' business."""
        os.mkdir(name, mode, dir_fd=at)

    def rmdir(self, name: str, at: int) -> None:
        """As unlinkat(2) of an empty directory."""
        os.rmdir(name, dir_fd=at)

    def unlink(self, name: str, at: int) -> None:
        """As unlinkat(2) of anything but a directory."""
        os.unlink(name, dir_fd=at)

    def link(self, name: str, at: int, new_name: str, new_at: int) -> None:
        """As linkat(2): like a rename that never replaces, but for files only and with the old name left."""
        os.link(name, new_name, src_dir_fd=at, dst_dir_fd=new_at, follow_symlinks=False)

    def rename(self, name: str, at: int, new_name: str, new_at: int) -> None:
        """As renameat(2), which replaces a file or an empty directory silently."""
        os.rename(name, new_name, src_dir_fd=at, dst_dir_fd=new_at)

    def renameat2(self, name: str, at: int, new_name: str, new_at: int, flags: int) -> None:
        """Rename with flags: EINVAL where a file system lacks the flag, ENOSYS where the C library lacks the call."""
        call = getattr(self._libc, "renameat2", None)
        if call is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), name, None, new_name)
        old, new = (ctypes.c_char_p(os.fsencode(text)) for text in (name, new_name))
        self._checked(new_name, lambda: call(ctypes.c_int(at), old, ctypes.c_int(new_at), new, ctypes.c_uint(flags)))

    # Contents

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        """Write at an offset; may write less than it was given."""
        return os.pwrite(fd, data, offset)

    def pread(self, fd: int, count: int, offset: int) -> bytes:
        """Read at an offset."""
        return os.pread(fd, count, offset)

    def reserve(self, fd: int, size_bytes: int) -> None:
        """As fallocate(2), so that a full disk shows before the bytes travel; nothing where a file system cannot.

        Not posix_fallocate(3), which then writes to every block.
        """
        call = getattr(self._libc, "fallocate64", None) or getattr(self._libc, "fallocate", None)
        if call is None or not size_bytes:
            return
        try:
            self._checked(
                None, lambda: call(ctypes.c_int(fd), ctypes.c_int(0), ctypes.c_int64(0), ctypes.c_int64(size_bytes))
            )
        except OSError as error:
            if error.errno not in {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}:
                raise

    def fsync(self, fd: int) -> None:
        """Make the content of a file last."""
        os.fsync(fd)

    def fsync_directory(self, fd: int) -> None:
        """Make the names in a directory last; nothing where a file system has no such thing (EINVAL)."""
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise

    def chmod(self, fd: int, mode: int) -> None:
        """Set the mode of what an O_PATH descriptor refers to, by its name in /proc: fchmod(2) refuses those."""
        os.chmod(f"/proc/self/fd/{fd}", mode)  # noqa: PTH101 - no path of ours

    def try_lock(self, fd: int) -> bool:
        """As flock(2), exclusive; False if another descriptor has the lock. Closing the descriptor ends it."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    @staticmethod
    def _checked(name: str | None, call: Any) -> int:
        while True:
            result = int(call())
            if result >= 0:
                return result
            code = ctypes.get_errno()
            if code != errno.EINTR:  # the standard library's calls repeat by themselves (PEP 475)
                raise OSError(code, os.strerror(code), name)
