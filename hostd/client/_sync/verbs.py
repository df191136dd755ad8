"""The verbs of the synchronous client that answer with plain records: they need a channel, and no handles of models.

Covers what to send and what the answer means. Loads, deploys and calls, which deal in handles, are in `sync`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from hostd.client._sync.calls import ItemStream
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
    from collections.abc import Callable, Iterator

    from hostd.client._sync.channel import Channel
    from hostd.client.tracker import Pending
    from hostd.log_lines import LogLine


class Verbs:
    """The base of `Client`, which brings the connection and the default timeout."""

    timeout_s: float | None
    _channel: Channel

    # Models

    def unload_model(self, model_id: str, *, now: bool = False, timeout_s: float | None = None) -> UnloadReport:
        """Unload a model; returns, with what was given back, when every process of it is gone.

        Calls in flight get `workers.drain_timeout_s` to end; with `now` they end at once, with ABORTED.
        """
        asked = {"model_id": model_id, **({"now": True} if now else {})}
        return UnloadReport.from_dict(self._verb("unload_model", timeout_s, **asked))

    def unload_all_models(self, *, now: bool = False, timeout_s: float | None = None) -> list[UnloadReport]:
        """Unload every model, in parallel; `now` as in `unload_model`."""
        asked = {"now": True} if now else {}
        return [UnloadReport.from_dict(report) for report in self._verb("unload_all_models", timeout_s, **asked)]

    def list_models(self, *, all: bool = False) -> list[ModelInfo]:
        """Return the records of the models, by id: of those that are loaded, or whose process has died.

        With `all` also of those that are not loaded, each with its `state` and the `reason`: FAILED (its last load),
        EVICTED, and what is in the models directory, AVAILABLE or IGNORED.
        """
        asked = {"all": True} if all else {}
        return [ModelInfo.from_dict(model) for model in self._verb("list_models", self.timeout_s, **asked)]

    def get_model(self, model_id: str) -> ModelInfo:
        """Return the record of a model. Raises `NotFoundError` if there is none."""
        return ModelInfo.from_dict(self._verb("get_model", self.timeout_s, model_id=model_id))

    def explain_model(self, model_id: str) -> dict[str, Any]:
        """Return why a model is as it is: `state`, `reason`, its record, and the `story` of its last transitions.

        `size` says what it takes, how that is known and how old that is (`age_s`). `eviction` says what an eviction
        would free, why there can be none now (`why_not`, "" if there can), and whose turn it is (`rank`, 1 for the next
        to go). Both are None for a model that holds no memory; sizes are bytes. `settings` are those in force, each
        with its `origin`, and `calls` those in flight, the oldest first: the `method`, `age_s`, the `client` (its `pid`
        and `program`), and a `state`: "sent", "held" until the model serves, or "left" by its caller while the model
        still works on it (`why`).
        """
        return dict(self._verb("explain_model", self.timeout_s, model_id=model_id))

    def model_logs(self, model_id: str, tail_bytes: int = 65536) -> str:
        """Return the end of what a model's workers printed, also of a model that is gone; `log_lines` has times.

        Raises `NotFoundError` for an id under which no model was ever loaded.
        """
        return str(self._verb("model_logs", self.timeout_s, model_id=model_id, tail_bytes=tail_bytes))

    def log_lines(self, model_id: str, *, tail: int | None = None, follow: bool = False) -> Iterator[LogLine]:
        """Iterate over the lines of a model's log with their times, the last `tail` or all that is kept.

        The host's notes of each start and end of a worker are among them. With `follow` it goes on with what is
        printed from then on, whatever is loaded under this id, until the iterator is closed or the host ends. Raises
        `NotFoundError` for an id under which no model was ever loaded.
        """
        follower = Follower(model_id, tail, follow=follow)
        return _log_lines(follower, lambda: self._verb("read_log", self.timeout_s, **follower.arguments()))

    def model_stacks(self, model_id: str) -> dict[int, str]:
        """Return the stacks of all threads of a model's processes as text, by pid, whatever they are doing.

        Works while the model hangs, in Python or in C, and does not disturb it. Raises `NotFoundError` if it is not
        loaded, `FailedPreconditionError` if its process cannot be asked.
        """
        return dict(self._verb("model_stacks", self.timeout_s, model_id=model_id))

    # Memory

    def get_model_size(self, model_id: str) -> int:
        """Return the resident memory of a model's processes in bytes, as last measured.

        Raises `NotFoundError`, with the reason, if it is not loaded.
        """
        check_named(model_id)
        return size_of(self.get_model(model_id))

    def estimate_model_size(
        self, model_id: str, local_model_path: str | os.PathLike[str] | None, model_type: str = "standalone-model"
    ) -> SizeEstimate:
        """Return what a model would take, without loading it, and how that is known. `int()` of it is the bytes.

        Raises `NotFoundError` if there is nothing at the path.
        """
        arguments = {"model_id": model_id, "path": absolute(local_model_path), "type": model_type}
        return SizeEstimate.from_dict(self._verb("estimate_model_size", self.timeout_s, **arguments))

    def plan_load(
        self,
        model_id: str,
        local_model_path: str | os.PathLike[str] | None,
        model_type: str = "standalone-model",
        *,
        finder: str | None = None,
        initializer: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> LoadPlan:
        """Return what `load_model` with these arguments would do now: start, evict first, wait, or be refused.

        Nothing is loaded, evicted or reserved; a load that follows does just that, if nothing has changed meanwhile.
        Sizes are bytes of the budget. Raises what `load_model` raises for an id and a path that cannot be loaded;
        that there is not enough memory is an answer and raises nothing.
        """
        arguments = plan_arguments(
            model_id, local_model_path, model_type, finder=finder, initializer=initializer, options=options
        )
        return LoadPlan.from_dict(self._verb("plan_load", self.timeout_s, **arguments))

    def pin_model(self, model_id: str) -> ModelInfo:
        """Keep a model in memory: it is not evicted, whatever the budget says, until `unpin_model`.

        Returns its record. Raises `NotFoundError` if it is not loaded.
        """
        return ModelInfo.from_dict(self._verb("pin_model", self.timeout_s, model_id=model_id, pinned=True))

    def unpin_model(self, model_id: str) -> ModelInfo:
        """Let a model be evicted again, and return its record. Raises `NotFoundError` if it is not loaded."""
        return ModelInfo.from_dict(self._verb("pin_model", self.timeout_s, model_id=model_id, pinned=False))

    def memory_info(self) -> MemoryInfo:
        """Return the memory of all models against the budget, in bytes, and what unloads have given back so far."""
        return MemoryInfo.from_dict(self._verb("memory_info", self.timeout_s))

    # The models directory

    def undeploy_model(self, model_id: str, *, timeout_s: float | None = None) -> UnloadReport:
        """Unload a model, if it is loaded, and remove its files from the models directory.

        Raises `NotFoundError` if there is no such model in the directory.
        """
        return UnloadReport.from_dict(self._verb("undeploy_model", timeout_s, model_id=model_id))

    def sync_local_models(
        self,
        wait: bool = False,  # noqa: FBT001, FBT002 - as the customer's system has it
        load: bool = True,  # noqa: FBT001, FBT002 - as above
        *,
        timeout_s: float | None = None,
    ) -> SyncReport:
        """Load what is new in the models directory, unless `load` is false, and unload what is gone from it.

        What the configuration declares (`preload`) is loaded too, and read again if its file has changed.

        With `wait` it returns when all of that has ended, loads of earlier syncs too, else when it is begun.
        """
        return SyncReport.from_dict(self._verb("sync_local_models", timeout_s, wait=wait, load=load))

    # The host

    def events(self, model_id: str | None = None) -> Iterator[Event]:
        """Iterate over transitions as they happen, of one model or of all; those after this returns are all there."""
        self._channel.check_may_wait()
        pending = self._channel.begin(lambda tracker: tracker.subscribe("events", {"model_id": model_id}))
        items = ItemStream(self._channel, pending, None)
        next(items)  # the first item says that the host has noted the subscription
        return _events(items)

    def host_info(self) -> HostInfo:
        """Return the record of the host."""
        return HostInfo.from_dict(self._verb("host_info", self.timeout_s))

    def reload_config(self) -> dict[str, Any]:
        """Let the host read its configuration file again; returns `file`, `changed` and `needs_restart`.

        `changed` has the old and the new value of each setting that holds from now on, `needs_restart` the names of
        those that differ in the file but cannot be changed while the host runs. Raises `FailedPreconditionError` for a
        host without a configuration file, and for a file that is wrong what `hostd config show` says; then nothing is
        changed.
        """
        return dict(self._verb("reload_config", self.timeout_s))

    def host_settings(self) -> dict[str, Any]:
        """Return the settings that are in force in the host, in the shape of its configuration file."""
        return dict(self._verb("host_settings", self.timeout_s))

    def shutdown(self) -> None:
        """Drain, unload everything and end the host; returns when that is done."""
        self._verb("shutdown", None)

    def _begin(self, verb: str, timeout_s: float | None, **arguments: Any) -> Pending:
        return self._channel.begin(lambda tracker: tracker.verb(verb, arguments, timeout_s))

    def _verb(self, verb: str, timeout_s: float | None, **arguments: Any) -> Any:
        return self._channel.ask(lambda tracker: tracker.verb(verb, arguments, timeout_s), timeout_s)


def _log_lines(follower: Follower, read: Callable[[], Any]) -> Iterator[LogLine]:
    while not follower.is_over:
        yield from follower.take(read())
        if follower.is_waiting and not follower.is_over:
            time.sleep(FOLLOW_PERIOD_S)


def _events(items: ItemStream) -> Iterator[Event]:
    with items:
        for item in items:
            yield Event.from_dict(item)
