"""Deploys: models with files that come through the host.

    STAGING -> UPLOADING (-> WAITING) -> INSTALLING -> LOADING -> CONFIRMING -> over
    from any of these, if it fails, is overtaken or given up:  (UNLOADING ->) UNDOING -> over

Rules
1. What is answered with success was confirmed on the disk before (with `wait` false: installed); what is answered with
   an error was undone before, unless `keep` was asked for and only the load failed, or the error says that files stay.
2. From the first move of files until the end nobody else begins a load of their id, or of one above or below it
   (`Registry.reserved`), so no load ever sees files on the move. A load of the id joins the deploy's own.
3. A deploy that replaces loads its model beside the one that serves, which goes only after the new files are confirmed.
4. Until its files are moved a deploy belongs to its client, and ends with it, or when nothing comes (`uploading`).
5. A model that is just being evicted, which nobody asked for, is replaced when it is gone. What uses it meanwhile comes
   first: then it is being loaded, and the deploy is refused as with any model that is.
6. A replacement that fails leaves an evicted model as it was: loaded again when it is used.
"""

from __future__ import annotations

import enum
from dataclasses import field
from typing import TYPE_CHECKING, cast

from hostd.core.effects import (
    ConfirmFiles,
    InstallFiles,
    StageFiles,
    TidyFiles,
    UndoFiles,
)
from hostd.core.events import Origin
from hostd.core.files.uploading import Uploads
from hostd.core.lifecycle import ModelState
from hostd.core.models import Cause
from hostd.core.names import model_id_of
from hostd.core.refusals import check_directory, check_nothing_inside, refusal_of
from hostd.core.standing import retries_of, standing_of
from hostd_workers.wire.errors import (
    AbortedError,
    AlreadyExistsError,
    HostError,
    UnavailableError,
)
from hostd_workers.wire.light_dataclass import dataclass

if TYPE_CHECKING:
    from hostd.core import events as ev
    from hostd.core.deadlines import UploadTimer
    from hostd.core.events import ClientId, FilesId, LoadSource, ModelId
    from hostd.core.files.pinning import Pinning
    from hostd.core.happenings import LoadEnded, UnloadEnded
    from hostd.core.loading import Loading
    from hostd.core.models import Evicted, Model
    from hostd.core.registry import Registry
    from hostd.core.standing import Standing
    from hostd.core.unloading import Unloading
    from hostd.core.values import Waiters


class Step(enum.Enum):
    """Where a deploy is."""

    STAGING = "STAGING"
    UPLOADING = "UPLOADING"
    WAITING = "WAITING"
    INSTALLING = "INSTALLING"
    LOADING = "LOADING"
    CONFIRMING = "CONFIRMING"
    UNDOING = "UNDOING"
    UNLOADING = "UNLOADING"


_NOTHING_INSTALLED = (Step.STAGING, Step.UPLOADING, Step.WAITING)


@dataclass(eq=False)
class Deploy:
    """Files on their way in."""

    id: FilesId
    client: ClientId
    model_id: ModelId
    source: LoadSource
    retries: int
    replace: bool
    keep: bool
    wait: bool
    standing: Standing
    step: Step = Step.STAGING
    waiters: Waiters = field(default_factory=dict)
    abort_waiters: Waiters = field(default_factory=dict)
    model: Model | None = None
    error: HostError | None = None
    is_reserving: bool = False
    evicted: Evicted | None = None
    """What it replaces, if that was evicted; None once somebody wants that gone."""

    def __repr__(self) -> str:
        return f"<Deploy {self.id} of {self.model_id} {self.step.value}>"


class Deploying:
    """The decisions about deploys and undeploys."""

    def __init__(self, registry: Registry, loading: Loading, unloading: Unloading, pinning: Pinning) -> None:
        self._registry = registry
        self._loading = loading
        self._unloading = unloading
        self._pinning = pinning
        self.deploys: dict[FilesId, Deploy] = {}
        self.uploads = Uploads(registry)

    # Deploys: what clients ask

    def deploy(self, event: ev.DeployRequested) -> None:
        """Make a place for files that will come. Raises `HostError` to refuse."""
        registry = self._registry
        self._loading.refuse_if_stopping()
        check_directory(registry)
        model_id = model_id_of(event.model_id)
        retries = retries_of(event.retries, registry.config.load_retries)
        self._check_not_taken(model_id, replace=event.replace)
        idle = self.uploads.to_end_for(event.caller.client)
        if idle is not None:
            self._end_idle(self.deploys[idle], "and another client wanted its place")
        deploy = Deploy(
            registry.new_files_id(),
            event.caller.client,
            model_id,
            event.source,
            retries,
            replace=event.replace,
            keep=event.keep,
            wait=event.wait,
            standing=standing_of(event.source, event.retries, event.labels),
        )
        self.deploys[deploy.id] = deploy
        self.uploads.take(deploy.id, deploy.client)
        registry.waiting.add(deploy.waiters, event.caller, None)
        to_come = (event.files, event.replace, event.folders, event.executables)
        registry.effects.append(StageFiles(deploy.id, deploy.client, model_id, *to_come))

    def commit(self, event: ev.DeployCommitRequested) -> None:
        """Put the files in their place, and load. Raises `HostError` to refuse."""
        deploy = self._of_client(event.caller.client, event.files_id, Step.UPLOADING)
        self._registry.waiting.add(deploy.waiters, event.caller, event.deadline_s)
        self.uploads.go_on(deploy.id)
        self._install(deploy)

    def _install(self, deploy: Deploy) -> None:
        """Put files that are all there in their place, now or when an evicted model has gone from it."""
        try:
            self._loading.refuse_if_stopping()
            self._check_not_taken(deploy.model_id, replace=deploy.replace)
            self._loading.check_free(deploy.model_id)
            check_nothing_inside(self._registry, deploy.model_id, "undeploy those first, or use another id")
        except HostError as error:
            self._undo(deploy, error)
            return
        if self._is_unloading(deploy.model_id):
            deploy.step = Step.WAITING
            return
        replaced = self._registry.models.get(deploy.model_id)
        deploy.evicted = self._registry.evicted.get(deploy.model_id)
        earlier = replaced or deploy.evicted
        if earlier is not None:  # pins and labels are of the id, and stay
            labels = earlier.labels if deploy.standing.labels is None else deploy.standing.labels
            deploy.standing = deploy.standing._replace(is_pinned=earlier.is_pinned, labels=labels)
        self._reserve(deploy, "it is being deployed")
        deploy.step = Step.INSTALLING
        self._registry.effects.append(InstallFiles(deploy.id, deploy.standing))

    def abort(self, event: ev.DeployAbortRequested) -> None:
        """Give a deploy up before its files are moved. Raises `HostError` to refuse."""
        deploy = self._of_client(event.caller.client, event.files_id, Step.UPLOADING, Step.WAITING)
        self._registry.waiting.add(deploy.abort_waiters, event.caller, None)
        self._undo(deploy, AbortedError("the deploy was given up by its client"))

    def lose_client(self, client: ClientId) -> None:
        """Undo the deploys of a client that have not moved files yet."""
        for deploy in list(self.deploys.values()):
            if deploy.client == client and deploy.step in _NOTHING_INSTALLED:
                self._undo(deploy, UnavailableError("the client is gone"))

    def written(self, event: ev.FilesWritten) -> None:
        """Note that an upload goes on."""
        self.uploads.written(event.files_id)

    def expire(self, key: UploadTimer) -> None:
        """End an upload for which nothing has come for too long."""
        if self.uploads.is_too_idle(key.files_id):
            self._end_idle(self.deploys[key.files_id], "which is as long as a deploy may rest")

    def stop(self) -> None:
        """Undo those that have not moved files yet; the rest follows from the unloads of a shutdown."""
        for deploy in list(self.deploys.values()):
            if deploy.step in _NOTHING_INSTALLED:
                self._undo(deploy, AbortedError("the host is shutting down"))

    # Deploys: what became of it

    def staged(self, event: ev.FilesStaged) -> None:
        """Tell the client that it may send."""
        deploy = self.deploys[event.files_id]
        if deploy.step is not Step.STAGING:
            return
        if not deploy.waiters:  # its client has given up, and no other knows the id
            self._undo(deploy, AbortedError("the deploy was given up by its client"))
            return
        deploy.step = Step.UPLOADING
        self.uploads.wait(deploy.id)
        self._registry.waiting.answer(deploy.waiters, {"upload": deploy.id})

    def installed(self, event: ev.FilesInstalled) -> None:
        """Load what is in its place now."""
        deploy, registry = self.deploys[event.files_id], self._registry
        source = deploy.source._replace(path=event.path)
        try:
            self._loading.refuse_if_stopping()
            serving = registry.intact(deploy.model_id)
            if serving is None:
                load = self._loading.begin(deploy.model_id, source, Origin.DEPLOYED, deploy.retries)
                if deploy.evicted is not None:
                    load.cause = Cause.ON_USE  # calls of what it replaces wait for it
            elif serving.is_serving:
                load = self._loading.begin_successor(deploy.model_id, source, deploy.retries)
            else:
                raise refusal_of(serving)
        except HostError as error:
            self._undo(deploy, error)
            return
        deploy.model = load.model
        deploy.model.standing = deploy.standing._replace(is_kept=True)
        deploy.model.labels = deploy.standing.labels
        deploy.step = Step.LOADING
        if not deploy.wait:
            registry.waiting.answer(deploy.waiters, registry.describe(deploy.model))

    def confirmed(self, event: ev.FilesConfirmed) -> None:
        """Answer the client: the model is there to stay."""
        deploy, registry = self.deploys[event.files_id], self._registry
        self._release(deploy)
        model, error = cast("Model", deploy.model), deploy.error  # confirmed is only what was loaded before
        if registry.successors.get(deploy.model_id) is model:
            if model.state is ModelState.READY:
                self._unloading.replace(model)
            else:
                ended = model.reason
                self._unloading.give_up(model, ended)
                error = error or AbortedError(f"the new model ended ({ended}): the earlier one serves, its files stay")
        if error is None and not model.is_serving:
            reason = f" ({model.reason})" if model.reason else ""
            error = AbortedError(f"the deployed model is {model.state.value}{reason}; its files stay")
        if error is not None:
            registry.waiting.refuse(deploy.waiters, error)
        else:
            registry.waiting.answer(deploy.waiters, registry.describe(model))
        registry.effects.append(TidyFiles(deploy.id))
        self._forget_deploy(deploy)

    def undone(self, event: ev.FilesUndone) -> None:
        """Answer the client: nothing is left but the reason."""
        deploy = self.deploys[event.files_id]
        error = deploy.error or AbortedError("the deploy was undone")
        if event.error is not None:
            error = type(error)(f"{error.message}; and undoing it failed: {event.error.message}", details=error.details)
        self._release(deploy)
        self._registry.waiting.refuse(deploy.waiters, error)
        if event.error is None and deploy.evicted is not None and deploy.model_id not in self._registry.models:
            self._registry.evicted.setdefault(deploy.model_id, deploy.evicted)
        if event.error is None:
            self._registry.waiting.answer(deploy.abort_waiters, None)
        else:
            self._registry.waiting.refuse(deploy.abort_waiters, error)
        self._forget_deploy(deploy)

    def failed(self, event: ev.FilesFailed) -> None:
        """End a deploy after a step that could not be done."""
        deploy = self.deploys[event.files_id]
        if deploy.step is Step.UNDOING:
            return  # given up meanwhile; FilesUndone follows
        model = deploy.model
        if deploy.step is Step.CONFIRMING and model is not None and self._registry.models.get(model.id) is model:
            deploy.error = event.error
            deploy.step = Step.UNLOADING
            self._unloading.begin(model, f"its files could not be made to last: {event.error.message}")
            return
        if model is not None and self._registry.successors.get(model.id) is model:
            self._unloading.give_up(model, event.error.message)
        self._undo(deploy, event.error)

    def problems(self) -> list[str]:
        """Return what is wrong with these books; a question for `check_invariants`."""
        reserved = self._registry.reserved
        return (
            self.uploads.problems()
            + [
                f"{deploy!r} reserves what is not reserved"
                for deploy in self.deploys.values()
                if deploy.is_reserving and deploy.model_id not in reserved
            ]
            + [
                f"{deploy!r} waits for the end of a model that does not end"
                for deploy in self.deploys.values()
                if deploy.step is Step.WAITING and not self._is_unloading(deploy.model_id)
            ]
        )

    # What becomes of models

    def load_ended(self, what: LoadEnded) -> None:
        """Confirm the files of a model that serves, and undo those of one that does not."""
        model, error = what.model, what.error
        deploy = next((d for d in self.deploys.values() if d.model is model and d.step is Step.LOADING), None)
        if deploy is None:
            return
        deploy.error = error
        if error is None or (deploy.keep and model.state is ModelState.FAILED):
            deploy.step = Step.CONFIRMING
            self._registry.effects.append(ConfirmFiles(deploy.id))
        elif what.is_overtaken:
            deploy.step = Step.UNLOADING  # overtaken: the worker may read the files until it is gone
            deploy.evicted = None
        else:
            self._undo(deploy, error)

    def unload_ended(self, what: UnloadEnded) -> None:
        """Go on with deploys that waited until a model's processes were gone."""
        model = what.unload.model
        for deploy in list(self.deploys.values()):
            if deploy.model is model and deploy.step is Step.UNLOADING:
                self._undo(deploy, deploy.error or AbortedError("the model was unloaded"))
            elif deploy.model_id == model.id and deploy.step is Step.WAITING:
                self._install(deploy)

    # Steps

    def _end_idle(self, deploy: Deploy, why: str) -> None:
        self._undo(deploy, self.uploads.end(deploy.id, why))

    def _undo(self, deploy: Deploy, error: HostError) -> None:
        self.uploads.go_on(deploy.id)
        if deploy.step not in _NOTHING_INSTALLED:
            self._reserve(deploy, "its deploy is being undone")
        deploy.error = error
        deploy.step = Step.UNDOING
        self._registry.effects.append(UndoFiles(deploy.id))

    def _reserve(self, deploy: Deploy, reason: str) -> None:
        deploy.is_reserving = True
        self._registry.reserve(deploy.model_id, reason)

    def _release(self, deploy: Deploy) -> None:
        if deploy.is_reserving:
            deploy.is_reserving = False
            self._registry.release(deploy.model_id)

    def _forget_deploy(self, deploy: Deploy) -> None:
        del self.deploys[deploy.id]
        self.uploads.give_back(deploy.id)
        self._registry.files_in_work.discard(deploy.id)
        self._pinning.files_rest(deploy.model_id)

    def _of_client(self, client: ClientId, files_id: FilesId, *steps: Step) -> Deploy:
        deploy = self.deploys.get(files_id)
        if deploy is None or deploy.client != client or deploy.step not in steps:
            raise self.uploads.absence_of(files_id, client)
        return deploy

    def _is_unloading(self, model_id: ModelId) -> bool:
        model = self._registry.models.get(model_id)
        return model is not None and model.unload is not None

    def _check_not_taken(self, model_id: ModelId, *, replace: bool) -> None:
        model = self._registry.intact(model_id)
        if model is None:
            return
        if not replace:
            raise AlreadyExistsError(
                f"model {model_id!r} is loaded: undeploy it first, or deploy with --replace (replace=True)",
                details={"model_id": model_id},
            )
        is_making_room = model.unload is not None and model.unload.eviction
        if not model.is_serving and not is_making_room:
            raise refusal_of(model)
