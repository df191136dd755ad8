"""The disk on paper: deploys, undeploys and scans as the core orders them, done one step after the other.

Asserts what no order may say: two operations with the files of one id at a time, files moved under a load or under a
living process that is not told to end, a step before the one that it builds on. Which caller must be answered what is asserted
by `Outside`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hostd.core import effects as fx
from hostd.core import events as ev

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostd_workers.wire.errors import HostError


@dataclass(eq=False)
class Operation:
    """A deploy (with what was `requested`) or an undeploy: steps that were ordered, and what the disk has seen."""

    id: ev.FilesId
    model_id: ev.ModelId
    requested: ev.DeployRequested | None
    pending: deque[fx.Effect] = field(default_factory=deque)
    ordered: list[type] = field(default_factory=list)
    is_staged: bool = False
    is_installed: bool = False
    is_confirmed: bool = False
    is_checked: bool = False
    is_removed: bool = False
    is_over: bool = False

    def has_files(self) -> bool:
        """Say whether nobody else may touch the files of this id."""
        return not self.is_over and (fx.InstallFiles in self.ordered or self.requested is None)

    def is_moving(self) -> bool:
        """Say whether files of this id change their place at this moment; an undo before the installation moves none."""
        is_undone = fx.InstallFiles in self.ordered
        return any(
            isinstance(effect, (fx.InstallFiles, fx.RemoveFiles)) or (is_undone and isinstance(effect, fx.UndoFiles))
            for effect in self.pending
        )


class FilesOnPaper:
    """The operations on files, by id, and the scans of the models directory."""

    def __init__(self) -> None:
        self.operations: dict[ev.FilesId, Operation] = {}
        self.tidied: list[ev.FilesId] = []
        self.scan: fx.ScanDirectory | None = None
        self.noted: list[ev.ModelId] = []
        self.remembered: list[fx.RememberSize] = []

    def in_work(self) -> list[Operation]:
        return [operation for operation in self.operations.values() if not operation.is_over]

    def moved_with(self, model_id: str) -> list[Operation]:
        """Return the operations that move files of this id just now, or of a folder that it is in."""
        return [op for op in self.in_work() if op.is_moving() and is_in(model_id, op.model_id)]

    # Orders

    def order(self, effect: fx.Effect, cause: ev.Event) -> Operation | None:
        """Take an order of the core; return the operation that moves files from now on, if any."""
        match effect:
            case fx.StageFiles(files_id, _, model_id):
                assert isinstance(cause, ev.DeployRequested)
                self._begin(Operation(files_id, model_id, cause), effect)
            case fx.CheckFiles(files_id, model_id):
                self._assert_free(model_id, None)
                self._begin(Operation(files_id, model_id, None), effect)
            case fx.InstallFiles(files_id):
                operation = self._idle(files_id)
                assert operation.is_staged
                assert fx.InstallFiles not in operation.ordered
                self._assert_free(operation.model_id, operation)
                self._append(operation, effect)
                return operation
            case fx.ConfirmFiles(files_id):
                operation = self._idle(files_id)
                assert operation.is_installed
                assert fx.ConfirmFiles not in operation.ordered
                self._append(operation, effect)
            case fx.UndoFiles(files_id):
                operation = self._of(files_id)
                assert operation.requested is not None
                assert not operation.is_confirmed, f"{operation} is undone after it was made to last"
                assert fx.UndoFiles not in operation.ordered, f"{operation} is undone twice"
                self._append(operation, effect)
                return operation if fx.InstallFiles in operation.ordered else None
            case fx.RemoveFiles(files_id, model_id):
                operation = self._idle(files_id)
                assert operation.is_checked
                assert operation.model_id == model_id
                self._append(operation, effect)
                return operation
            case fx.TidyFiles(files_id):
                operation = self._idle(files_id)
                assert operation.is_confirmed or operation.is_removed
                operation.is_over = True
                self.tidied.append(files_id)
        return None

    def order_scan(self, effect: fx.ScanDirectory) -> None:
        assert self.scan is None, "two scans at a time"
        self.scan = effect

    # What becomes of them

    def next_event(self, operation: Operation, error: HostError | None = None) -> ev.Event:
        """Do the next step of an operation, well or badly, and return the event that says so."""
        effect = operation.pending.popleft()
        files_id = operation.id
        if isinstance(effect, fx.UndoFiles):
            operation.is_over = True
            return ev.FilesUndone(files_id, error)
        if error is not None:
            operation.is_over = operation.requested is None
            return ev.FilesFailed(files_id, error)
        done, event_of = _STEPS[type(effect)]
        setattr(operation, done, True)
        return event_of(operation)

    def _begin(self, operation: Operation, effect: fx.Effect) -> None:
        assert operation.id not in self.operations, "an id of an operation was used again"
        self.operations[operation.id] = operation
        self._append(operation, effect)

    def _append(self, operation: Operation, effect: fx.Effect) -> None:
        operation.pending.append(effect)
        operation.ordered.append(type(effect))

    def _of(self, files_id: ev.FilesId) -> Operation:
        operation = self.operations[files_id]
        assert not operation.is_over, f"{operation} is over"
        return operation

    def _idle(self, files_id: ev.FilesId) -> Operation:
        operation = self._of(files_id)
        assert not operation.pending, f"{operation} is not done with what it was told before"
        return operation

    def _assert_free(self, model_id: str, own: Operation | None) -> None:
        others = [op for op in self.in_work() if op is not own and op.has_files() and _overlap(op.model_id, model_id)]
        assert not others, f"the files of {model_id} are in the hands of {others}"


def path_of(model_id: str) -> str:
    """Return where a deploy puts the files of an id."""
    return f"/models/{model_id}"


_STEPS: dict[type, tuple[str, Callable[[Operation], ev.Event]]] = {
    fx.StageFiles: ("is_staged", lambda op: ev.FilesStaged(op.id)),
    fx.InstallFiles: ("is_installed", lambda op: ev.FilesInstalled(op.id, path_of(op.model_id))),
    fx.ConfirmFiles: ("is_confirmed", lambda op: ev.FilesConfirmed(op.id)),
    fx.CheckFiles: ("is_checked", lambda op: ev.FilesChecked(op.id)),
    fx.RemoveFiles: ("is_removed", lambda op: ev.FilesRemoved(op.id)),
}


def is_in(model_id: str, folder: str) -> bool:
    """Say whether the files of an id are those of another, or lie among them."""
    return model_id == folder or model_id.startswith(f"{folder}/")


def _overlap(one: str, other: str) -> bool:
    return is_in(one, other) or is_in(other, one)
