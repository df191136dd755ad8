# Generated from hostd/client/_async/client.py by .ci/unasync.py: edit that one.
"""A client of a host: its connection, and a method for each thing that a host does."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from hostd import paths
from hostd.client._sync import calls
from hostd.client._sync.channel import Channel
from hostd.client._sync.model import Model
from hostd.client._sync.streams import log_lines, results
from hostd.client._sync.watching import changes
from hostd.client.arguments import (
    CONNECT_TIMEOUT_S,
    DEFAULT_TIMEOUT_S,
    absolute,
    check_named,
    given,
    named,
    size_of,
)
from hostd.client.listed import record_of
from hostd.client.tracker import Tracker
from hostd.log_lines import Follower
from hostd.not_pickled import NotPickled
from hostd.records import (
    STANDALONE,
    Event,
    HostInfo,
    LoadPlan,
    MemoryInfo,
    ModelInfo,
    SizeEstimate,
    SyncReport,
    TemplatesInfo,
    UnloadReport,
)
from hostd.views import Change, HostSummary

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from hostd.client._sync.streams import ItemStream
    from hostd.client.deploying import Progress
    from hostd.client.files import Files
    from hostd.log_lines import LogLine


class Client(NotPickled):
    """A connection to a host, which several threads may share; a context manager.

    Every verb raises a `hostd.HostError`: `UnavailableError` if the host is gone, `DeadlineExceededError` after its
    timeout, and what the host answers. After a restart of the host the next call connects again. A client that is
    dropped closes by itself.
    """

    _instead = (
        "a client is a connection of its process; pickle its endpoint and call hostd.connect(endpoint) there, or "
        "pickle a model's handle, which connects by itself"
    )

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        timeout_s: float | None = DEFAULT_TIMEOUT_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        wait_s: float = 0.0,
        direct: bool = True,
    ) -> None:
        """Take the name or the endpoint of a host, by default this user's; the options are those of `hostd.connect`."""
        self.endpoint = paths.endpoint_of(endpoint) if endpoint else paths.default_endpoint()
        self.timeout_s = timeout_s
        self.connect_timeout_s = connect_timeout_s
        self._channel = Channel(self.endpoint, connect_timeout_s, wait_s, is_direct=direct)

    def __repr__(self) -> str:
        return f"<Client {self._channel!r}>"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; models stay loaded, and requests that wait end with CANCELLED."""
        self._channel.close()

    # What returns handles

    def load_model(
        self,
        model_id: str,
        local_model_path: str | os.PathLike[str] | None = None,
        model_type: str = STANDALONE,
        *,
        wait: bool = True,
        retries: int | None = None,
        finder: str | None = None,
        loader: str | None = None,
        initializer: str | None = None,
        options: dict[str, Any] | None = None,
        labels: dict[str, str] | None = None,
        reload: bool = False,
        cancel_on_timeout: bool = False,
        timeout_s: float | None = None,
    ) -> Model:
        """Load a model and return its handle; `wait=False` returns while it loads.

        `loader` (a name, or `package.module:attribute`) counts for more than what is found at the path. `options` go to
        it, over those of `model.yaml`. A load that fails is tried again `retries` times, each
        in a fresh process (None: as often as the host's settings say). Loading what is loaded starts nothing: the
        handle says that it is `already_loaded`, and in `files_changed` whether its files have changed since. With
        `reload` it is unloaded first, whatever it was loaded from, and calls that come meanwhile wait. A reload without
        a path keeps it, and of type, finder, loader, initializer, retries and each option what this call does not give.
        `labels`, as Kubernetes has them, are to list and unload models by; they replace those of what is loaded.

        Raises `AlreadyExistsError` if the id is loaded from something else and `reload` is not set, `ModelError` with
        the model's traceback if its code raised, `NotFoundError` or `InvalidArgumentError` if there is no model at the
        path (or no path, and nothing to reload), and `ResourceExhaustedError` if the budget has no memory for it (as
        `plan_load` says before), or not within `memory.admission_timeout_s`. No timeout but `workers.load_timeout_s` by
        default. When its caller has left a load goes on; with `cancel_on_timeout` it ends unless others have joined it.
        """
        asked = named(model_id, model_type, finder, loader, initializer, options, local_model_path)
        more = given(retries=retries, labels=labels, reload=reload, cancel_on_timeout=cancel_on_timeout)
        asked |= {"wait": wait, **more}
        return Model(self, ModelInfo.from_dict(self._verb("load_model", timeout_s, **asked)), self.timeout_s)

    def retrieve_model(self, model_id: str, *, timeout_s: float | None = None) -> Model:
        """Return the handle of a model, after waiting for it while it loads; `NotFoundError` if there is none.

        A host with lazy loading loads it first, from the models directory. No timeout by default, as for `load_model`.
        """
        info = ModelInfo.from_dict(self._verb("retrieve_model", timeout_s, model_id=model_id))
        return Model(self, info, self.timeout_s)

    def deploy_model(
        self,
        model_id: str,
        files: Files,
        model_type: str = STANDALONE,
        *,
        wait: bool = True,
        replace: bool = False,
        keep: bool = False,
        retries: int | None = None,
        finder: str | None = None,
        loader: str | None = None,
        initializer: str | None = None,
        options: dict[str, Any] | None = None,
        labels: dict[str, str] | None = None,
        progress: Progress | None = None,
        timeout_s: float | None = None,
    ) -> Model:
        """Copy a model's files into the host's models directory, load it from there, and return its handle.

        `files` is a local directory (all its regular files; links to files are followed), or a map of names, which may
        have subdirectories, to contents or to paths of local files. All or nothing: if anything fails, or `progress`
        raises, no file is left, unless `keep` is set and only the load failed. `replace` deploys over a model of that
        id, which serves until the new one is ready. `progress(sent_bytes, total_bytes)`, a plain function, is called
        whenever the host has written a piece. The other arguments are those of `load_model`; `timeout_s` is for all.

        Raises `AlreadyExistsError` if the id is deployed and `replace` is not set, `InvalidArgumentError` for names and
        files that cannot be deployed, `FailedPreconditionError` if the host has no models directory that it may write
        to or a file changes while it is sent, `ResourceExhaustedError` if the host's disk is full, and what
        `load_model` raises.
        """
        from hostd.client._sync.deploys import deploy  # noqa: PLC0415 - few programs do

        asked = named(model_id, model_type, finder, loader, initializer, options)
        asked |= {"wait": wait, "replace": replace, "keep": keep, "retries": retries, **given(labels=labels)}
        info = ModelInfo.from_dict(deploy(self._channel, files, asked, progress, timeout_s))
        return Model(self, info, self.timeout_s)

    # Models

    def unload_model(self, model_id: str, *, now: bool = False, timeout_s: float | None = None) -> UnloadReport:
        """Unload a model; returns, with what was given back, when every process of it is gone.

        Calls in flight get `workers.drain_timeout_s` to end; with `now` they end at once, with ABORTED.
        """
        asked = {"model_id": model_id, **given(now=now)}
        return UnloadReport.from_dict(self._verb("unload_model", timeout_s, **asked))

    def unload_all_models(
        self, *, labels: dict[str, str] | None = None, now: bool = False, timeout_s: float | None = None
    ) -> list[UnloadReport]:
        """Unload every model, or those that have all `labels` (not none), in parallel; `now` as in `unload_model`."""
        asked = given(labels=labels, now=now)
        return [UnloadReport.from_dict(report) for report in self._verb("unload_all_models", timeout_s, **asked)]

    def list_models(self, *, all: bool = False, labels: dict[str, str] | None = None) -> list[ModelInfo]:
        """Return the records of the models, by id: of those that are loaded, or that have lost their process.

        With `all` also of those that are not loaded, each with its `state` and the `reason`: FAILED (its last load),
        EVICTED, and what is in the models directory, AVAILABLE or IGNORED. With `labels` of those that have them all.
        """
        asked = given(all=all, labels=labels)
        return [record_of(packed) for packed in self._verb("list_models", self.timeout_s, **asked)]

    def get_model(self, model_id: str, *, all: bool = False) -> ModelInfo:
        """Return the record of a model, with `all` also of one that is not loaded; or raise `NotFoundError`."""
        asked = {"model_id": model_id, **given(all=all)}
        return ModelInfo.from_dict(self._verb("get_model", self.timeout_s, **asked))

    def explain_model(self, model_id: str) -> dict[str, Any]:
        """Return why a model is as it is: `state`, `reason`, its record, and the `story` of its last transitions.

        `size` says what it takes, how that is known and how old that is (`age_s`). `eviction` says what an eviction
        would free, why there can be none now (`why_not`, "" if there can), and its turn (`rank`, 1 for the next to go).
        Both are None for a model that holds no memory; sizes are bytes. `settings` are those in force, each with its
        `origin`. `calls` are those in flight, the oldest first: `method`, `age_s`, `client` (its `pid` and `program`)
        and `state`: "sent", "held" until the model serves, or "left" by its caller while the model goes on (`why`).
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
        return log_lines(follower, lambda: self._verb("read_log", self.timeout_s, **follower.arguments()))

    def model_stacks(self, model_id: str) -> dict[int, str]:
        """Return the stacks of all threads of a model's processes as text, by pid, whatever they are doing.

        Works while the model hangs, in Python or in C, and does not disturb it. Raises `NotFoundError` if it is not
        loaded, `FailedPreconditionError` if its process cannot be asked.
        """
        return dict(self._verb("model_stacks", self.timeout_s, model_id=model_id))

    # Memory

    def get_model_size(self, model_id: str) -> int:
        """Return the resident memory of a model's processes in bytes, as last measured; or raise `NotFoundError`."""
        check_named(model_id)
        return size_of(self.get_model(model_id))

    def estimate_model_size(
        self, model_id: str, local_model_path: str | os.PathLike[str] | None, model_type: str = STANDALONE
    ) -> SizeEstimate:
        """Return what a model would take, without loading it, and how that is known. `int()` of it is the bytes.

        Raises `NotFoundError` if there is nothing at the path.
        """
        asked = {"model_id": model_id, "path": absolute(local_model_path), "type": model_type}
        return SizeEstimate.from_dict(self._verb("estimate_model_size", self.timeout_s, **asked))

    def plan_load(
        self,
        model_id: str,
        local_model_path: str | os.PathLike[str] | None,
        model_type: str = STANDALONE,
        *,
        finder: str | None = None,
        loader: str | None = None,
        initializer: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> LoadPlan:
        """Return what `load_model` with these arguments would do now: start, evict first, wait, or be refused.

        Nothing is loaded, evicted or reserved; a load that follows does just that, if nothing has changed meanwhile.
        Sizes are bytes of the budget. Raises as `load_model`, but that there is not enough memory is an answer.
        """
        asked = named(model_id, model_type, finder, loader, initializer, options, local_model_path)
        return LoadPlan.from_dict(self._verb("plan_load", self.timeout_s, **asked))

    def pin_model(self, model_id: str) -> ModelInfo:
        """Keep a model in memory, whatever the budget says; returns its record, `NotFoundError` if it is not loaded."""
        return ModelInfo.from_dict(self._verb("pin_model", self.timeout_s, model_id=model_id, pinned=True))

    def unpin_model(self, model_id: str) -> ModelInfo:
        """Let a model be evicted again; returns its record, `NotFoundError` if it is not loaded."""
        return ModelInfo.from_dict(self._verb("pin_model", self.timeout_s, model_id=model_id, pinned=False))

    def memory_info(self) -> MemoryInfo:
        """Return the memory of all models against the budget, in bytes, and what unloads have given back so far."""
        return MemoryInfo.from_dict(self._verb("memory_info", self.timeout_s))

    def templates_info(self) -> TemplatesInfo:
        """Return the processes that have imported libraries and fork workers, and which models do without."""
        return TemplatesInfo.from_dict(self._verb("templates_info", self.timeout_s))

    # The models directory

    def undeploy_model(self, model_id: str, *, timeout_s: float | None = None) -> UnloadReport:
        """Unload a model, and remove its files from the models directory; `NotFoundError` if there are none."""
        return UnloadReport.from_dict(self._verb("undeploy_model", timeout_s, model_id=model_id))

    def sync_local_models(
        self,
        wait: bool = False,  # noqa: FBT001, FBT002 - as the customer's system has it
        load: bool = True,  # noqa: FBT001, FBT002 - as above
        *,
        timeout_s: float | None = None,
    ) -> SyncReport:
        """Load what is new in the models directory, unless `load` is false, and unload what is gone from it.

        What the configuration declares (`preload`) is loaded too, and read again if its file has changed. With `wait`
        it returns when all of that has ended, loads of earlier syncs too, else when it is begun.
        """
        return SyncReport.from_dict(self._verb("sync_local_models", timeout_s, wait=wait, load=load))

    # The host

    def events(self, model_id: str | None = None) -> Iterator[Event]:
        """Iterate over transitions as they happen, of one model or of all; all that come after this returns."""
        return calls.events(self._channel, lambda tracker: tracker.subscribe("events", {"model_id": model_id}))

    def watch(self) -> Iterator[Change]:
        """Iterate over how all models are: a snapshot first, then each change, over restarts of the host.

        Until the first snapshot it raises what any verb raises; a host that is lost later is told of as a change.
        """
        return changes(self._channel)

    def host_info(self) -> HostInfo:
        """Return the record of the host."""
        return HostInfo.from_dict(self._verb("host_info", self.timeout_s))

    def host_summary(self) -> HostSummary:
        """Return the memory and each model in short, all of one moment; it may be asked many times a second."""
        return HostSummary.from_dict(self._verb("host_summary", self.timeout_s))

    def reload_config(self) -> dict[str, Any]:
        """Let the host read its configuration file again; returns `file`, `changed` and `needs_restart`.

        `changed` has the old and the new value of each setting that holds from now on, `needs_restart` the names of
        those that differ in the file but cannot be changed while the host runs. Raises `FailedPreconditionError` for a
        host without a configuration file, and, with nothing changed, for a file that is wrong.
        """
        return dict(self._verb("reload_config", self.timeout_s))

    def host_settings(self) -> dict[str, Any]:
        """Return the settings that are in force in the host, in the shape of its configuration file."""
        return dict(self._verb("host_settings", self.timeout_s))

    def metrics_page(self, accept: str = "") -> tuple[str, bytes]:
        """Return the content type and the text of the Prometheus page, in the best form of an HTTP header `Accept`.

        Raises `FailedPreconditionError` if the host has neither `metrics.port` nor an HTTP front, and counts nothing.
        """
        content_type, page = self._verb("metrics_page", self.timeout_s, accept=accept)
        return str(content_type), bytes(page)

    def shutdown(self) -> None:
        """Drain, unload everything and end the host; returns when that is done."""
        self._verb("shutdown", None)

    def _verb(self, verb: str, timeout_s: float | None, **arguments: Any) -> Any:
        return self._channel.ask(lambda tracker: tracker.verb(verb, arguments, timeout_s), timeout_s)

    # What handles use

    def call(
        self, model_id: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout_s: float | None
    ) -> Any:
        """Call a method of a model by name, and return its result."""
        return self._channel.ask(lambda t: t.call(model_id, method, args, kwargs, timeout_s), timeout_s)

    def submit(
        self, model_id: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout_s: float | None
    ) -> calls.PendingCall:
        """Begin a call of a method, and return it."""
        whole_for = "submit"
        return calls.submit(
            self._channel, lambda t: t.call(model_id, method, args, kwargs, timeout_s, whole_for), timeout_s
        )

    def map(
        self, model_id: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout_s: float | None
    ) -> Iterator[Any]:
        """Call a method for each of many inputs, and iterate over the results in their order."""
        call = partial(
            Tracker.call, model_id=model_id, method=method, kwargs=kwargs, timeout_s=timeout_s, whole_for="map"
        )
        return results(self._channel, call, args, timeout_s)

    def stream(
        self, model_id: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout_s: float | None
    ) -> ItemStream:
        """Call a method that yields, and return an iterator over its items."""
        return calls.stream(self._channel, lambda t: t.stream(model_id, method, args, kwargs, timeout_s), timeout_s)
