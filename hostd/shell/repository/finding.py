"""Finding: from what somebody wants loaded to what a worker has to load.

Covers the core's `FindSpec`: where a lazy load's files are, waiting while files are still being written, and asking the
finders, all in threads of its own, because a disk may hang and a finder is somebody else's code.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.files.stability import Wait
from hostd.shell.repository.contents import Contents
from hostd.shell.work.component import Component
from hostd.shell.work.raised import as_host_error
from hostd.shell.work.threads import in_thread
from hostd.shell.work.turns import Turns
from hostd_workers.wire.errors import HostError, InvalidArgumentError, NotFoundError
from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    from hostd.shell.repository.repository import Repository
    from hostd.shell.repository.specifying import Specifying
    from hostd.shell.supervisor import Supervisor
    from hostd.shell.work.component import Handlers

FIND_THREADS = 8
"""Finders that look at a disk at the same time; one that hangs costs one of them until it ends."""

THREAD_NAME = "hostd-find"


class Found(NamedTuple):
    """What is to be loaded, from where, and what holds for each load of it."""

    spec: ev.LoadingSpec
    path: str | None
    standing: ev.Standing


class Finding(Component):
    """Carries out `FindSpec`. `repository` is None for a host without a models directory."""

    def __init__(
        self,
        supervisor: Supervisor,
        specifying: Specifying,
        repository: Repository | None,
    ) -> None:
        self._supervisor = supervisor
        self._specifying = specifying
        self._repository = repository
        self.contents = Contents(supervisor.emit_later, f"{THREAD_NAME}-contents")
        self._threads = Turns(FIND_THREADS, THREAD_NAME)

    def handlers(self) -> Handlers:
        """Return what carries out which effect."""
        return {fx.FindSpec: self.find, **self.contents.handlers()}

    def close(self) -> None:
        """End the threads; one that hangs on a disk is left alone."""
        self.contents.close()
        self._threads.shutdown()

    async def find(self, effect: fx.FindSpec) -> ev.Event | None:
        """Find out how to load a source, once its files are whole."""
        model_id, generation, has_looked = effect.model_id, effect.generation, False
        while isinstance(found := await self._look_once(effect), Wait):
            # The first look cannot know whether somebody still writes; only the second one has seen it.
            if has_looked:
                self._supervisor.emit_later(ev.SpecDelayed(model_id, generation, found.reason))
            has_looked = True
            await asyncio.sleep(found.retry_after_s)
            if not self._supervisor.core.queries.is_finding(model_id, generation):
                return None
        if found.path is not None:
            self._supervisor.start(self.contents.note(model_id, generation, found.path))
        return ev.SpecFound(model_id, generation, found.spec, found.path, found.standing)

    async def _look_once(self, effect: fx.FindSpec) -> Found | Wait:
        owner = self._threads.of(f"find {effect.model_id}")
        try:
            found: Found | Wait = await in_thread(owner, partial(self._look, effect))
        except Exception as error:  # noqa: BLE001 - a finder may raise anything
            raise as_host_error(error, "the finder failed") from None
        return found

    def _look(self, effect: fx.FindSpec) -> Found | Wait:
        source, origin, repository = effect.source, effect.origin, self._repository
        path = source.path
        is_ephemeral = False
        if origin is ev.Origin.LAZY and repository is not None:
            place = repository.locate(effect.model_id)
            is_ephemeral = place is None
            path = str(effect.model_id) if place is None else str(place)
        may_be_written = origin in (ev.Origin.LAZY, ev.Origin.SYNCED) and not is_ephemeral
        if may_be_written and repository is not None and path is not None:
            wait = repository.is_unsettled(path)
            if wait is not None:
                return wait
        try:
            found = self._specifying.specify(effect.model_id, source._replace(path=path))
        except (NotFoundError, InvalidArgumentError) as error:
            if is_ephemeral:
                raise _nothing_there(effect.model_id, source.path, error) from error
            raise
        return Found(found.spec, path, found.standing)


def _nothing_there(model_id: str, looked_at: str | None, error: HostError) -> NotFoundError:
    return NotFoundError(
        f"there is no model {model_id!r}: it is not loaded, nothing is at {looked_at}, and as a path of its own: "
        f"{error.message}",
        details={"model_id": model_id, "path": looked_at},
    )
