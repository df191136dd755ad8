"""The verbs of the asyncio client that answer with plain records; the twin of `sync_verbs`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from hostd.client._async.calls import AsyncItemStream
from hostd.client.arguments import absolute, check_named, plan_arguments, size_of
from hostd.log_lines import FOLLOW_PERIOD_S, Follower
from hostd.records import (
    Event,
    HostInfo,
    LoadPlan,
    MemoryInfo,
    ModelInfo,
    SizeEstimate,
    SyncReport,
    UnloadReport,
)

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator

    from hostd.client._async.channel import AsyncChannel
    from hostd.client._async.channels import AsyncChannels
    from hostd.client.tracker import Pending
    from hostd.log_lines import LogLine


class AsyncVerbs:
    """The base of `AsyncClient`, which brings the connection and the default timeout."""

    timeout_s: float | None
    _channels: AsyncChannels

    @property
    def _channel(self) -> AsyncChannel:
        return self._channels.of_running_loop()

    # Models

    async def unload_model(self, model_id: str, *, now: bool = False, timeout_s: float | None = None) -> UnloadReport:
        """Unload a model; returns, with what was given back, when every process of it is gone.

        Calls in flight get `workers.drain_timeout_s` to end; with `now` they end at once, with ABORTED.
        """
        asked = {"model_id": model_id, **({"now": True} if now else {})}
        return UnloadReport.from_dict(await self._verb("unload_model", timeout_s, **asked))

    async def unload_all_models(self, *, now: bool = False, timeout_s: float | None = None) -> list[UnloadReport]:
        """Unload every model, in parallel; `now` as in `unload_model`."""
        asked = {"now": True} if now else {}
        return [UnloadReport.from_dict(report) for report in await self._verb("unload_all_models", timeout_s, **asked)]

    async def list_models(self, *, all: bool = False) -> list[ModelInfo]:
        """Return the records of the models, by id: of those that are loaded, or whose process has died.

        With `all` also of those that are not loaded, each with its `state` and the `reason`: FAILED (its last load),
        EVICTED, and what is in the models directory, AVAILABLE or IGNORED.
        """
        asked = {"all": True} if all else {}
        return [ModelInfo.from_dict(model) for model in await self._verb("list_models", self.timeout_s, **asked)]

    async def get_model(self, model_id: str) -> ModelInfo:
        """Return the record of a model. Raises `NotFoundError` if there is none."""
        return ModelInfo.from_dict(await self._verb("get_model", self.timeout_s, model_id=model_id))

    async def explain_model(self, model_id: str) -> dict[str, Any]:
        """Return why a model is as it is; see `hostd.Client.explain_model`."""
        return dict(await self._verb("explain_model", self.timeout_s, model_id=model_id))

    async def model_logs(self, model_id: str, tail_bytes: int = 65536) -> str:
        """Return the end of what a model's workers printed."""
        return str(await self._verb("model_logs", self.timeout_s, model_id=model_id, tail_bytes=tail_bytes))

    async def log_lines(
        self, model_id: str, *, tail: int | None = None, follow: bool = False
    ) -> AsyncIterator[LogLine]:
        """Iterate over the lines of a model's log with their times; see `hostd.Client.log_lines`."""
        follower = Follower(model_id, tail, follow=follow)
        while not follower.is_over:
            for line in follower.take(await self._verb("read_log", self.timeout_s, **follower.arguments())):
                yield line
            if follower.is_waiting and not follower.is_over:
                await asyncio.sleep(FOLLOW_PERIOD_S)

    async def model_stacks(self, model_id: str) -> dict[int, str]:
        """Return the stacks of all threads of a model's processes; see `hostd.Client.model_stacks`."""
        return dict(await self._verb("model_stacks", self.timeout_s, model_id=model_id))

    # Memory

    async def get_model_size(self, model_id: str) -> int:
        """Return the resident memory of a model's processes in bytes; see `hostd.Client.get_model_size`."""
        check_named(model_id)
        return size_of(await self.get_model(model_id))

    async def estimate_model_size(
        self, model_id: str, local_model_path: str | os.PathLike[str] | None, model_type: str = "standalone-model"
    ) -> SizeEstimate:
        """Return what a model would take, without loading it; see `hostd.Client.estimate_model_size`."""
        arguments = {"model_id": model_id, "path": absolute(local_model_path), "type": model_type}
        return SizeEstimate.from_dict(await self._verb("estimate_model_size", self.timeout_s, **arguments))

    async def plan_load(
        self,
        model_id: str,
        local_model_path: str | os.PathLike[str] | None,
        model_type: str = "standalone-model",
        *,
        finder: str | None = None,
        initializer: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> LoadPlan:
        """Return what `load_model` would do now, without doing it; see `hostd.Client.plan_load`."""
        arguments = plan_arguments(
            model_id, local_model_path, model_type, finder=finder, initializer=initializer, options=options
        )
        return LoadPlan.from_dict(await self._verb("plan_load", self.timeout_s, **arguments))

    async def pin_model(self, model_id: str) -> ModelInfo:
        """Keep a model in memory until `unpin_model`; see `hostd.Client.pin_model`."""
        return ModelInfo.from_dict(await self._verb("pin_model", self.timeout_s, model_id=model_id, pinned=True))

    async def unpin_model(self, model_id: str) -> ModelInfo:
        """Let a model be evicted again; see `hostd.Client.unpin_model`."""
        return ModelInfo.from_dict(await self._verb("pin_model", self.timeout_s, model_id=model_id, pinned=False))

    async def memory_info(self) -> MemoryInfo:
        """Return the memory of all models against the budget; see `hostd.Client.memory_info`."""
        return MemoryInfo.from_dict(await self._verb("memory_info", self.timeout_s))

    # The models directory

    async def undeploy_model(self, model_id: str, *, timeout_s: float | None = None) -> UnloadReport:
        """Unload a model, if it is loaded, and remove its files from the models directory."""
        return UnloadReport.from_dict(await self._verb("undeploy_model", timeout_s, model_id=model_id))

    async def sync_local_models(
        self,
        wait: bool = False,  # noqa: FBT001, FBT002 - as the customer's system has it
        load: bool = True,  # noqa: FBT001, FBT002 - as above
        *,
        timeout_s: float | None = None,
    ) -> SyncReport:
        """Load what is new in the models directory, and unload what is gone; see `hostd.Client.sync_local_models`."""
        return SyncReport.from_dict(await self._verb("sync_local_models", timeout_s, wait=wait, load=load))

    # The host

    async def events(self, model_id: str | None = None) -> AsyncIterator[Event]:
        """Iterate over transitions as they happen, of one model or of all."""
        pending = await self._channel.begin(lambda tracker: tracker.subscribe("events", {"model_id": model_id}))
        async with AsyncItemStream(self._channel, pending, None) as items:
            await items.__anext__()  # the first item says that the host has noted the subscription
            async for item in items:
                yield Event.from_dict(item)

    async def host_info(self) -> HostInfo:
        """Return the record of the host."""
        return HostInfo.from_dict(await self._verb("host_info", self.timeout_s))

    async def reload_config(self) -> dict[str, Any]:
        """Let the host read its configuration file again; see `hostd.Client.reload_config`."""
        return dict(await self._verb("reload_config", self.timeout_s))

    async def host_settings(self) -> dict[str, Any]:
        """Return the settings that are in force in the host, in the shape of its configuration file."""
        return dict(await self._verb("host_settings", self.timeout_s))

    async def shutdown(self) -> None:
        """Drain, unload everything and end the host; returns when that is done."""
        await self._verb("shutdown", None)

    async def _begin(self, verb: str, timeout_s: float | None, **arguments: Any) -> Pending:
        pending: Pending = await self._channel.begin(lambda tracker: tracker.verb(verb, arguments, timeout_s))
        return pending

    async def _verb(self, verb: str, timeout_s: float | None, **arguments: Any) -> Any:
        return await self._channel.wait(await self._begin(verb, timeout_s, **arguments), timeout_s)
