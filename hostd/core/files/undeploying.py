"""Undeploys: models with files that go through the host.

    CHECKING -> UNLOADING -> REMOVING -> over

Rules
1. Nothing is unloaded before it is known that there are files to remove.
2. Files are removed when no process of the model is left, and the answer comes when they are gone for good.
3. From the request to the answer nobody loads the id.
"""

from __future__ import annotations

import enum
from dataclasses import field
from typing import TYPE_CHECKING

from hostd.core.effects import CheckFiles, RemoveFiles, TidyFiles
from hostd.core.names import model_id_of
from hostd.core.refusals import check_directory, check_nothing_inside
from hostd.records import UnloadReport
from hostd_workers.wire.light_dataclass import dataclass

if TYPE_CHECKING:
    from hostd.core import events as ev
    from hostd.core.events import FilesId, ModelId
    from hostd.core.files.pinning import Pinning
    from hostd.core.happenings import UnloadEnded
    from hostd.core.loading import Loading
    from hostd.core.registry import Registry
    from hostd.core.unloading import Unloading
    from hostd.core.values import Waiters


class Step(enum.Enum):
    """Where an undeploy is."""

    CHECKING = "CHECKING"
    UNLOADING = "UNLOADING"
    REMOVING = "REMOVING"


@dataclass(eq=False)
class Undeploy:
    """Files on their way out."""

    id: FilesId
    model_id: ModelId
    step: Step = Step.CHECKING
    waiters: Waiters = field(default_factory=dict)
    report: UnloadReport | None = None

    def __repr__(self) -> str:
        return f"<Undeploy {self.id} of {self.model_id} {self.step.value}>"


class Undeploying:
    """The decisions about undeploys."""

    def __init__(self, registry: Registry, loading: Loading, unloading: Unloading, pinning: Pinning) -> None:
        self._registry = registry
        self._loading = loading
        self._unloading = unloading
        self._pinning = pinning
        self.undeploys: dict[FilesId, Undeploy] = {}

    def undeploy(self, event: ev.UndeployRequested) -> None:
        """Unload a model and remove its files. Raises `HostError` to refuse."""
        registry = self._registry
        self._loading.refuse_if_stopping()
        check_directory(registry)
        model_id = model_id_of(event.model_id)
        self._loading.check_free(model_id)
        check_nothing_inside(registry, model_id, "undeploy those first")
        undeploy = Undeploy(registry.new_files_id(), model_id)
        self.undeploys[undeploy.id] = undeploy
        registry.reserve(model_id, "it is being undeployed")
        registry.waiting.add(undeploy.waiters, event.caller, event.deadline_s)
        registry.effects.append(CheckFiles(undeploy.id, model_id))

    def checked(self, event: ev.FilesChecked) -> None:
        """Unload what is loaded, now that there is something to remove."""
        undeploy = self.undeploys[event.files_id]
        self._registry.evicted.pop(undeploy.model_id, None)
        model = self._registry.models.get(undeploy.model_id)
        if model is None:
            self._registry.totals.pop(undeploy.model_id, None)
            self._remove(undeploy)
        else:
            undeploy.step = Step.UNLOADING
            self._unloading.begin(model, "undeploy requested")

    def removed(self, event: ev.FilesRemoved) -> None:
        """Answer the client: model and files are gone."""
        undeploy = self.undeploys[event.files_id]
        self._registry.waiting.answer(undeploy.waiters, undeploy.report or UnloadReport(undeploy.model_id))
        self._registry.effects.append(TidyFiles(undeploy.id))
        self._forget(undeploy)

    def failed(self, event: ev.FilesFailed) -> None:
        """Answer the client that the files stay."""
        undeploy = self.undeploys[event.files_id]
        self._registry.waiting.refuse(undeploy.waiters, event.error)
        self._forget(undeploy)

    def problems(self) -> list[str]:
        """Return what is wrong with these books; a question for `check_invariants`."""
        reserved = self._registry.reserved
        return [f"{u!r} reserves nothing" for u in self.undeploys.values() if u.model_id not in reserved]

    def unload_ended(self, what: UnloadEnded) -> None:
        """Remove the files that nothing uses any more."""
        for undeploy in list(self.undeploys.values()):
            if undeploy.model_id == what.unload.model.id and undeploy.step is Step.UNLOADING:
                undeploy.report = what.report
                self._remove(undeploy)

    def _remove(self, undeploy: Undeploy) -> None:
        undeploy.step = Step.REMOVING
        self._registry.effects.append(RemoveFiles(undeploy.id, undeploy.model_id))

    def _forget(self, undeploy: Undeploy) -> None:
        registry = self._registry
        registry.release(undeploy.model_id)
        del self.undeploys[undeploy.id]
        registry.files_in_work.discard(undeploy.id)
        self._pinning.files_rest(undeploy.model_id)
