"""Finding: from what somebody wants loaded to what a worker has to load.

Covers the core's `FindSpec`: where a lazy load's files are, waiting while files are still being written, and asking the
finders, all in threads of its own, because a disk may hang and a finder is somebody else's code.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.files.stability import Wait
from hostd.shell.repository.contents import Contents
from hostd.shell.supervisor import as_host_error
from hostd.shell.turns import Turns
from hostd_workers.wire.errors import HostError, InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from hostd.shell.repository.repository import Repository
    from hostd.shell.repository.specifying import Specifying
    from hostd.shell.supervisor import Supervisor

FIND_THREADS = 8
"""Finders that look at a disk at the same time; one that hangs costs one of them until it ends."""

THREAD_NAME = "hostd-find"


class Found(NamedTuple):
    """What is to be loaded, from where, and what holds for each load of it."""

    spec: ev.LoadingSpec
    path: str | None
    standing: ev.Standing


class Finding:
    """Carries out `FindSpec`. `repository` is None for a host without a models directory."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        supervisor: Supervisor,
        specifying: Specifying,
        repository: Repository | None,
    ) -> None:
        self._loop = loop
        self._supervisor = supervisor
        self._specifying = specifying
        self._repository = repository
        self.contents = Contents(supervisor, f"{THREAD_NAME}-contents")
        self._threads = Turns(FIND_THREADS, THREAD_NAME)

    def handlers(self) -> dict[type, Callable[[Any], object]]:
        """Return what carries out which effect."""
        return {fx.FindSpec: self.find, **self.contents.handlers()}

    def close(self) -> None:
        """End the threads; one that hangs on a disk is left alone."""
        self.contents.close()
        self._threads.shutdown()

    def find(self, effect: fx.FindSpec, looks: int = 0) -> None:
        """Find out how to load a source; the answer goes to the core."""

        def then(found: Any) -> ev.Event | None:
            if isinstance(found, Wait):
                self._loop.call_later(found.retry_after_s, self._find_again, effect, looks + 1)
                # The first look cannot know whether somebody still writes; only the second one has seen it.
                return ev.SpecDelayed(effect.model_id, effect.generation, found.reason) if looks else None
            if isinstance(found, BaseException):
                return ev.SpecRefused(effect.model_id, effect.generation, as_host_error(found, "the finder failed"))
            if found.path is not None:
                self.contents.note(effect.model_id, effect.generation, found.path)
            return ev.SpecFound(effect.model_id, effect.generation, found.spec, found.path, found.standing)

        self._supervisor.in_thread(self._threads.of(f"find {effect.model_id}"), partial(self._look, effect), then)

    def _find_again(self, effect: fx.FindSpec, looks: int) -> None:
        if self._supervisor.core.queries.is_finding(effect.model_id, effect.generation):
            self.find(effect, looks)

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
