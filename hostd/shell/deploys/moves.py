"""What a deploy and an undeploy move, and how it is undone: each a few renames, noted in the journal before.

Each tree is always whole and at one place, and which tree is which is told by the new one's inode. So `undo` and
`clean` look at what there is and take it from there: they may be killed, and repeated, at any point. What somebody else
put at a model's place meanwhile stays there.

Covers the order of steps. Single moves are in `area`, and the rules of a deploy and an undeploy in `staging`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

from hostd.core.names import folders_of
from hostd.shell.deploys.area import MAX_TRIES
from hostd.shell.deploys.journal import SPARE, Operation, State
from hostd.shell.deploys.trees import open_up, remove_tree
from hostd.shell.linux.syscalls import LOOK

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostd.core.events import ModelId
    from hostd.shell.deploys.area import Area
    from hostd.shell.deploys.journal import Journal


def install(area: Area, journal: Journal, model_id: ModelId, *, replace: bool) -> None:
    """Put an entry's new tree into its place. Raises OSError: EEXIST if that is taken."""
    base = model_id.rpartition("/")[2]

    def put_there() -> None:
        area.make_folders(journal, model_id)
        with area.folder_of(model_id) as folder_fd:
            there = area.calls.lstat(base, folder_fd) if replace else None
            if there is None:
                area.put(journal, journal.token, folder_fd, base)
            else:
                _open_up(area, journal, folder_fd, base, there)
                area.exchange(journal.token, journal.token + SPARE, folder_fd, base)
            area.calls.fsync_directory(folder_fd)

    # What was there a moment ago may be gone, and what was not may be there.
    _repeated(put_there, {errno.ENOENT, errno.EEXIST} if replace else {errno.ENOENT})
    area.calls.fsync_directory(area.staging_fd)


def take_out(area: Area, journal: Journal, model_id: ModelId) -> None:
    """Move a model into the staging area. Raises OSError: ENOENT if it is gone."""
    base = model_id.rpartition("/")[2]
    with area.folder_of(model_id) as folder_fd:
        there = area.calls.lstat(base, folder_fd)
        if there is not None:
            _open_up(area, journal, folder_fd, base, there)
        area.calls.rename(base, folder_fd, journal.token, area.staging_fd)
        area.calls.fsync_directory(folder_fd)
    area.calls.fsync_directory(area.staging_fd)


def undo(area: Area, journal: Journal) -> None:
    """Bring back what was there before an operation that is not confirmed, and leave nothing of it.

    Raises OSError, after which it may be repeated.
    """
    if journal.is_visible and journal.model_id is not None:
        _restore(area, journal, journal.model_id)
        journal.mark(State.UNDONE)
    clean(area, journal)


def clean(area: Area, journal: Journal) -> None:
    """Remove what an operation that is over has left, and its entry. Raises OSError, and may be repeated."""
    for name in area.trees_of(journal):
        remove_tree(area.calls, area.staging_fd, name)
    is_removal = journal.operation is Operation.UNDEPLOY and journal.state is State.CONFIRMED
    if is_removal and journal.model_id is not None:
        area.remove_folders(folders_of(journal.model_id))
    journal.remove()


def _restore(area: Area, journal: Journal, model_id: ModelId) -> None:
    base = model_id.rpartition("/")[2]
    old = next((name for name, found in area.trees_of(journal).items() if found.st_ino != journal.tree_inode), None)

    def put_back() -> None:
        if old is not None:
            area.make_folders(journal, model_id)
        with area.folder_of(model_id) as folder_fd:
            _restore_in(area, journal, folder_fd, base, old)
            area.calls.fsync_directory(folder_fd)
        area.calls.fsync_directory(area.staging_fd)

    if old is not None:
        _repeated(put_back, {errno.ENOENT})
    else:
        # Without the folder, the model's place is as empty as it was.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            put_back()
    if journal.first_made is not None:
        area.remove_folders(folders_of(model_id)[journal.first_made :])


def _restore_in(area: Area, journal: Journal, folder_fd: int, base: str, old: str | None) -> None:
    there = area.calls.lstat(base, folder_fd)
    is_new = there is not None and _is_tree(area, journal, there)
    if there is not None and not is_new and journal.has_placeholder and area.trees_of(journal):
        # Only an empty one goes: anything else is another's model by now.
        with contextlib.suppress(OSError):
            area.calls.rmdir(base, folder_fd)
            there = None
    free = journal.token + SPARE if old == journal.token else journal.token
    if is_new and old is not None:
        area.exchange(old, free, folder_fd, base)
    elif is_new:
        area.calls.rename(base, folder_fd, free, area.staging_fd)
    elif old is not None and there is None:
        area.put(journal, old, folder_fd, base)
    _close_again(area, journal, folder_fd, base)


def _is_tree(area: Area, journal: Journal, there: os.stat_result) -> bool:
    return there.st_ino == journal.tree_inode and there.st_dev == area.calls.fstat(area.staging_fd).st_dev


def _open_up(area: Area, journal: Journal, folder_fd: int, base: str, there: os.stat_result) -> None:
    """Make a directory movable: a rename into another one writes to the directory itself (its "..")."""
    if not stat.S_ISDIR(there.st_mode) or there.st_mode & stat.S_IWUSR or there.st_uid != os.geteuid():
        return
    journal.note(opened_up=[there.st_ino, stat.S_IMODE(there.st_mode)])
    _looked_at(area, folder_fd, base, lambda fd: open_up(area.calls, fd))


def _close_again(area: Area, journal: Journal, folder_fd: int, base: str) -> None:
    if journal.closed_mode is None:
        return
    inode, mode = journal.closed_mode
    there = area.calls.lstat(base, folder_fd)
    if there is not None and there.st_ino == inode:
        _looked_at(area, folder_fd, base, lambda fd: area.calls.chmod(fd, mode))


def _looked_at(area: Area, at: int, name: str, act: Callable[[int], None]) -> None:
    fd = area.calls.open(name, LOOK, at=at)
    try:
        act(fd)
    finally:
        os.close(fd)


def _repeated(act: Callable[[], None], again: set[int]) -> None:
    for _ in range(MAX_TRIES - 1):
        try:
            act()
        except OSError as error:  # noqa: PERF203 - that is what is repeated
            if error.errno not in again:
                raise
        else:
            return
    act()
