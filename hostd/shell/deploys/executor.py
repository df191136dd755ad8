"""Files of models on their way in and out: the core's deploys and undeploys, carried out in threads.

Covers the order of the steps of one operation, the chunks of an upload and their bound. What a step does to the disk,
and how it survives a kill, is in `staging`.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.shell.supervisor import as_host_error
from hostd.shell.turns import Turns
from hostd.units import counted
from hostd_workers.wire.errors import FailedPreconditionError, HostError, ResourceExhaustedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostd.shell.deploys.staging import Removal, Staging, Upload
    from hostd.shell.supervisor import Supervisor
    from hostd.shell.verbs import Request

_log = logging.getLogger(__name__)

FILE_THREADS = 4
"""Deploys and undeploys that use the disk at the same time; those of one client in two at most, because what is flushed
may take minutes."""

MAX_UNWRITTEN_BYTES = 8 << 20
"""Chunks of one upload that wait for the disk: twice what our clients have under way, and a bound on what a client that
does not wait for answers can make the host hold."""

MAX_UNWRITTEN_CHUNKS = 1024
"""The same in number: each costs 3 KiB besides its data (a request and a task), so empty ones are not free."""


@dataclass(eq=False)
class Operation:
    """A deploy or an undeploy. Its steps run one after the other, in the order in which they were asked for."""

    client: ev.ClientId | None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    upload: Upload | None = None
    removal: Removal | None = None
    unwritten_bytes: int = 0
    unwritten_chunks: int = 0


class Files:
    """Carries out what the core wants done with files. `staging` is None for a host without a models directory."""

    def __init__(self, supervisor: Supervisor, staging: Staging | None) -> None:
        self._supervisor = supervisor
        self._staging = staging
        self._threads = Turns(FILE_THREADS, "hostd-files")
        self._operations: dict[ev.FilesId, Operation] = {}
        self._pins = Operation(None)
        """All of them, one after the other: the last that was asked for stays."""
        self._tasks: set[asyncio.Task[None]] = set()

    def handlers(self) -> dict[type, Callable[[Any], object]]:
        """Return who carries out which effect."""
        return {
            fx.StageFiles: self._stage,
            fx.InstallFiles: self._install,
            fx.ConfirmFiles: self._confirm,
            fx.UndoFiles: self._undo,
            fx.CheckFiles: self._check,
            fx.RemoveFiles: self._remove,
            fx.TidyFiles: self._tidy,
            fx.KeepPin: self._keep_pin,
        }

    async def finish(self) -> None:
        """Wait until everything that was begun is done, and end the threads."""
        await asyncio.gather(*self._tasks)
        self._threads.shutdown(wait=True)

    def write(self, request: Request) -> None:
        """Write a chunk of an upload (the verb `deploy_write`); the answer says that it is written."""
        request.only("upload", "file", "offset", "data")
        files_id = ev.FilesId(request.get("upload", int))
        index, offset, data = request.get("file", int), request.get("offset", int), request.get("data", bytes)
        operation = self._operations.get(files_id)
        upload = None if operation is None else operation.upload
        if operation is None or upload is None or operation.client != request.caller.client:
            raise self._supervisor.core.queries.absence_of_upload(files_id, request.caller.client)
        is_too_much = operation.unwritten_bytes + len(data) > MAX_UNWRITTEN_BYTES
        if is_too_much or operation.unwritten_chunks >= MAX_UNWRITTEN_CHUNKS:
            raise ResourceExhaustedError(
                f"{operation.unwritten_bytes} bytes of this upload, in {counted(operation.unwritten_chunks, 'chunk')}, "
                f"are not written yet; at most {MAX_UNWRITTEN_BYTES} in {MAX_UNWRITTEN_CHUNKS} may be: wait for "
                "answers before sending more"
            )
        operation.unwritten_bytes += len(data)
        operation.unwritten_chunks += 1
        self._supervisor.emit(ev.FilesWritten(files_id))

        def then(error: HostError | None) -> None:
            operation.unwritten_bytes -= len(data)
            operation.unwritten_chunks -= 1
            self._supervisor.emit(ev.FilesWritten(files_id))  # a slow disk is not an idle client
            frontend = self._supervisor.frontend
            if error is None:
                frontend.answer(request.caller, None)
            else:
                frontend.refuse(request.caller, error)

        self._begin(operation, lambda: upload.write(index, offset, data), lambda _, error: then(error))

    # The core's effects

    def _stage(self, effect: fx.StageFiles) -> None:
        operation = self._operations[effect.files_id] = Operation(effect.client)
        staging = self._staging

        def stage() -> None:
            if staging is None:
                raise FailedPreconditionError("this host has no models directory")
            operation.upload = staging.begin(
                effect.model_id,
                effect.files,
                replace=effect.replace,
                folders=effect.folders,
                executables=effect.executables,
            )

        self._step(effect.files_id, stage, lambda _: ev.FilesStaged(effect.files_id))

    def _install(self, effect: fx.InstallFiles) -> None:
        operation = self._operations[effect.files_id]

        self._step(
            effect.files_id,
            lambda: str(_of(operation.upload).install(effect.standing)),
            lambda path: ev.FilesInstalled(effect.files_id, path),
        )

    def _confirm(self, effect: fx.ConfirmFiles) -> None:
        operation = self._operations[effect.files_id]
        self._step(
            effect.files_id,
            lambda: _of(operation.upload).confirm(),
            lambda _: ev.FilesConfirmed(effect.files_id),
        )

    def _undo(self, effect: fx.UndoFiles) -> None:
        operation = self._operations.pop(effect.files_id)

        def undo() -> None:
            if operation.upload is not None:
                operation.upload.roll_back()

        def then(_: object, error: HostError | None) -> None:
            if error is not None:
                _log.error("a deploy could not be undone; the next start of a host here will: %s", error)
            self._supervisor.emit_later(ev.FilesUndone(effect.files_id, error))

        self._begin(operation, undo, then)

    def _check(self, effect: fx.CheckFiles) -> None:
        self._operations[effect.files_id] = Operation(None)
        self._step(
            effect.files_id,
            lambda: _of(self._staging).check(effect.model_id),
            lambda _: ev.FilesChecked(effect.files_id),
        )

    def _remove(self, effect: fx.RemoveFiles) -> None:
        operation = self._operations[effect.files_id]

        def remove() -> None:
            removal = _of(self._staging).remove(effect.model_id)
            try:
                removal.confirm()
            except HostError:
                removal.roll_back()
                raise
            operation.removal = removal

        self._step(effect.files_id, remove, lambda _: ev.FilesRemoved(effect.files_id))

    def _tidy(self, effect: fx.TidyFiles) -> None:
        operation = self._operations.pop(effect.files_id)

        def tidy() -> None:
            for done in (operation.upload, operation.removal):
                if done is not None:
                    done.clean()

        def then(_: object, error: HostError | None) -> None:
            if error is not None:
                _log.warning("what a deploy replaced or an undeploy removed is still in staging: %s", error)

        self._begin(operation, tidy, then)

    def _keep_pin(self, effect: fx.KeepPin) -> None:
        def then(_: object, error: HostError | None) -> None:
            self._supervisor.emit_later(ev.PinKept(effect.files_id, error))

        self._begin(self._pins, lambda: _of(self._staging).keep_pin(effect.model_id, is_pinned=effect.is_pinned), then)

    # Threads

    def _step(self, files_id: ev.FilesId, work: Callable[[], Any], event_of: Callable[[Any], ev.Event]) -> None:
        """Do the next step of an operation and tell the core what became of it."""
        operation = self._operations[files_id]

        def then(result: Any, error: HostError | None) -> None:
            if error is not None and operation.client is None:
                self._operations.pop(files_id, None)  # an undeploy ends with its first error
            self._supervisor.emit_later(event_of(result) if error is None else ev.FilesFailed(files_id, error))

        self._begin(operation, work, then)

    def _begin(
        self, operation: Operation, work: Callable[[], Any], then: Callable[[Any, HostError | None], None]
    ) -> None:
        task = asyncio.get_running_loop().create_task(self._run(operation, work, then))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(
        self, operation: Operation, work: Callable[[], Any], then: Callable[[Any, HostError | None], None]
    ) -> None:
        async with operation.lock:  # first come, first served
            owner = "host" if operation.client is None else f"client {operation.client.hex()}"
            future = asyncio.wrap_future(self._threads.of(owner).submit(work))
            await asyncio.wait([future])
            failure = future.exception()
            error = None if failure is None else as_host_error(failure, "the files could not be handled")
            then(None if failure is not None else future.result(), error)
        self._supervisor.arm()


def _of(thing: Any) -> Any:
    """Return what must be there by now: the core does not go on without it."""
    if thing is None:
        raise FailedPreconditionError("this host has no models directory")
    return thing
