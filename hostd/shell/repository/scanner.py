"""Scans of the models directory: which entries are models to load, and which loaded models are gone from it.

Rules
1. A model is gone only if its path, below the very directory that was listed, does not exist. While the directory
   cannot be listed, is gone, or looks like an empty mount point, nothing is gone.
2. An unchanged entry costs one system call. Whether an entry is a model is asked again when the entry changes: its
   inode, size, and times of modification and change, which for a directory show names that come and go at its top.
   A finder that judges by deeper files is asked again when the top changes, or when the host starts anew.
3. What could not be loaded is not found again before its files change, at any depth, or until all are to be retried.
4. Symbolic links, devices, pipes and hidden entries are not models. A model that somebody loaded through a link below
   the directory is gone when that link is.

Scans block on the disk: run them in a thread, one at a time. They only read, so any number of hosts may share a
directory. Whether what was found is whole is another matter (`completeness`).
"""

from __future__ import annotations

import enum
import errno
import logging
import os
import stat
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hostd.core.events import DirectoryEntry, ModelId
from hostd.core.names import KEPT_NAME, model_id_of
from hostd.shell.repository.completeness import is_recent, walk
from hostd_workers.wire.errors import InvalidArgumentError
from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

STAGING = ".hostd-staging"

LOOKS_AT_FAILED = 64
"""Failed entries that one scan walks over to see whether they changed below the top; with more of them it takes turns.
A walk over a small model takes about 30 us."""

SELF_CHANGES = 3
"""How often in a row an entry that changed while it was loaded, and failed, is tried again at once. A model that writes
into its own directory would otherwise be loaded, in vain, for ever."""

BREATH_EVERY = 500
BREATH_S = 50e-6
"""After so many entries, less than a millisecond's work, the scan lets go of the GIL for so long. System calls let go
of it too, but are over before another thread has woken up, so that the loop would wait for a forced switch."""

_NO_MODELS = {
    stat.S_IFLNK: "it is a symbolic link, which is not followed: put the model itself there, or load it by its path",
    stat.S_IFIFO: "it is a pipe",
    stat.S_IFSOCK: "it is a socket",
    stat.S_IFCHR: "it is a device",
    stat.S_IFBLK: "it is a device",
}

_log = logging.getLogger(__name__)


class DirectoryUnavailableError(Exception):
    """The models directory cannot be followed at present; the message says why."""


class Scan(NamedTuple):
    """What a scan saw: models to load and models that are gone, and how many entries are no models."""

    found: tuple[tuple[ModelId, str], ...]
    gone: tuple[ModelId, ...]
    ignored: int


class _Kind(enum.Enum):
    MODEL = "MODEL"
    IGNORED = "IGNORED"
    BAD_NAME = "BAD_NAME"


class _Entry(NamedTuple):
    """What is known of an entry; `key` is None if it changed so recently that it has to be looked at again."""

    key: tuple[int, ...] | None
    kind: _Kind
    problem: str


class _Fingerprint(NamedTuple):
    digest: bytes
    changed_ns: int


class _Failed(NamedTuple):
    """A load that failed: its files as they were when it was found (None: as the next scan finds them), how often."""

    files: _Fingerprint | None
    times: int


class Scanner:
    """Scans one directory, and remembers what it has seen there."""

    def __init__(self, directory: Path, recognises: Callable[[str, str], bool], staging_name: str = STAGING) -> None:
        """Take `recognises(model_id, path)` for the word on what is a model; it may block, but must not raise."""
        self._directory = str(directory)
        self._recognises = recognises
        self._staging_name = staging_name
        self._scanned: os.stat_result | None = None
        self._entries: dict[str, _Entry] = {}
        self._found_as: dict[str, _Fingerprint] = {}
        self._failed: dict[str, _Failed] = {}

    def __repr__(self) -> str:
        return f"<Scanner {self._directory} {len(self._entries)} entries, {len(self._failed)} failed>"

    def scan(self, loaded: Mapping[ModelId, str], retry_all: bool) -> Scan:  # noqa: FBT001 - it is the effect's field
        """Look at the directory; `loaded` are the paths of all loaded models by id, those from elsewhere too.

        `retry_all` finds entries that failed before although they have not changed. Raises `DirectoryUnavailableError`.
        """
        with self._opened() as (descriptor, opened):
            entries = self._list(descriptor, loaded)
            # A path that is not absolute is the id of a model without files, wherever the host was started.
            absolute = {model_id: path for model_id, path in loaded.items() if os.path.isabs(path)}  # noqa: PTH117 - as below
            inside = {model_id: _relative(path, self._directory) for model_id, path in absolute.items()}
            is_another = self._scanned is not None and not os.path.samestat(self._scanned, opened)
            if not entries and any(inside.values()) and is_another:
                raise DirectoryUnavailableError(
                    f"{self._directory} is empty, and it is not the directory that the loaded models came from: is "
                    "something to be mounted there?"
                )
            gone = tuple(model_id for model_id, name in inside.items() if name and _is_gone(name, descriptor))
            self._check_still(opened)
        self._scanned, self._entries = opened, entries
        for remembered in (self._found_as, self._failed):
            for name in [name for name in list(remembered) if name not in entries]:
                remembered.pop(name, None)
        if retry_all:
            self._failed.clear()
        models = [name for name, entry in entries.items() if entry.kind is _Kind.MODEL]
        found = self._worth_loading([name for name in models if name not in loaded])
        return Scan(tuple((ModelId(name), self._path_of(name)) for name in found), gone, len(entries) - len(models))

    def entries(self) -> list[DirectoryEntry]:
        """Return what every visible entry of the directory is to the host. Raises `DirectoryUnavailableError`.

        Nothing is remembered: what the next scan finds does not depend on it.
        """
        with self._opened() as (descriptor, _):
            listed = self._list(descriptor, {}, is_remembered=False)
        return [
            DirectoryEntry(ModelId(name), self._path_of(name), *self._told_of(name, entry))
            for name, entry in listed.items()
        ]

    def _told_of(self, name: str, entry: _Entry) -> tuple[str, str]:
        if entry.kind is _Kind.MODEL:
            left = "left alone by the host until its files change; its use (models.lazy_load) or load_model loads it"
            return "AVAILABLE", left if name in self._failed else ""
        return "IGNORED", entry.problem

    def note_failed(self, model_id: str) -> None:
        """Remember that a model that was found could not be loaded. Does not block; may be called during a scan."""
        before = self._failed.get(model_id)
        times = 1 if before is None else before.times + 1
        # As it was found, not as it is now: somebody who repaired them while they were loaded wants them tried.
        files = self._found_as.get(model_id) if times < SELF_CHANGES else None
        self._failed[model_id] = _Failed(files, times)

    @contextmanager
    def _opened(self) -> Iterator[tuple[int, os.stat_result]]:
        """Hold the directory open, so that all of a scan is about the same one whatever is mounted meanwhile."""
        try:
            descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                yield descriptor, os.fstat(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise DirectoryUnavailableError(f"{self._directory} cannot be read: {error.strerror or error}") from error

    def _check_still(self, opened: os.stat_result) -> None:
        if not os.path.samestat(os.stat(self._directory), opened):  # noqa: PTH116 - plain strings, as all of this file
            raise DirectoryUnavailableError(f"{self._directory} became another directory while it was read")

    def _list(self, descriptor: int, loaded: Mapping[ModelId, str], *, is_remembered: bool = True) -> dict[str, _Entry]:
        """Return all entries, after asking what those are that changed. Raises OSError if the list is not whole."""
        before, after = self._entries, dict[str, _Entry]()
        now_ns = time.time_ns()
        with os.scandir(descriptor) as entries:
            for count, entry in enumerate(entries, 1):
                if count % BREATH_EVERY == 0:
                    time.sleep(BREATH_S)
                name = entry.name
                if name[0] == "." or name == self._staging_name:
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError as error:
                    if error.errno == errno.EACCES:
                        raise  # the directory may be listed but not searched: nothing in it can be seen
                    continue
                key = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
                known = before.get(name)
                if known is None or known.key != key:
                    # If the load of a loaded one fails, that counts for the files as they were found.
                    if is_remembered and name not in loaded:
                        self._found_as.pop(name, None)
                    known = _Entry(None if is_recent(status, now_ns) else key, *self._kind_of(name, status, known))
                after[name] = known
        return after

    def _kind_of(self, name: str, status: os.stat_result, known: _Entry | None) -> tuple[_Kind, str]:
        if known is not None and known.kind is _Kind.BAD_NAME:
            return known.kind, known.problem
        try:
            model_id_of(name)
        except InvalidArgumentError as error:
            _log.warning("%a is ignored: %s", self._path_of(name), error.message)
            return _Kind.BAD_NAME, error.message
        if not stat.S_ISDIR(status.st_mode) and not stat.S_ISREG(status.st_mode):
            return _Kind.IGNORED, _NO_MODELS.get(stat.S_IFMT(status.st_mode), "it is neither a directory nor a file")
        path = self._path_of(name)
        # What was deployed may have a finder or a loader of its own, which its load asks.
        if self._recognises(name, path) or os.path.lexists(f"{path}/{KEPT_NAME}"):
            return _Kind.MODEL, ""
        return _Kind.IGNORED, "no finder knows what it is: it needs a model.yaml, a model.py or a model's file"

    def _worth_loading(self, models: list[str]) -> list[str]:
        """Leave out what failed and has not changed since.

        Does not touch what is known of a model that is being loaded: it is among the loaded ones.
        """
        found = []
        looks = LOOKS_AT_FAILED
        asked = set(models)
        for name in [name for name in list(self._failed) if name in asked]:
            asked.discard(name)
            if name in self._found_as and looks <= 0:
                continue
            looks -= name in self._found_as
            if self._has_changed(name):
                found.append(name)
        for name in models:
            if name in asked:
                found.append(name)
                if name not in self._found_as:
                    self._see(name)
        return found

    def _has_changed(self, name: str) -> bool:
        """Say whether a failed entry's files are others than those that failed."""
        failed = self._failed.pop(name)
        files = self._see(name)
        has_changed = failed.files is not None and files != failed.files
        # It goes to the end of the row, so that the others get their turns.
        self._failed[name] = failed if has_changed else _Failed(files, 0)
        return has_changed

    def _see(self, name: str) -> _Fingerprint:
        """Note what an entry's files are like now; that they cannot be looked at is noted too: it may change."""
        try:
            tree = walk(self._path_of(name))
        except OSError as error:
            self._found_as[name] = _Fingerprint(f"error {error.errno}".encode(), 0)
        else:
            self._found_as[name] = _Fingerprint(tree.digest, tree.files_changed_ns)
        return self._found_as[name]

    def _path_of(self, name: str) -> str:
        return os.path.join(self._directory, name)  # noqa: PTH118 - as above


def is_inside(path: str, directory: str) -> bool:
    """Say whether a path lies below a directory, by whole components, however either of them is written.

    Links on the way are followed, so a path through a link to the directory is inside and one through a link that leads
    out of it is not. The path's own last component is not followed: a link lies where it lies. Neither need exist. The
    directory is not inside itself. Blocks on the disk.
    """
    return _relative(path, directory) is not None


def _relative(path: str, directory: str) -> str | None:
    """Return a path below a directory relative to it, None if it is elsewhere."""
    parent, name = os.path.split(path.rstrip("/"))
    if name in ("", ".", ".."):
        parent, name = os.path.split(os.path.realpath(path))
    place = os.path.join(os.path.realpath(parent), name)  # noqa: PTH118 - as above
    base = os.path.realpath(directory).rstrip("/") + "/"
    return place[len(base) :] if place.startswith(base) and place != base else None


def _is_gone(name: str, directory: int) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError as error:
        return error.errno in (errno.ENOENT, errno.ENOTDIR)
    return False
