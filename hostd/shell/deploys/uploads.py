"""Operations on the models directory that are under way: an upload on its way in, a removal on its way out.

    upload:   UPLOADING -> MOVING -> MOVED -> CONFIRMED -> OVER
    removal:                         MOVED -> CONFIRMED -> OVER
    either, from any phase before CONFIRMED, by `roll_back`:  -> OVER

`confirm` is the point of commitment: one system call. What was answered after it is never undone; what was not is
undone by `roll_back`, or by the recovery at the next start. An end that failed may be repeated; meanwhile its entry is
not locked, so a recovery may do it as well.

All of it blocks on the disk: call it in threads. `Upload.write` may be called in several at once, the rest in one.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import threading
from typing import TYPE_CHECKING

from hostd.core.names import folders_of
from hostd.core.standing import Standing
from hostd.shell.deploys import moves
from hostd.shell.deploys.area import Area
from hostd.shell.deploys.journal import Journal
from hostd.shell.deploys.journal import State as JournalState
from hostd.shell.deploys.ranges import Ranges
from hostd.shell.linux.syscalls import error_of
from hostd.shell.repository import kept
from hostd.shell.repository.directory import open_beneath, open_directory
from hostd.shell.repository.kept import FILE_MODE
from hostd_workers.wire.errors import AlreadyExistsError, FailedPreconditionError, InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from hostd.core.events import ModelId
    from hostd.shell.repository.directory import ModelsDirectory

EXECUTABLE_MODE = 0o750
"""Less umask, as `FILE_MODE`. Of a file's mode it is carried only whether its owner may execute it."""
DIRECTORY_MODE = 0o750

TAKEN = frozenset((errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR))
"""What the system says where a model's place, or a folder on the way to it, is something else."""


@contextlib.contextmanager
def typed(doing: str) -> Iterator[None]:
    """Raise what the system refuses as a typed error; its message begins with `doing`."""
    try:
        yield
    except OSError as error:
        raise error_of(error, doing) from error


def taken(model_id: str) -> AlreadyExistsError:
    """Return the error of a deploy that is not to replace, or came second."""
    return AlreadyExistsError(
        f"there is already something at {model_id!r} in the models directory; undeploy it first, or deploy with "
        "--replace (replace=True)"
    )


class Phase(enum.Enum):
    """How far an operation is."""

    UPLOADING = "UPLOADING"
    MOVING = "MOVING"
    MOVED = "MOVED"
    CONFIRMED = "CONFIRMED"
    OVER = "OVER"


class Underway:
    """What an upload and a removal have in common: their end."""

    def __init__(
        self, directory: ModelsDirectory, area: Area, journal: Journal, model_id: ModelId, phase: Phase
    ) -> None:
        self.model_id = model_id
        self.path: Path = directory.path_of(model_id)
        self.phase = phase
        self._directory = directory
        self._area: Area | None = area
        self._journal: Journal | None = journal
        self._token = journal.token
        self._doing = f"cannot {journal.operation.value} {model_id!r}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._token} of {self.model_id} {self.phase.value}>"

    def confirm(self) -> None:
        """Make it last; only then may anybody be told. Raises `FailedPreconditionError` if it is not its turn.

        If it fails (`HostError`), roll back.
        """
        if self.phase is not Phase.MOVED or self._journal is None:
            raise FailedPreconditionError(f"{self!r} cannot be confirmed: nothing was moved")
        with typed(self._doing):
            try:
                self._journal.mark(JournalState.CONFIRMED)
            except OSError:
                # A write that failed may still have reached the page cache, where a recovery would find it.
                with contextlib.suppress(OSError):
                    self._journal.mark(JournalState.OPEN)
                raise
        self.phase = Phase.CONFIRMED

    def roll_back(self) -> None:
        """Bring back what was there before, in whatever phase; nothing is left. Nothing to do if it is over.

        Raises `FailedPreconditionError` if it is confirmed, and `HostError` if the system fails: then what is left is
        removed by a repetition, or by a recovery.
        """
        if self.phase is Phase.CONFIRMED:
            raise FailedPreconditionError(f"{self!r} is confirmed: it cannot be rolled back any more")
        self._finish(moves.undo)

    def clean(self) -> None:
        """Remove what is not needed any more once it is confirmed: the old tree, the entry. Raises as `roll_back`."""
        if self.phase not in {Phase.CONFIRMED, Phase.OVER}:
            raise FailedPreconditionError(f"{self!r} is not confirmed: roll it back instead")
        self._finish(moves.clean)

    def _finish(self, step: Callable[[Area, Journal], None]) -> None:
        if self.phase is Phase.OVER:
            return
        area, journal = self._area, self._journal
        self._area = self._journal = None
        with typed(self._doing), contextlib.ExitStack() as open_things:
            area = area or Area.open(self._directory)
            if area is not None:
                open_things.callback(area.end)
                journal = journal or Journal.open(area.calls, area.staging_fd, self._token)
                if journal is not None:
                    open_things.callback(journal.close)
                    step(area, journal)
        self.phase = Phase.OVER


class Removal(Underway):
    """A model's tree on its way out: it is in the staging area, and gone for everybody. Made by `Staging.remove`."""

    def __init__(self, directory: ModelsDirectory, area: Area, journal: Journal, model_id: ModelId) -> None:
        super().__init__(directory, area, journal, model_id, Phase.MOVED)


class Upload(Underway):
    """A model's files on their way in. Made by `Staging.begin`."""

    def __init__(
        self,
        directory: ModelsDirectory,
        area: Area,
        journal: Journal,
        model_id: ModelId,
        files: Sequence[tuple[str, int]],
        tree_fd: int,
        *,
        replace: bool,
        folders: Sequence[str] = (),
        executables: Sequence[str] = (),
    ) -> None:
        super().__init__(directory, area, journal, model_id, Phase.UPLOADING)
        self._calls = area.calls
        self._files = [(name, Ranges(size_bytes)) for name, size_bytes in files]
        names = [name for name, _ in files]
        self._replace = replace
        self._folders = {folder for name in (*names, *folders) for folder in folders_of(name)} | set(folders)
        self._executables = frozenset(executables)
        self._made: set[int] = set()
        self._making = threading.Lock()
        self._writes = threading.Condition()
        self._writing = 0
        self._tree_fd: int | None = tree_fd

    def write(self, index: int, offset: int, data: bytes | memoryview) -> None:
        """Write a piece of the file with this index; it is in the page cache when this returns.

        Raises `InvalidArgumentError` for what does not fit into the file, `FailedPreconditionError` if the upload takes
        nothing any more, `ResourceExhaustedError` if the disk is full, `HostError` for other failures of the system.
        """
        if not 0 <= index < len(self._files):
            raise InvalidArgumentError(f"there is no file {index}: the deploy announced {len(self._files)}")
        name, ranges = self._files[index]
        end = offset + len(data)
        if offset < 0 or end > ranges.size:
            raise InvalidArgumentError(f"bytes {offset} to {end} are not in {name!r}, which was to have {ranges.size}")
        with self._taking_part() as tree_fd, typed(self._doing):
            fd = self._open_file(tree_fd, index)
            try:
                written = 0
                while written < len(data):
                    written += self._calls.pwrite(fd, memoryview(data)[written:], offset + written)
            finally:
                os.close(fd)
            with self._writes:
                ranges.add(offset, end)

    def install(self, standing: Standing | None = None) -> Path:
        """Flush all files and put them into their place at once; return that place.

        `standing` is what the model is deployed with, to be kept beside them; pin and labels that it says nothing of
        are those of what is replaced.

        Raises `FailedPreconditionError` if bytes are missing, `AlreadyExistsError` if somebody else was faster,
        `AbortedError` if somebody else is at it, `HostError` for failures of the system. Then roll back.
        """
        with self._writes:
            self._writes.wait_for(lambda: not self._writing)
            tree_fd, area, journal = self._tree_fd, self._area, self._journal
            if self.phase is not Phase.UPLOADING or tree_fd is None or area is None or journal is None:
                raise FailedPreconditionError(f"{self!r} cannot be installed: it takes no files any more")
            self._check_complete()
            self.phase = Phase.MOVING
        with typed(self._doing):
            if standing is not None:
                earlier = kept.standing_at(area.calls, area.models_fd, self.model_id) if self._replace else None
                if earlier is not None:
                    standing = standing.over(Standing(is_pinned=earlier.is_pinned, labels=earlier.labels))
                kept.write(self._calls, tree_fd, standing)
            self._flush(tree_fd)
            journal.note(tree=self._calls.fstat(tree_fd).st_ino, first_made=len(folders_of(self.model_id)))
            area.check_alone(journal)
            try:
                moves.install(area, journal, self.model_id, replace=self._replace)
            except OSError as error:
                if error.errno in TAKEN:
                    raise taken(self.model_id) from error
                raise
        self.phase = Phase.MOVED
        return self.path

    def discard(self) -> None:
        """Roll back an upload that is not in its place. Raises `FailedPreconditionError` if it is."""
        if self.phase is Phase.MOVED:
            raise FailedPreconditionError(f"{self!r} is installed: roll it back instead")
        self.roll_back()

    def _finish(self, step: Callable[[Area, Journal], None]) -> None:
        with self._writes:
            self._writes.wait_for(lambda: not self._writing)
            fd, self._tree_fd = self._tree_fd, None
        if fd is not None:
            os.close(fd)
        super()._finish(step)

    @contextlib.contextmanager
    def _taking_part(self) -> Iterator[int]:
        """Keep the tree from being installed or removed during a write."""
        with self._writes:
            if self.phase is not Phase.UPLOADING or self._tree_fd is None:
                raise FailedPreconditionError(f"{self!r} takes no files any more")
            self._writing += 1
        try:
            yield self._tree_fd
        finally:
            with self._writes:
                self._writing -= 1
                self._writes.notify_all()

    def _open_file(self, tree_fd: int, index: int) -> int:
        """Open a file for writing, making it with room for all of it the first time."""
        name, ranges = self._files[index]
        with self._making:
            if index in self._made:
                return open_beneath(self._calls, tree_fd, name, os.O_WRONLY)
            try:
                mode = EXECUTABLE_MODE if name in self._executables else FILE_MODE
                fd = open_beneath(self._calls, tree_fd, name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            except FileExistsError as error:
                raise InvalidArgumentError(
                    f"{name!r} and another file of this deploy are one file on this file system (it may fold case); "
                    "rename one"
                ) from error
            self._made.add(index)
            try:
                self._calls.reserve(fd, ranges.size)
            except BaseException:  # raised again
                os.close(fd)
                raise
            return fd

    def _check_complete(self) -> None:
        for name, ranges in self._files:
            if ranges.missing:
                raise FailedPreconditionError(f"{name!r} lacks {ranges.missing} of its {ranges.size} bytes")

    def _flush(self, tree_fd: int) -> None:
        """Make empty files, which had no write, and all files and directories last."""
        for index in range(len(self._files)):
            fd = self._open_file(tree_fd, index)
            try:
                self._calls.fsync(fd)
            finally:
                os.close(fd)
        for folder in ("", *sorted(self._folders)):
            fd = open_directory(self._calls, tree_fd, folder)
            try:
                self._calls.fsync_directory(fd)
            finally:
                os.close(fd)
