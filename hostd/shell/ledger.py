"""Measured sizes that outlive the host: what a model took when the same content was loaded the last time.

Rules
1. A size is found only under the whole key: the same content, loader, initializer, options and library versions.
2. Nothing here fails a load. A file that is damaged, or of another version of the host, is thrown away with a warning;
   where none can be kept, sizes are remembered until the host ends.
3. A kill at any moment loses at most what was being written: SQLite's write-ahead log, without waiting for the disk.
   After a power cut the last sizes may be missing, never wrong.

A `Ledger` is used from one thread alone, the one that enters it, because a connection of SQLite's belongs to its thread
and every method may wait for the disk. Two hosts may share a file.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from hostd.core.events import Memory
from hostd.shell.content import digest_of, environment_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

T = TypeVar("T")

_log = logging.getLogger(__name__)

MAX_ROWS: Final = 10_000
"""Under 1 MB, opened and checked in 2 ms. A host with 100 models has then seen 100 versions of each."""

VERSION: Final = 1
"""Of the table below. There is no migration: a forgotten size costs an estimate in place of a measurement, once."""

_BUSY_TIMEOUT_S = 2.0
"""Another host writes one row at a time; only a disk that hangs holds the lock for longer."""

_KEY_BYTES = 16

_MEMORY = ":memory:"
_COMPANIONS = ("-wal", "-shm", "-journal")

_SCHEMA = """CREATE TABLE sizes (
    number INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    rss_bytes INTEGER NOT NULL,
    uss_bytes INTEGER,
    pss_bytes INTEGER,
    peak_bytes INTEGER,
    load_s REAL NOT NULL,
    measured_s REAL NOT NULL
)"""

# A replaced row gets a new number, so the order of numbers is that of writing, whatever the clock does.
_WRITE = """INSERT OR REPLACE INTO sizes (key, rss_bytes, uss_bytes, pss_bytes, peak_bytes, load_s, measured_s)
            VALUES (?, ?, ?, ?, ?, ?, ?)"""
_FORGET = "DELETE FROM sizes WHERE number IN (SELECT number FROM sizes ORDER BY number DESC LIMIT -1 OFFSET ?)"
_READ = "SELECT rss_bytes, uss_bytes, pss_bytes, peak_bytes, load_s, measured_s FROM sizes WHERE key = ?"


class SizeKey(NamedTuple):
    """All that a model's size depends on: digests of content, options and environment, and what loads it.

    `options` is of the options and of the initializer's configuration.
    """

    content: str
    loader: str
    initializer: str
    options: str
    environment: str


class Figures(NamedTuple):
    """What was measured after a load, in bytes and seconds; None is what the system did not tell.

    `measured_s` is when, in seconds since the epoch; `remember` fills it in.
    """

    rss_bytes: int
    uss_bytes: int | None
    pss_bytes: int | None
    peak_bytes: int | None
    load_s: float
    measured_s: float = 0.0

    @property
    def memory(self) -> Memory:
        """The sample that these figures are of."""
        return Memory(1, self.rss_bytes, self.uss_bytes, self.pss_bytes, self.peak_bytes)


class _UnusableFileError(Exception):
    """The file is damaged, of another version, or no file."""


def key_of(
    path: str | os.PathLike[str],
    loader: str,
    initializer: tuple[str, Mapping[str, Any]] | None,
    options: Mapping[str, Any],
    python: str | None,
) -> SizeKey:
    """Return the key of a model's size.

    `initializer` is a reference with its configuration, None for the default one; `python` None is the host's
    interpreter. Blocks on the disk: call it in a thread. Raises what `digest_of` and `environment_of` raise.
    """
    reference, config = initializer or ("", {})
    settings = _hash_of(_plain({"options": options, "initializer": config})).hex()
    return SizeKey(digest_of(path), loader, reference, settings, environment_of(python))


class Ledger:
    """The remembered sizes in one file; a context manager, for one thread."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Take where the file is, or will be. Nothing is opened yet."""
        self._path = Path(path)
        self._connection: sqlite3.Connection | None = None
        self.problem: str | None = None
        """Why sizes are not kept beyond the host's end; None if they are."""

    def __enter__(self) -> Ledger:
        self._connection = self._opened()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __repr__(self) -> str:
        state = "closed" if self._connection is None else f"in memory: {self.problem}" if self.problem else "open"
        return f"<Ledger {self._path} {state}>"

    def remember(self, key: SizeKey, figures: Figures, wall_s: float) -> None:
        """Keep what was measured at `wall_s` (seconds since the epoch), in place of what was known of the same key.

        The oldest rows above `MAX_ROWS` go. What cannot be written is lost with a warning.
        """
        values = (_row_key(key), *figures._replace(measured_s=wall_s))

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("BEGIN IMMEDIATE")
            with connection:
                connection.execute(_WRITE, values)
                connection.execute(_FORGET, (MAX_ROWS,))

        self._do(write)

    def recall(self, key: SizeKey) -> Figures | None:
        """Return what was measured last under this key, or None if nothing is known of it."""

        def read(connection: sqlite3.Connection) -> Figures | None:
            row = connection.execute(_READ, (_row_key(key),)).fetchone()
            if row is not None and not all(value is None or isinstance(value, (int, float)) for value in row):
                raise _UnusableFileError(f"a row holds {row!r} in place of numbers")
            return None if row is None else Figures(*row)

        return self._do(read)

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        if self._connection is None:
            raise RuntimeError("the ledger is not open: use it in a with statement")
        try:
            return work(self._connection)
        except sqlite3.ProgrammingError:  # another thread's connection, a wrong statement: faults of ours
            raise
        except (sqlite3.Error, _UnusableFileError) as error:
            if not _is_damage(error):
                _log.warning("%s: a size is lost: %s", self._path, error)
                return None
            self._connection.close()
            self._connection = self._opened(error)
        try:
            return work(self._connection)
        except sqlite3.Error as error:
            _log.warning("%s: a size is lost, even in a fresh file: %s", self._path, error)
            return None

    def _opened(self, damage: Exception | None = None) -> sqlite3.Connection:
        """Return a connection to the file, to a fresh one if it is damaged, or to none where none can be."""
        self.problem = None
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                if damage is None:
                    return _connect(self._path)
            except (_UnusableFileError, sqlite3.Error) as error:
                if not _is_damage(error):
                    raise
                damage = error
            _throw_away(self._path, damage)
            return _connect(self._path)
        except (_UnusableFileError, sqlite3.Error, OSError) as error:
            self.problem = f"sizes cannot be kept in {self._path}: {error}"
            _log.warning("%s; they are forgotten when the host ends", self.problem)
        return _connect(Path(_MEMORY))


def _connect(path: Path) -> sqlite3.Connection:
    """Return a connection to a checked file with our table; a missing or empty file gets one."""
    if str(path) != _MEMORY:
        _check_access(path)
    connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
    try:
        # Without it WAL maps a file of its own, and a damage of that is a SIGBUS, which ends the host (sqlite.org/wal).
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        _check_content(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_content(connection: sqlite3.Connection) -> None:
    # Read under the write lock, because another host may be making the table just now.
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        tables = connection.execute("SELECT sql FROM sqlite_master WHERE type = 'table'").fetchall()
        if (version, tables) == (0, []):
            connection.execute(_SCHEMA)
            connection.execute(f"PRAGMA user_version = {VERSION}")
        elif (version, tables) != (VERSION, [(_SCHEMA,)]):
            raise _UnusableFileError(f"its tables are of version {version}, this host's of version {VERSION}")
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise _UnusableFileError(str(verdict))


def _check_access(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise _UnusableFileError("it is not a regular file")
    if not os.access(path, os.R_OK | os.W_OK):
        raise _UnusableFileError("it may not be read and written")


def _is_damage(error: Exception) -> bool:
    # SQLITE_CORRUPT and SQLITE_NOTADB are the base class itself; what may pass (locked, full, read-only) is one below.
    return isinstance(error, _UnusableFileError) or type(error) is sqlite3.DatabaseError


def _throw_away(path: Path, why: Exception) -> None:
    """Remove the file and what belongs to it, an empty directory too. Raises OSError if that cannot be."""
    _log.warning("%s is thrown away, sizes are estimated until they are measured again: %s", path, why)
    # Another host that still has the damaged file open must not share its log or index with the fresh one.
    for companion in _COMPANIONS:
        path.with_name(path.name + companion).unlink(missing_ok=True)
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def _row_key(key: SizeKey) -> bytes:
    return _hash_of(key)


def _hash_of(value: object) -> bytes:
    # repr for what JSON has no form for: bytes, instants, scalars of NumPy.
    text = json.dumps(value, sort_keys=True, default=repr)
    return hashlib.blake2b(text.encode(), digest_size=_KEY_BYTES).digest()


def _plain(value: object) -> object:
    """Return a value with keys that JSON can sort: options may have any scalars as keys further down."""
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else f"{type(key).__name__} {key!r}": _plain(v) for key, v in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
