"""The methods that ModelMesh calls.

Rules
1. A model of ModelMesh is one of the type `TYPE`; models of other types are somebody else's and are never unloaded.
   The type that ModelMesh names is not used: the host recognises a model by its files.
2. An unload ends the loads of its id that this front has under way before it asks the host, so that none of them is
   begun after it; and it returns when every process of the model is gone.
3. A load refused with FAILED_PRECONDITION or INVALID_ARGUMENT was not attempted. A load that was attempted and fails
   with one of these is told as UNKNOWN.
4. Sizes are charges, what a model counts against the budget, because the capacity is counted in these.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from hostd.fronts.grpc.serving import left_s
from hostd.fronts.modelmesh.messages import (
    LoadResponse,
    PredictResponse,
    SizeResponse,
    StatusResponse,
    UnloadResponse,
)
from hostd.fronts.modelmesh.parameters import FORWARDED, ID_PATH, bounds_of, capacity_bytes
from hostd.fronts.modelmesh.sizes import disk_bytes_of, predicted_bytes, seen_bytes_of
from hostd.records import SERVING
from hostd.version import __version__
from hostd_workers.wire.errors import (
    AbortedError,
    AlreadyExistsError,
    FailedPreconditionError,
    HostError,
    InvalidArgumentError,
    ModelError,
    NotFoundError,
)

if TYPE_CHECKING:
    from hostd import AsyncClient, ModelInfo
    from hostd.fronts.grpc.serving import Context
    from hostd.fronts.modelmesh.parameters import Bounds, Overrides
    from hostd.records import SizeEstimate

TYPE: Final = "modelmesh"
"""The type of models that ModelMesh has loaded, in the host's records, events and metrics."""

PREDICT_S: Final = 0.4
"""What the host gets for an estimate; ModelMesh waits half a second."""

_NOT_LOADED: Final = ("AVAILABLE", "IGNORED", "FAILED")
"""States of models that somebody may load, whoever did before."""


class Runtime:
    """Handlers of the methods; for one event loop."""

    def __init__(self, client: AsyncClient, overrides: Overrides, bounds: Bounds) -> None:
        """Take the bounds of loads as they are now; they are looked up again each time that ModelMesh starts."""
        self._client = client
        self._overrides = overrides
        self._bounds = bounds
        self._loads: dict[str, set[asyncio.Task[ModelInfo]]] = {}

    def __repr__(self) -> str:
        return f"<Runtime {self._client!r} loads={len(self._loads)}>"

    async def status(self, _request: Any, _context: Context) -> Any:
        """Unload what ModelMesh has loaded before, and describe this runtime; not before the host has started."""
        if (await self._client.host_info()).state == "STARTING":
            return StatusResponse(status=StatusResponse.STARTING)
        await asyncio.gather(*(self._unload(model_id, None) for model_id in await self._ours()))
        bounds = self._bounds = bounds_of(self._overrides, await self._client.host_settings())
        answer = StatusResponse(
            status=StatusResponse.READY,
            capacityInBytes=capacity_bytes(self._overrides, await self._client.memory_info()),
            maxLoadingConcurrency=bounds.concurrency,
            modelLoadingTimeoutMs=bounds.timeout_ms,
            defaultModelSizeInBytes=bounds.default_bytes,
            runtimeVersion=self._overrides.version or f"hostd {__version__}",
        )
        for name in FORWARDED:
            answer.methodInfos[name].idInjectionPath.extend(ID_PATH)
        return answer

    async def load(self, request: Any, context: Context) -> Any:
        """Load a model and return its size. The load ends when the call does, so its memory is free for others."""
        model_id = request.modelId
        if not request.modelPath:
            raise InvalidArgumentError(f"the load of model {model_id!r} has no modelPath")
        task = asyncio.ensure_future(self._load(model_id, request.modelPath, left_s(context, None)))
        self._loads.setdefault(model_id, set()).add(task)
        task.add_done_callback(lambda done: self._load_ended(model_id, done))
        try:
            await asyncio.wait((task,))
        finally:
            task.cancel()  # nothing, if it has ended
        if task.cancelled():
            raise AbortedError(f"the load of model {model_id!r} was overtaken: an unload was requested")
        return LoadResponse(sizeInBytes=task.result().charge_bytes)

    async def unload(self, request: Any, context: Context) -> Any:
        """Unload a model; one that is not ModelMesh's is not loaded as far as that is concerned."""
        await self._unload(request.modelId, left_s(context, None))
        return UnloadResponse()

    async def predict_size(self, request: Any, _context: Context) -> Any:
        """Return what a model may take, at once."""
        path, loop = request.modelPath, asyncio.get_running_loop()
        until_s = loop.time() + PREDICT_S
        asked = asyncio.ensure_future(self._estimate(request.modelId, path))
        seen = asyncio.ensure_future(asyncio.to_thread(seen_bytes_of, path, PREDICT_S))
        try:
            await asyncio.wait((asked,), timeout=PREDICT_S)
            estimate = asked.result() if asked.done() else None
            if estimate is None:
                await asyncio.wait((seen,), timeout=max(0.0, until_s - loop.time()))
            seen_bytes = seen.result() if seen.done() else None
        finally:
            asked.cancel()
            seen.cancel()
        found = predicted_bytes(estimate, disk_bytes_of(request.modelKey), seen_bytes, self._bounds.default_bytes)
        return PredictResponse(sizeInBytes=found)

    async def size(self, request: Any, _context: Context) -> Any:
        """Return what a model takes. Raises `NotFoundError` if it is not loaded."""
        info = await self._client.get_model(request.modelId)
        if info.state not in SERVING:
            raise NotFoundError(f"model {info.id!r} is not loaded: it is {info.state}")
        return SizeResponse(sizeInBytes=info.charge_bytes)

    async def _load(self, model_id: str, path: str, waits_s: float | None) -> ModelInfo:
        limit_s = self._bounds.timeout_s
        timeout_s = limit_s if waits_s is None else min(waits_s, limit_s)
        info = await self._known(model_id)
        if info is not None and info.type != TYPE and info.state not in _NOT_LOADED:
            raise FailedPreconditionError(
                f"model {model_id!r} was loaded by somebody else and is {info.state}: unload it, or use another id"
            )
        try:
            model = await self._client.load_model(model_id, path, TYPE, timeout_s=timeout_s, cancel_on_timeout=True)
        except AlreadyExistsError as error:
            raise FailedPreconditionError(error.message, details=error.details) from None
        except (InvalidArgumentError, FailedPreconditionError, NotFoundError) as error:
            if await self._was_attempted(model_id):
                raise ModelError(error.message, details=error.details) from error
            if isinstance(error, NotFoundError):  # there is nothing at the path
                raise InvalidArgumentError(error.message, details=error.details) from None
            raise
        return await model.info()

    def _load_ended(self, model_id: str, task: asyncio.Task[ModelInfo]) -> None:
        if not task.cancelled():
            task.exception()  # read here, or a load that nobody waits for any more would log it
        tasks = self._loads[model_id]
        tasks.discard(task)
        if not tasks:
            del self._loads[model_id]

    async def _was_attempted(self, model_id: str) -> bool:
        """Say whether the last load of an id has come as far as a process."""
        try:
            story = (await self._client.explain_model(model_id))["story"]
        except NotFoundError:
            return False
        last = max((step["generation"] for step in story), default=0)
        return any(step["subject"] == "worker" and step["generation"] == last for step in story)

    async def _unload(self, model_id: str, timeout_s: float | None) -> None:
        under_way = list(self._loads.get(model_id, ()))
        for task in under_way:
            task.cancel()
        if under_way:
            await asyncio.wait(under_way)
        info = await self._known(model_id)
        if info is not None and info.type == TYPE:
            await self._client.unload_model(model_id, now=info.state not in SERVING, timeout_s=timeout_s)

    async def _known(self, model_id: str) -> ModelInfo | None:
        try:
            return await self._client.get_model(model_id, all=True)
        except NotFoundError:
            return None

    async def _ours(self) -> list[str]:
        infos = await self._client.list_models(all=True)
        return sorted({*self._loads, *(info.id for info in infos if info.type == TYPE)})

    async def _estimate(self, model_id: str, path: str) -> SizeEstimate | None:
        if not path:
            return None
        try:
            return await self._client.estimate_model_size(model_id, path, TYPE)
        except HostError:
            return None
