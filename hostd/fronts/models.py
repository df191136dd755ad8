"""Records of models for fronts: of one that serves, loaded if it can be, and of one in whatever state.

A record is kept for a moment, so that a burst of requests asks the host once. A front that hears that a model is not as
its record says forgets it (`forget`), and a request that does not fit it is looked at with a newer one (`planned`).
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, TypeVar

from hostd.records import SERVING
from hostd_workers.wire.errors import DeadlineExceededError, HostError, NotFoundError, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostd import AsyncClient, ModelInfo

T = TypeVar("T")

FRESH_S: Final = 1.0
"""How long a record is taken as it is; a model that is replaced changes its methods no faster."""

MAX_KEPT: Final = 1024
"""Records beyond that are kept only while they are asked for."""

OUTDATED: Final = frozenset((Status.NOT_FOUND, Status.UNIMPLEMENTED, Status.INVALID_ARGUMENT))
"""What a call may raise because its model is no longer the one of the record."""


UNKNOWN: Final = "Request for unknown model"
"""The words that Triton's clients look for."""


class Models:
    """The models of a host, as its fronts know them; for one event loop."""

    def __init__(
        self, client: AsyncClient, fresh_s: float = FRESH_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._fresh_s = fresh_s
        self._clock = clock
        self._kept: dict[str, tuple[float, ModelInfo]] = {}
        self._pending: dict[str, asyncio.Task[ModelInfo]] = {}

    def __repr__(self) -> str:
        return f"<Models kept={len(self._kept)} pending={len(self._pending)}>"

    async def get(self, model_id: str, timeout_s: float | None = None) -> ModelInfo:
        """Return the record of a model that serves; one that is loaded on use is loaded first.

        Raises `NotFoundError` with the words that Triton's clients look for if there is none, what its load raises,
        and `DeadlineExceededError` if it does not serve in time; its load goes on.
        """
        kept = self._kept.get(model_id)
        if kept is not None and self._clock() < kept[0]:
            return kept[1]
        task = self._pending.get(model_id)
        if task is None:
            task = self._pending[model_id] = asyncio.ensure_future(self._ask(model_id))
            task.add_done_callback(lambda done: self._asked(model_id, done))
        # It leaves the task alone if this one is cancelled: others may wait for the same answer.
        done, _ = await asyncio.wait((task,), timeout=timeout_s)
        if not done:
            raise DeadlineExceededError(f"model {model_id!r} did not serve within {timeout_s:g} s")
        return task.result()

    async def planned(self, model_id: str, plan: Callable[[ModelInfo], T], timeout_s: float | None = None) -> T:
        """Return what `plan` makes of a record; where it raises, and the model has been replaced since, of the new one.

        Raises as `get` and `plan` do.
        """
        info = await self.get(model_id, timeout_s)
        try:
            return plan(info)
        except HostError as error:
            self.note(model_id, error)
            newer = await self.get(model_id, timeout_s)
            if newer.generation == info.generation:
                raise
        return plan(newer)

    async def record(self, model_id: str) -> ModelInfo:
        """Return the record of a model in any state, and load nothing. Raises `NotFoundError` as `get` does."""
        try:
            return await self._client.get_model(model_id, all=True)
        except NotFoundError as error:
            raise unknown(model_id, error) from error

    def forget(self, model_id: str) -> None:
        """Ask the host again at the next use of a model."""
        self._kept.pop(model_id, None)
        self._pending.pop(model_id, None)

    def note(self, model_id: str, error: HostError) -> None:
        """Forget a model if a call of it has raised what an outdated record would lead to."""
        if error.status in OUTDATED:
            self.forget(model_id)

    async def _ask(self, model_id: str) -> ModelInfo:
        try:
            info = await self._client.get_model(model_id)
            if info.state in SERVING:
                return info
        except NotFoundError:
            pass  # evicted, or in the models directory, perhaps
        try:
            return await (await self._client.retrieve_model(model_id)).info()
        except NotFoundError as error:
            raise unknown(model_id, error) from error

    def _asked(self, model_id: str, task: asyncio.Task[ModelInfo]) -> None:
        # The error is read here, or a task that nobody waits for any more would log it.
        has_failed = task.cancelled() or task.exception() is not None
        if self._pending.get(model_id) is not task:
            return  # forgotten meanwhile
        del self._pending[model_id]
        if not has_failed:
            now = self._clock()
            if len(self._kept) >= MAX_KEPT:
                self._kept = {name: kept for name, kept in self._kept.items() if now < kept[0]}
            self._kept[model_id] = (now + self._fresh_s, task.result())


def unknown(model_id: str, error: HostError) -> NotFoundError:
    """Return the error of an id that no model has; it begins with the words that Triton's clients look for."""
    return NotFoundError(f"{UNKNOWN}: '{model_id}' is not found: {error.message}", details=error.details)
