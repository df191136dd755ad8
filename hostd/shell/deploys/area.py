"""The staging area of a models directory: what is in it, and the single moves into and out of it.

    models.dir/<id>                          what everybody sees
    models.dir/.hostd-staging/<token>.json   the journal of one operation
    models.dir/.hostd-staging/<token>        its tree: the new one on its way in, or the old one on its way out
    models.dir/.hostd-staging/<token>-spare  the old one, where two names cannot be exchanged at once

On a file system without renameat2(2)'s flags, "without replacing" is an exclusive mkdir(2) and a rename onto the empty
directory, which fails if it is not empty any more; a file is linked. An exchange is then two renames, between which the
model is missing for a moment.

The area is on the models directory's own file system, so moves are renames; it exists only while something is in it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from typing import TYPE_CHECKING

from hostd.core.names import STAGING_NAME, folders_of
from hostd.shell.deploys.journal import SPARE, SUFFIX, TOKEN_CHARS, Journal
from hostd.shell.linux.syscalls import DIRECTORY, RENAME_EXCHANGE, RENAME_NOREPLACE
from hostd.shell.repository.directory import open_directory
from hostd_workers.wire.errors import AbortedError, FailedPreconditionError
from hostd_workers.wire.light import pattern

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hostd.core.events import ModelId
    from hostd.shell.deploys.journal import Operation
    from hostd.shell.linux.syscalls import SystemCalls
    from hostd.shell.repository.directory import ModelsDirectory

_ENTRY = pattern(rf"([0-9a-f]{{{TOKEN_CHARS}}}){re.escape(SUFFIX)}")
_NO_FLAGS = frozenset((errno.ENOSYS, errno.EINVAL))
_NOT_TO_REMOVE = frozenset(
    (errno.ENOTEMPTY, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EBUSY, errno.ENOTDIR, errno.ELOOP)
)
"""What rmdir(2) says of a folder that somebody else needs or protects."""
MAX_TRIES = 100
"""Of steps that another host on the same directory may upset, by removing a folder just then because it is empty."""


class Area:
    """An open models directory and its open staging area."""

    def __init__(self, calls: SystemCalls, models_fd: int, staging_fd: int) -> None:
        self.calls = calls
        self.models_fd = models_fd
        self.staging_fd = staging_fd

    @classmethod
    def open(cls, directory: ModelsDirectory) -> Area | None:
        """Open both; None if there is no staging area. Raises OSError and `FailedPreconditionError`."""
        with contextlib.ExitStack() as on_failure:
            models_fd = directory.open()
            on_failure.callback(os.close, models_fd)
            with contextlib.suppress(FileNotFoundError):
                area = cls(directory.calls, models_fd, _open_staging(directory, models_fd))
                on_failure.pop_all()
                return area
        return None

    @classmethod
    def begin(cls, directory: ModelsDirectory, operation: Operation, model_id: ModelId) -> tuple[Area, Journal]:
        """Open both, making the staging area if need be, and make a journal entry. Raises as `open` does."""
        calls = directory.calls
        for _ in range(MAX_TRIES):
            # Not found: another host has removed the staging area, because nothing was in it yet.
            with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as on_failure:
                models_fd = directory.open()
                on_failure.callback(os.close, models_fd)
                on_failure.callback(_remove_staging, calls, models_fd)
                with contextlib.suppress(FileExistsError):
                    calls.mkdir(STAGING_NAME, models_fd)
                    calls.fsync_directory(models_fd)
                staging_fd = _open_staging(directory, models_fd)
                on_failure.callback(os.close, staging_fd)
                journal = Journal.create(calls, staging_fd, operation, model_id)
                on_failure.pop_all()
                return cls(calls, models_fd, staging_fd), journal
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), STAGING_NAME)

    def close(self) -> None:
        """Close both descriptors."""
        os.close(self.staging_fd)
        os.close(self.models_fd)

    def end(self) -> None:
        """Remove the staging area if nothing is in it any more, and close."""
        try:
            _remove_staging(self.calls, self.models_fd)
        finally:
            self.close()

    # What there is

    def tokens(self) -> list[str]:
        """Return the tokens of all entries; a file of another's that only ends like one is none."""
        return [entry[1] for name in self.calls.names(self.staging_fd) if (entry := _ENTRY.fullmatch(name))]

    def trees_of(self, journal: Journal) -> dict[str, os.stat_result]:
        """Return the trees of an entry that are in the staging area, by name."""
        names = (journal.token, journal.token + SPARE)
        return {name: found for name in names if (found := self.calls.lstat(name, self.staging_fd)) is not None}

    def check_alone(self, journal: Journal) -> None:
        """Raise `AbortedError` if another operation moves the same model, or one that lies in it or around it.

        With a tree all that lies in it moves: what is put there meanwhile would go with the old one. The own entry must
        say before what is moved.

        Of two that begin at once at least one sees the other; both may give up, and both may come again.
        """
        for token in self.tokens():
            other = None if token == journal.token else Journal.peek(self.calls, self.staging_fd, token)
            if other is not None and other.is_visible and _is_one_in_the_other(other.model_id, journal.model_id):
                raise AbortedError(
                    f"another {other.operation.value} of {other.model_id!r} is under way in this models directory, "
                    "perhaps by another host; try again when it is over"
                )

    # Folders on the way to a model

    @contextlib.contextmanager
    def folder_of(self, path: str) -> Iterator[int]:
        """Open the directory in which something lies. Raises OSError."""
        fd = open_directory(self.calls, self.models_fd, path.rpartition("/")[0])
        try:
            yield fd
        finally:
            os.close(fd)

    def missing_folders(self, model_id: ModelId) -> list[str]:
        """Return the folders on the way to a model that are not there, outermost first. Raises OSError."""
        folders = folders_of(model_id)
        for index, folder in enumerate(folders):
            try:
                os.close(open_directory(self.calls, self.models_fd, folder))
            except FileNotFoundError:  # noqa: PERF203 - at most a few, and the first ends it
                return folders[index:]
        return []

    def make_folders(self, journal: Journal, model_id: ModelId) -> None:
        """Make what is missing on the way to a model; the journal knows before. Raises OSError."""
        missing = self.missing_folders(model_id)
        if not missing:
            return
        count = len(folders_of(model_id)) - len(missing)
        if journal.tree_inode is not None and (journal.first_made is None or count < journal.first_made):
            journal.note(tree=journal.tree_inode, first_made=count)
        for folder in missing:
            with self.folder_of(folder) as above_fd:
                with contextlib.suppress(FileExistsError):
                    self.calls.mkdir(folder.rpartition("/")[2], above_fd)
                self.calls.fsync_directory(above_fd)

    def remove_folders(self, folders: list[str]) -> None:
        """Remove folders, given outermost first, as far as they are empty and this user's to remove. Raises OSError."""
        for folder in reversed(folders):
            try:
                with self.folder_of(folder) as above_fd:
                    self.calls.rmdir(folder.rpartition("/")[2], above_fd)
                    self.calls.fsync_directory(above_fd)
            except FileNotFoundError:  # noqa: PERF203 - each for itself
                continue
            except OSError as error:
                if error.errno in _NOT_TO_REMOVE:
                    return
                raise

    # Single moves

    def put(self, journal: Journal, name: str, folder_fd: int, base: str) -> None:
        """Move something from the staging area to a place that must be free. Raises OSError: EEXIST if it is not."""
        try:
            self.calls.renameat2(name, self.staging_fd, base, folder_fd, RENAME_NOREPLACE)
        except OSError as error:
            if error.errno not in _NO_FLAGS:
                raise
        else:
            return
        found = self.calls.lstat(name, self.staging_fd)
        if found is not None and not stat.S_ISDIR(found.st_mode):
            self.calls.link(name, self.staging_fd, base, folder_fd)
            self.calls.unlink(name, self.staging_fd)
            return
        journal.note(placeholder=True)
        try:
            self.calls.mkdir(base, folder_fd)
        except FileExistsError:
            journal.note(placeholder=False)  # it is somebody else's, even if it is empty
            raise
        try:
            self.calls.rename(name, self.staging_fd, base, folder_fd)
        except OSError as error:
            if error.errno == errno.ENOTEMPTY:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), base) from error
            raise

    def exchange(self, name: str, free_name: str, folder_fd: int, base: str) -> None:
        """Let `name` in the staging area and a place change roles; what was at the place is then at either name.

        Raises OSError.
        """
        try:
            self.calls.renameat2(name, self.staging_fd, base, folder_fd, RENAME_EXCHANGE)
        except OSError as error:
            if error.errno not in _NO_FLAGS:
                raise
        else:
            return
        self.calls.rename(base, folder_fd, free_name, self.staging_fd)
        self.calls.rename(name, self.staging_fd, base, folder_fd)


def _is_one_in_the_other(one: str | None, other: str | None) -> bool:
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def _open_staging(directory: ModelsDirectory, models_fd: int) -> int:
    try:
        return directory.calls.open(STAGING_NAME, DIRECTORY, at=models_fd)
    except OSError as error:
        if error.errno not in {errno.ENOTDIR, errno.ELOOP}:
            raise
        raise FailedPreconditionError(
            f"{directory.path / STAGING_NAME} is not a directory; remove it, the host makes its own"
        ) from error


def _remove_staging(calls: SystemCalls, models_fd: int) -> None:
    with contextlib.suppress(OSError):  # not empty, or gone, or not to be removed: it does no harm
        calls.rmdir(STAGING_NAME, models_fd)
