"""Deploys and undeploys on the disk: all or nothing, at every kill point.

    upload = staging.begin(id, files, replace=False)      removal = staging.remove(id)
    upload.write(index, offset, data) ...                 removal.confirm()      # the point of commitment
    upload.install()                                      (answer)
    (load the model)                                      removal.clean()
    upload.confirm()             # the point of commitment
    (answer)
    upload.clean()                                        before `confirm`, instead: .roll_back()

Rules
1. Before anything visible happens it is in a journal that lasts; after any end, `recover` undoes what was not confirmed
   and tidies up what was.
2. Nothing replaces anything silently, and nothing outside of the models directory, or behind a link, is touched.
3. An operation that a living host works on is left alone (its journal is locked), also by that host itself.

Covers the checks before, and the recovery after. The operations themselves are in `uploads`, their moves in `moves`.
All of it blocks on the disk: call it in threads.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from typing import TYPE_CHECKING

from hostd.core.names import check_files, folders_of, model_id_of
from hostd.shell.deploys import moves, trees
from hostd.shell.deploys.area import Area
from hostd.shell.deploys.journal import SPARE, SUFFIX, TOKEN_CHARS, Journal, Operation, State
from hostd.shell.deploys.uploads import DIRECTORY_MODE, TAKEN, Removal, Upload, taken, typed
from hostd.shell.linux.syscalls import DIRECTORY, LOOK, error_of
from hostd.shell.repository import kept
from hostd.shell.repository.directory import look, open_beneath, open_directory, refusal_of_mount, refusal_of_place
from hostd_workers.wire.errors import (
    FailedPreconditionError,
    HostError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
)
from hostd_workers.wire.light import pattern

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hostd.core.events import ModelId
    from hostd.shell.repository.directory import ModelsDirectory

__all__ = ["Removal", "Staging", "Upload"]

_log = logging.getLogger(__name__)

_TREE = pattern(rf"([0-9a-f]{{{TOKEN_CHARS}}})(?:{SPARE})?")
_MAX_FILE_BYTES = 2**63 - 1
"""The largest offset that a file may have (off_t)."""


class Staging:
    """The staging area of a models directory. It exists on the disk only while something is in it."""

    def __init__(self, directory: ModelsDirectory) -> None:
        self._directory = directory
        self._calls = directory.calls

    def __repr__(self) -> str:
        return f"<Staging {self._directory.path}>"

    # Deploy

    def begin(
        self,
        model_id: str,
        files: Sequence[tuple[str, int]],
        *,
        replace: bool,
        folders: Sequence[str] = (),
        executables: Sequence[str] = (),
    ) -> Upload:
        """Make a place for files, given by relative name and size in bytes, that will be written to the upload.

        `folders` are empty ones, `executables` the names of files that may be executed.

        Raises `InvalidArgumentError` for bad names and sizes, `AlreadyExistsError` if something is at the model's place
        and it is not to be replaced, `FailedPreconditionError` without permission or if links and the like are in the
        way, `ResourceExhaustedError` if the disk has too little room, `HostError` for other failures of the system.
        Then nothing was changed.
        """
        checked = model_id_of(model_id)
        check_files([name for name, _ in files], folders)
        _check_sizes(files)
        self._recover_quietly()
        doing = f"cannot deploy {checked!r}"
        with typed(doing), self._directory.opened() as models_fd:
            self._check_place(models_fd, checked, replace=replace)
            free_bytes = self._calls.free_bytes(models_fd)
        needed_bytes = sum(size_bytes for _, size_bytes in files)
        if free_bytes is not None and needed_bytes > free_bytes:
            raise ResourceExhaustedError(
                f"{doing}: it has {needed_bytes} bytes, and {self._directory.path} has room for {free_bytes}"
            )
        with typed(doing), contextlib.ExitStack() as on_failure:
            area, journal = self._entry(on_failure, Operation.DEPLOY, checked)
            tree_fd = _make_tree(area, journal, [name for name, _ in files], folders)
            more = {"folders": folders, "executables": executables}
            upload = Upload(self._directory, area, journal, checked, files, tree_fd, replace=replace, **more)
            on_failure.pop_all()
        return upload

    # Undeploy

    def check(self, model_id: str) -> None:
        """Raise what `remove` would raise, as far as it can be known before, and change nothing."""
        checked = model_id_of(model_id)
        with typed(f"cannot undeploy {checked!r}"), self._directory.opened() as models_fd:
            if look(self._calls, models_fd, checked) is None:
                raise _nothing_there(checked)
            self._check_writable(models_fd, checked)
            if trees.is_folder_of_models(self._calls, models_fd, checked):
                raise NotFoundError(
                    f"{checked!r} in the models directory is no model but a folder with models in it; undeploy those"
                )
            trees.check_removable(self._calls, models_fd, checked)

    def remove(self, model_id: str) -> Removal:
        """Take a model's files out of everybody's sight.

        Raises `NotFoundError` if no model is there, `FailedPreconditionError` without permission or for what is neither
        a directory nor a file, `AbortedError` if somebody else is at it, `HostError` for failures of the system. Then
        nothing was changed.
        """
        checked = model_id_of(model_id)
        self._recover_quietly()
        self.check(checked)
        with typed(f"cannot undeploy {checked!r}"), contextlib.ExitStack() as on_failure:
            area, journal = self._entry(on_failure, Operation.UNDEPLOY, checked)
            area.check_alone(journal)
            try:
                moves.take_out(area, journal, checked)
            except FileNotFoundError as error:
                raise _nothing_there(checked) from error
            removal = Removal(self._directory, area, journal, checked)
            on_failure.pop_all()
        return removal

    # Beside what is deployed

    def keep_pin(self, model_id: str, *, is_pinned: bool) -> None:
        """Write down beside a deployed model's files whether it is pinned. Raises `HostError`."""
        kept.set_pinned(self._directory, model_id_of(model_id), is_pinned=is_pinned)

    # After an end

    def recover(self) -> list[str]:
        """Undo what was interrupted before it was confirmed, tidy up what was interrupted after, and say what was done.

        What a living host works on is left alone. What cannot be done is said too, and is tried again the next time.
        Raises `FailedPreconditionError` if the models directory or its staging area cannot be opened.
        """
        with typed(f"cannot look for interrupted deploys in {self._directory.path}"):
            area = Area.open(self._directory)
            if area is None:
                return []
            try:
                return [*self._recover_entries(area), *self._recover_orphans(area)]
            finally:
                area.end()

    def _recover_entries(self, area: Area) -> list[str]:
        said = []
        for token in area.tokens():
            try:
                journal = Journal.open(self._calls, area.staging_fd, token)
                if journal is not None:
                    said.append(_recover_entry(area, journal))
            except OSError as error:  # noqa: PERF203 - one must not stop the others
                said.append(str(error_of(error, f"cannot recover the interrupted operation {token}")))
        return said

    def _recover_orphans(self, area: Area) -> list[str]:
        """Remove trees without an entry: an entry comes before its tree and goes after it, unless the disk lost it."""
        said = []
        for name in area.calls.names(area.staging_fd):
            tree = _TREE.fullmatch(name)
            try:
                if tree and area.calls.lstat(tree[1] + SUFFIX, area.staging_fd) is None:
                    trees.remove_tree(area.calls, area.staging_fd, name)
                    said.append(f"removed {name}, which no operation knows")
            except OSError as error:
                said.append(str(error_of(error, f"cannot remove {name}, which no operation knows")))
        return said

    def _recover_quietly(self) -> None:
        """Recover what another host may have left since, so that it is not in the way."""
        try:
            for line in self.recover():
                _log.info("models directory: %s", line)
        except HostError as error:
            _log.warning("models directory: %s", error)

    # Steps

    def _entry(self, on_failure: contextlib.ExitStack, operation: Operation, model_id: ModelId) -> tuple[Area, Journal]:
        area, journal = Area.begin(self._directory, operation, model_id)
        on_failure.callback(area.end)
        on_failure.callback(journal.close)
        on_failure.callback(moves.undo, area, journal)
        return area, journal

    def _check_place(self, models_fd: int, model_id: ModelId, *, replace: bool) -> None:
        """Refuse a place that is taken, or where this user may not write."""
        above_fd = None
        try:
            for folder in ("", *folders_of(model_id)):
                try:
                    inner_fd = open_directory(self._calls, models_fd, folder, is_on_one_mount=True)
                except FileNotFoundError:
                    break
                if above_fd is not None:
                    os.close(above_fd)
                above_fd = inner_fd
            if above_fd is not None and not self._calls.may(above_fd, os.W_OK | os.X_OK):
                raise FailedPreconditionError(
                    f"cannot deploy {model_id!r}: the host may not write to its place in {self._directory.path}; check "
                    "the mode and the owner"
                )
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise refusal_of_mount(folder) from error
            raise taken(model_id) if error.errno in TAKEN else refusal_of_place(error, model_id) from error
        finally:
            if above_fd is not None:
                os.close(above_fd)
        if not replace:
            if self._is_there(models_fd, model_id):
                raise taken(model_id)
        elif look(self._calls, models_fd, model_id) is not None:
            if trees.is_folder_of_models(self._calls, models_fd, model_id):
                raise FailedPreconditionError(
                    f"cannot replace {model_id!r}: it is no model but a folder with models in it; undeploy those first"
                )
            trees.check_removable(self._calls, models_fd, model_id)

    def _check_writable(self, models_fd: int, model_id: ModelId) -> None:
        """Refuse what this user may not move: its folder or the models directory is read-only."""
        above_fd = open_directory(self._calls, models_fd, model_id.rpartition("/")[0])
        try:
            if not all(self._calls.may(fd, os.W_OK | os.X_OK) for fd in (models_fd, above_fd)):
                raise FailedPreconditionError(
                    f"cannot remove {model_id!r}: the host may not write to its place in {self._directory.path}; check "
                    "the mode and the owner"
                )
        finally:
            os.close(above_fd)

    def _is_there(self, models_fd: int, model_id: ModelId) -> bool:
        """Say whether anything at all is at a model's place."""
        try:
            os.close(open_beneath(self._calls, models_fd, model_id, LOOK))
        except FileNotFoundError:
            return False
        return True


def _recover_entry(area: Area, journal: Journal) -> str:
    what = f"the interrupted {journal.operation.value} of {journal.model_id!r}"
    try:
        if journal.is_strange:
            return f"left the entry {journal.token} alone: this version does not understand it"
        if journal.state is State.OPEN:
            moves.undo(area, journal)
            return f"undid {what}"
        moves.clean(area, journal)
        return f"tidied up after {what}"
    finally:
        journal.close()


def _make_tree(area: Area, journal: Journal, names: Sequence[str], folders: Sequence[str]) -> int:
    """Make the tree of an upload with its folders, and open it. Raises OSError."""
    area.calls.mkdir(journal.token, area.staging_fd, DIRECTORY_MODE)
    tree_fd = area.calls.open(journal.token, DIRECTORY, at=area.staging_fd)
    try:
        for folder in sorted({folder for name in (*names, *folders) for folder in folders_of(name)} | set(folders)):
            above, _, name = folder.rpartition("/")
            above_fd = open_directory(area.calls, tree_fd, above)
            try:
                # On a file system that folds case two folders may be one; two files that are one are refused.
                with contextlib.suppress(FileExistsError):
                    area.calls.mkdir(name, above_fd, DIRECTORY_MODE)
            finally:
                os.close(above_fd)
    except BaseException:  # raised again
        os.close(tree_fd)
        raise
    return tree_fd


def _check_sizes(files: Sequence[tuple[str, int]]) -> None:
    for name, size_bytes in files:
        if not isinstance(size_bytes, int) or isinstance(size_bytes, bool) or not 0 <= size_bytes <= _MAX_FILE_BYTES:
            raise InvalidArgumentError(f"the size of {name!r} must be a number of bytes, got {size_bytes!r}")


def _nothing_there(model_id: str) -> NotFoundError:
    return NotFoundError(f"there is no model {model_id!r} in the models directory")
