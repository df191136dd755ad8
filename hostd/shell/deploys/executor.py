"""Files of models on their way in and out: the core's deploys and undeploys, carried out in threads.

Covers the order of the steps of one operation, the chunks of an upload and their bound. What a step does to the disk,
and how it survives a kill, is in `staging`.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.shell.work.component import Component
from hostd.shell.work.raised import as_host_error
from hostd.shell.work.threads import in_thread
from hostd.shell.work.turns import Turns
from hostd.units import counted
from hostd_workers.wire.errors import FailedPreconditionError, HostError, ResourceExhaustedError
from hostd_workers.wire.light_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostd.shell.deploys.staging import Removal, Staging, Upload
    from hostd.shell.supervisor import Supervisor
    from hostd.shell.verbs import Request
    from hostd.shell.work.component import Handlers

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


class Files(Component):
    """Carries out what the core wants done with files. `staging` is None for a host without a models directory."""

    def __init__(self, supervisor: Supervisor, staging: Staging | None) -> None:
        self._supervisor = supervisor
        self._staging = staging
        self._threads = Turns(FILE_THREADS, "hostd-files")
        self._operations: dict[ev.FilesId, Operation] = {}
        self._pins = Operation(None)
        """All of them, one after the other: the last that was asked for stays."""
        self._under_way: set[asyncio.Task[Any]] = set()

    def handlers(self) -> Handlers:
        """Return what carries out which effect."""
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
        """Wait until everything that was begun is done."""
        while self._under_way:
            await asyncio.wait(self._under_way)

    def close(self) -> None:
        """End the threads."""
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

        work = partial(upload.write, index, offset, data)
        self._supervisor.reply(request.caller, self._write(files_id, operation, work, len(data)))

    async def _write(
        self, files_id: ev.FilesId, operation: Operation, work: Callable[[], object], size_bytes: int
    ) -> None:
        try:
            await self._step(operation, work)
        finally:
            operation.unwritten_bytes -= size_bytes
            operation.unwritten_chunks -= 1
            self._supervisor.emit_later(ev.FilesWritten(files_id))  # a slow disk is not an idle client

    # The core's effects: what a step raises it hears of (`failing`)

    async def _stage(self, effect: fx.StageFiles) -> ev.Event:
        operation = self._operations[effect.files_id] = Operation(effect.client)

        def stage() -> None:
            operation.upload = _of(self._staging).begin(
                effect.model_id,
                effect.files,
                replace=effect.replace,
                folders=effect.folders,
                executables=effect.executables,
            )

        await self._step(operation, stage)
        return ev.FilesStaged(effect.files_id)

    async def _install(self, effect: fx.InstallFiles) -> ev.Event:
        operation = self._operations[effect.files_id]
        path = await self._step(operation, lambda: str(_of(operation.upload).install(effect.standing)))
        return ev.FilesInstalled(effect.files_id, path)

    async def _confirm(self, effect: fx.ConfirmFiles) -> ev.Event:
        operation = self._operations[effect.files_id]
        await self._step(operation, lambda: _of(operation.upload).confirm())
        return ev.FilesConfirmed(effect.files_id)

    async def _undo(self, effect: fx.UndoFiles) -> ev.Event:
        operation = self._operations.pop(effect.files_id)

        def undo() -> None:
            if operation.upload is not None:
                operation.upload.roll_back()

        try:
            await self._step(operation, undo)
        except HostError as error:
            _log.error("a deploy could not be undone; the next start of a host here will: %s", error)
            raise
        return ev.FilesUndone(effect.files_id, None)

    async def _check(self, effect: fx.CheckFiles) -> ev.Event:
        operation = self._operations[effect.files_id] = Operation(None)
        await self._undeploy(effect.files_id, operation, lambda: _of(self._staging).check(effect.model_id))
        return ev.FilesChecked(effect.files_id)

    async def _remove(self, effect: fx.RemoveFiles) -> ev.Event:
        operation = self._operations[effect.files_id]

        def remove() -> None:
            removal = _of(self._staging).remove(effect.model_id)
            try:
                removal.confirm()
            except HostError:
                removal.roll_back()
                raise
            operation.removal = removal

        await self._undeploy(effect.files_id, operation, remove)
        return ev.FilesRemoved(effect.files_id)

    async def _undeploy(self, files_id: ev.FilesId, operation: Operation, work: Callable[[], object]) -> None:
        try:
            await self._step(operation, work)
        except HostError:
            self._operations.pop(files_id, None)  # an undeploy ends with its first error
            raise

    async def _tidy(self, effect: fx.TidyFiles) -> None:
        operation = self._operations.pop(effect.files_id)

        def tidy() -> None:
            for done in (operation.upload, operation.removal):
                if done is not None:
                    done.clean()

        try:
            await self._step(operation, tidy)
        except HostError as error:
            _log.warning("what a deploy replaced or an undeploy removed is still in staging: %s", error)

    async def _keep_pin(self, effect: fx.KeepPin) -> ev.Event:
        await self._step(self._pins, lambda: _of(self._staging).keep_pin(effect.model_id, is_pinned=effect.is_pinned))
        return ev.PinKept(effect.files_id, None)

    async def _step(self, operation: Operation, work: Callable[[], Any]) -> Any:
        """Do the next step of an operation in a thread: first come, first served. Raises `HostError`."""
        owner = "host" if operation.client is None else f"client {operation.client.hex()}"
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._under_way.add(task)
        try:
            async with operation.lock:
                return await in_thread(self._threads.of(owner), work)
        except Exception as error:  # noqa: BLE001 - a disk may fail in any way
            raise as_host_error(error, "the files could not be handled") from None
        finally:
            self._under_way.discard(task)


def _of(thing: Any) -> Any:
    """Return what must be there by now: the core does not go on without it."""
    if thing is None:
        raise FailedPreconditionError("this host has no models directory")
    return thing
