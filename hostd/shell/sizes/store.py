"""Measured sizes that outlive the host: what a model took when the same content was loaded the last time.

Rules
1. A size is found only under the whole key: the same content, loader, initializer, options and library versions.
2. Nothing here fails a load. A file that is damaged, or of another version of the host, is thrown away with a warning,
   one that somebody else owns is left alone; where none can be kept, sizes are remembered until the host ends.
3. All hosts of a user share one file. A kill at any moment loses at most what was being written.

A `SizeStore` is used from one thread alone, the one that enters it, because a connection of SQLite's belongs to its
thread and every method may wait for the disk, or for another host. How a file is shared is in `store_file`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from hostd.core.events import Memory
from hostd.shell.repository.fingerprint import digesting, environment_of
from hostd.shell.sizes.store_file import UnusableFileError, connect, identity_of, in_use, is_damage, prepare, throw_away
from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from hostd.shell.work.turns import Steps

T = TypeVar("T")

_log = logging.getLogger(__name__)

MAX_ROWS: Final = 10_000
"""Under 1 MB, opened and checked in 2 ms. A host with 100 models has then seen 100 versions of each."""

MAX_KINDS: Final = 256
"""Kinds of loads, each with 40 KB of modules' names at most that are read at the start of a host: 4 ms for 20."""

VERSION: Final = 3
"""Of the tables below. There is no migration: a forgotten size costs an estimate in place of a measurement, once."""

_KEY_BYTES = 16

_SCHEMA = (
    """CREATE TABLE imports (
    key BLOB PRIMARY KEY,
    host TEXT NOT NULL,
    python TEXT NOT NULL,
    kind TEXT NOT NULL,
    modules TEXT NOT NULL,
    loads INTEGER NOT NULL,
    load_s REAL NOT NULL,
    held_bytes INTEGER NOT NULL,
    written_s REAL NOT NULL
)""",
    """CREATE TABLE sizes (
    number INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    rss_bytes INTEGER NOT NULL,
    uss_bytes INTEGER,
    pss_bytes INTEGER,
    peak_bytes INTEGER,
    load_s REAL NOT NULL,
    measured_s REAL NOT NULL,
    is_minimum INTEGER NOT NULL
)""",
)

# A replaced row gets a new number, so the order of numbers is that of writing, whatever the clock does.
_WRITE = """INSERT OR REPLACE INTO sizes (key, rss_bytes, uss_bytes, pss_bytes, peak_bytes, load_s, measured_s,
            is_minimum) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
_FORGET = "DELETE FROM sizes WHERE number IN (SELECT number FROM sizes ORDER BY number DESC LIMIT -1 OFFSET ?)"
_FORGET_IMPORTS = "DELETE FROM imports WHERE key IN (SELECT key FROM imports ORDER BY written_s DESC LIMIT -1 OFFSET ?)"
_READ_IMPORTS = "SELECT host, python, kind, modules, loads, load_s, held_bytes FROM imports ORDER BY written_s"
_READ = "SELECT rss_bytes, uss_bytes, pss_bytes, peak_bytes, load_s, measured_s, is_minimum FROM sizes WHERE key = ?"


class SizeKey(NamedTuple):
    """All that a model's size depends on: digests of content, options and environment, and what loads it.

    `options` is of the options and of the initializer's configuration. `is_forked`: its worker is a template's
    child, and has its libraries from there.
    """

    content: str
    loader: str
    initializer: str
    options: str
    environment: str
    is_forked: bool = False


class Figures(NamedTuple):
    """What was measured after a load, in bytes and seconds; None is what the system did not tell.

    `measured_s` is when, in seconds since the epoch; `remember` fills it in. `is_minimum`: the load was ended when it
    held so much, and needs more.
    """

    rss_bytes: int
    uss_bytes: int | None
    pss_bytes: int | None
    peak_bytes: int | None
    load_s: float
    measured_s: float = 0.0
    is_minimum: bool = False

    @property
    def memory(self) -> Memory:
        """The sample that these figures are of."""
        return Memory(1, self.rss_bytes, self.uss_bytes, self.pss_bytes, self.peak_bytes)


def finding_key(
    path: str | os.PathLike[str],
    loader: str,
    initializer: tuple[str, Mapping[str, Any]] | None,
    options: Mapping[str, Any],
    python: str | None,
) -> Steps[SizeKey]:
    """Return the key of a model's size, with pauses in between.

    `initializer` is a reference with its configuration, None for the default one; `python` None is the host's
    interpreter. Blocks on the disk: call it in a thread. Raises what `digesting` and `environment_of` raise.
    """
    reference, config = initializer or ("", {})
    settings = _hash_of(_plain({"options": options, "initializer": config})).hex()
    digest = yield from digesting(path)
    return SizeKey(digest, loader, reference, settings, environment_of(python))


class Imports(NamedTuple):
    """What loads of a kind import in hosts of a name, under an interpreter.

    `kind` is any text that tells kinds apart, `load_s` what the first took.

    `held_bytes` is what a template of theirs takes.
    """

    host: str
    python: str
    kind: str
    modules: tuple[str, ...]
    loads: int
    load_s: float
    held_bytes: int


class SizeStore:
    """The remembered sizes in the first of some files that can be used; a context manager, for one thread."""

    def __init__(self, *paths: str | os.PathLike[str]) -> None:
        """Take where the file is, or will be, those first that are better. Nothing is opened yet."""
        self._paths = [Path(path) for path in paths]
        self._connection: sqlite3.Connection | None = None
        self._path: Path | None = None
        self._identity: tuple[int, int] | None = None
        self._is_open = False
        self.problem: str | None = None
        """Why sizes are not kept beyond the host's end; None if they are."""

    def __enter__(self) -> SizeStore:
        self._is_open = True
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        self._is_open = False

    def __repr__(self) -> str:
        state = "closed" if not self._is_open else f"in memory: {self.problem}" if self.problem else "open"
        return f"<SizeStore {', '.join(map(str, [self._path] if self._path else self._paths))} {state}>"

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
                raise UnusableFileError(f"a row holds {row!r} in place of numbers")
            return None if row is None else Figures(*row)._replace(is_minimum=bool(row[-1]))

        return self._do(read)

    def remember_imports(self, row: Imports, wall_s: float) -> None:
        """Keep what loads of a kind import, in place of what was known; the oldest are forgotten."""
        key = _hash_of(row[:3])
        values = (key, *row._replace(modules=json.dumps(row.modules)), wall_s)  # type: ignore[arg-type]

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("BEGIN IMMEDIATE")
            with connection:
                connection.execute("INSERT OR REPLACE INTO imports VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
                connection.execute(_FORGET_IMPORTS, (MAX_KINDS,))

        self._do(write)

    def recall_imports(self) -> list[Imports]:
        """Return all that is known of imports, what was written last at the end."""

        def read(connection: sqlite3.Connection) -> list[Imports]:
            return [_imports_of(row) for row in connection.execute(_READ_IMPORTS)]

        return self._do(read) or []

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        if not self._is_open:
            raise RuntimeError("the store is not open: use it in a with statement")
        try:
            return self._attempt(work)
        except sqlite3.ProgrammingError:  # another thread's connection, a wrong statement: faults of ours
            raise
        except (sqlite3.Error, OSError, UnusableFileError) as error:
            if not is_damage(error):
                _log.warning("%s: a size is lost: %s", self._path, error)
                return None
            self._close()
            self._open(error)
        try:
            return self._attempt(work)
        except (sqlite3.Error, OSError) as error:
            _log.warning("%s: a size is lost, even in a fresh file: %s", self._path, error)
            return None

    def _attempt(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do some work, in the file that is there now: another host may have thrown ours away because it is damaged."""
        if self._path is None:
            return work(self._memory)
        prepare(self._path)
        with in_use(self._path):
            if self._connection is None or identity_of(self._path) != self._identity:
                self._close()
                self._connection, self._identity = connect(self._path, _SCHEMA, VERSION), identity_of(self._path)
            return work(self._connection)

    @property
    def _memory(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = sqlite3.connect(":memory:", isolation_level=None)
            for table in _SCHEMA:
                self._connection.execute(table)
        return self._connection

    def _open(self, damage: Exception | None = None) -> None:
        """Open the first file that can be used, fresh if it is damaged; nothing is kept if there is none."""
        problems = []
        for path in self._paths:
            try:
                self._connection = self._opened(path, damage if path == self._path else None)
            except (UnusableFileError, sqlite3.Error, OSError) as error:
                problems.append(f"sizes cannot be kept in {path}: {error}")
                continue
            self._path, self._identity, self.problem = path, identity_of(path), None
            for problem in problems:
                _log.warning("%s; they are kept in %s", problem, path)
            return
        self._path, self.problem = None, "; ".join(problems) or "sizes are not kept (memory.remember)"
        if problems:
            _log.warning("%s; they are forgotten when the host ends", self.problem)

    def _opened(self, path: Path, damage: Exception | None) -> sqlite3.Connection:
        prepare(path)
        try:
            if damage is None:
                with in_use(path):
                    return connect(path, _SCHEMA, VERSION)
        except (UnusableFileError, sqlite3.Error) as error:
            if not is_damage(error):
                raise
            damage = error
        with in_use(path, alone=True):
            _log.warning("%s is thrown away, sizes are estimated until they are measured again: %s", path, damage)
            throw_away(path)
            return connect(path, _SCHEMA, VERSION)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _imports_of(row: tuple[Any, ...]) -> Imports:
    match row:
        case (str(host), str(python), str(kind), str(modules), int(loads), float(load_s), int(held_bytes)):
            with contextlib.suppress(ValueError):
                return Imports(host, python, kind, tuple(map(str, json.loads(modules))), loads, load_s, held_bytes)
    raise UnusableFileError(f"a row holds {row!r:.200} in place of imports")


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
