"""A file of SQLite's that all hosts of a user share, and that none of them trusts.

Rules
1. With a rollback journal, not a write-ahead log: that maps memory shared by all that have the file open, and damage to
   it is a SIGBUS, which ends the host (sqlite.org/wal). A file that somebody has given such a log is not opened.
   Nothing of the file is mapped either.
2. The file and its directory are this user's, and nobody else may write them; the file's mode is 0600. What belongs to
   somebody else is neither used nor removed.
3. A host that throws a damaged file away is alone with it: SQLite finds a journal by its name, and one of the old file
   must never meet the new one (sqlite.org/howtocorrupt). So a host that uses the file holds a shared lock on its
   directory (flock(2)), and looks whether the file is still the one that it opened; a host that throws it away locks
   out all.

With four hosts that write without a pause a row takes 0.8 ms, and 31 ms at worst; other journal modes had pauses of
seconds. Each commit waits for the disk, but nobody waits for that: the thread that does has nothing else to do.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import stat
import time
from typing import TYPE_CHECKING

from hostd import paths, trust

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_BUSY_TIMEOUT_S = 5.0
"""Another host writes a row after each load, in milliseconds; on a busy machine several together were seen to keep one
out for two seconds. Only a host that is stopped, or a disk that hangs, holds a lock for longer."""

_RETRY_S = 0.005

_COMPANIONS = ("-wal", "-shm", "-journal")
_VERSIONS_AT, _WAL = 18, 2
"""Where a database's header says how it is to be read and written, and what it says with a write-ahead log."""


class UnusableFileError(Exception):
    """The file is damaged, of another version, or no file."""


class ForeignFileError(UnusableFileError):
    """The file, or its directory, is not this user's alone."""


def is_damage(error: Exception) -> bool:
    """Say whether an error is the file's, and a fresh one would help."""
    if isinstance(error, UnusableFileError):
        return not isinstance(error, ForeignFileError)
    # SQLITE_CORRUPT and SQLITE_NOTADB are the base class itself; what may pass (locked, full, read-only) is one below.
    return type(error) is sqlite3.DatabaseError


def identity_of(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another of the same name; None if there is none."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def prepare(path: Path) -> None:
    """Make the directory if there is none. Raises OSError, and `ForeignFileError` if others may write it."""
    paths.make_parents(path)
    found = path.parent.stat()
    if found.st_uid != os.geteuid():
        raise ForeignFileError(f"{path.parent} belongs to user {found.st_uid}, not to you ({os.geteuid()})")
    if problem := trust.why_not_ours(path.parent):
        raise ForeignFileError(problem)
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ForeignFileError(f"{path.parent} may not be written")


@contextlib.contextmanager
def in_use(path: Path, *, alone: bool = False) -> Iterator[None]:
    """Keep a file from being thrown away, or be alone to do so. Raises OSError if others do not let go in time."""
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        give_up_s = time.monotonic() + _BUSY_TIMEOUT_S
        while True:
            try:
                fcntl.flock(fd, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up_s:
                    raise
                time.sleep(_RETRY_S)
            except OSError:  # a network's file system without such locks: SQLite has its own
                break
        yield
    finally:
        os.close(fd)


def connect(path: Path, schema: Sequence[str], version: int) -> sqlite3.Connection:
    """Return a connection to a checked file with these tables; a missing or empty file gets them."""
    _check_access(path)
    connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
    try:
        connection.execute("PRAGMA mmap_size = 0")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA journal_mode = DELETE")
        _check_content(connection, schema, version)
    except BaseException:  # raised again
        connection.close()
        raise
    return connection


def throw_away(path: Path) -> None:
    """Remove the file and what belongs to it, an empty directory too. Raises OSError if that cannot be."""
    for companion in _COMPANIONS:
        path.with_name(path.name + companion).unlink(missing_ok=True)
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def _check_content(connection: sqlite3.Connection, schema: Sequence[str], version: int) -> None:
    if _tables(connection) == (0, []):
        connection.execute("BEGIN IMMEDIATE")
        with connection:
            if _tables(connection) == (0, []):  # another host may have made them just now
                for table in schema:
                    connection.execute(table)
                connection.execute(f"PRAGMA user_version = {version}")
    found, tables = _tables(connection)
    if (found, tables) != (version, [(table,) for table in schema]):
        raise UnusableFileError(f"its tables are of version {found}, this host's of version {version}")
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise UnusableFileError(str(verdict))


def _tables(connection: sqlite3.Connection) -> tuple[int, list[tuple[str]]]:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return version, connection.execute("SELECT sql FROM sqlite_master WHERE type = 'table'").fetchall()


def _check_access(path: Path) -> None:
    """Make the file for this user alone if there is none, and see that it is his, and as it should be."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise UnusableFileError("it is not a regular file")
    if found.st_uid != os.geteuid():
        raise ForeignFileError(f"it belongs to user {found.st_uid}, not to you ({os.geteuid()})")
    if not os.access(path, os.R_OK | os.W_OK):
        raise UnusableFileError("it may not be read and written")
    if stat.S_IMODE(found.st_mode) & 0o077:
        path.chmod(0o600)
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123 - no opener
        if _WAL in file.read(_VERSIONS_AT + 2)[_VERSIONS_AT:]:
            raise UnusableFileError("it has a write-ahead log")
