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
import stat
from typing import TYPE_CHECKING

from hostd.core.names import STAGING_NAME, folders_of
from hostd.shell.directory import open_directory
from hostd.shell.journal import SPARE, SUFFIX, Journal
from hostd.shell.syscalls import DIRECTORY, RENAME_EXCHANGE, RENAME_NOREPLACE
from workers.wire.errors import AbortedError, FailedPreconditionError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hostd.core.events import ModelId
    from hostd.shell.directory import ModelsDirectory
    from hostd.shell.journal import Operation
    from hostd.shell.syscalls import SystemCalls

_NO_FLAGS = frozenset((errno.ENOSYS, errno.EINVAL))
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
        models_fd = directory.open()
        staging_fd = None
        try:
            staging_fd = directory.calls.open(STAGING_NAME, DIRECTORY, at=models_fd)
            return cls(directory.calls, models_fd, staging_fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno not in {errno.ENOTDIR, errno.ELOOP}:
                raise
            raise FailedPreconditionError(
                f"{directory.path / STAGING_NAME} is not a directory; remove it, the host makes its own"
            ) from error
        finally:
            if staging_fd is None:
                os.close(models_fd)

    @classmethod
    def begin(cls, directory: ModelsDirectory, operation: Operation, model_id: ModelId) -> tuple[Area, Journal]:
        """Open both, making the staging area if need be, and make a journal entry. Raises as `open` does."""
        for _ in range(MAX_TRIES):
            with directory.opened() as models_fd, contextlib.suppress(FileExistsError):
                directory.calls.mkdir(STAGING_NAME, models_fd)
                directory.calls.fsync_directory(models_fd)
            area = cls.open(directory)
            if area is None:
                continue
            try:
                return area, Journal.create(directory.calls, area.staging_fd, operation, model_id)
            except FileNotFoundError:  # removed by another host, which found it empty
                area.close()
            except BaseException:
                area.end()
                raise
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), STAGING_NAME)

    def close(self) -> None:
        """Close both descriptors."""
        os.close(self.staging_fd)
        os.close(self.models_fd)

    def end(self) -> None:
        """Remove the staging area if nothing is in it any more, and close."""
        try:
            with contextlib.suppress(OSError):  # not empty, or gone, or not to be removed: it does no harm
                self.calls.rmdir(STAGING_NAME, self.models_fd)
        finally:
            self.close()

    # What there is

    def tokens(self) -> list[str]:
        """Return the tokens of all entries."""
        return [name.removesuffix(SUFFIX) for name in self.calls.names(self.staging_fd) if name.endswith(SUFFIX)]

    def trees_of(self, journal: Journal) -> dict[str, os.stat_result]:
        """Return the trees of an entry that are in the staging area, by name."""
        names = (journal.token, journal.token + SPARE)
        return {name: found for name in names if (found := self.calls.lstat(name, self.staging_fd)) is not None}

    def check_alone(self, journal: Journal) -> None:
        """Raise `AbortedError` if another operation moves the same model. The own entry must say so before.

        Of two that begin at once at least one sees the other; both may give up, and both may come again.
        """
        for token in self.tokens():
            other = None if token == journal.token else Journal.peek(self.calls, self.staging_fd, token)
            if other is not None and other.is_visible and other.model_id == journal.model_id:
                raise AbortedError(
                    f"another {other.operation.value} of {journal.model_id!r} is under way in this models directory, "
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
        """Remove folders, given outermost first, as far as they are empty and this user's to remove."""
        for folder in reversed(folders):
            try:
                with self.folder_of(folder) as above_fd:
                    self.calls.rmdir(folder.rpartition("/")[2], above_fd)
                    self.calls.fsync_directory(above_fd)
            except FileNotFoundError:  # noqa: PERF203 - each for itself
                continue
            except OSError:  # another model is in it
                return

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
        self.calls.mkdir(base, folder_fd)
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
