"""What clients ask for, as events of the core (`hostd.core.events` says more of events)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostd.core.values import Caller, ClientId, Declared, FilesId, LoadSource, ModelId, Payload, WorkerId
from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class LoadRequested(NamedTuple):
    """A client wants a model loaded; `wait` says whether the answer comes after the load or at once.

    `retries` is how often a failed load is tried again; None leaves it to the configuration. `reload` says that what is
    loaded under the id is unloaded first. `labels` take the place of those that the model has; None leaves these.
    With `cancel_on_timeout` a load that it begins ends when nobody waits for it any more.
    """

    caller: Caller
    model_id: ModelId
    source: LoadSource
    wait: bool
    deadline_s: float | None
    retries: int | None = None
    reload: bool = False
    labels: Mapping[str, str] | None = None
    cancel_on_timeout: bool = False


class RetrieveRequested(NamedTuple):
    """A client wants a handle to a model, and waits for it while it loads.

    `generation` is that of the load that it began; if just that one has failed, its error is the answer.
    """

    caller: Caller
    model_id: ModelId
    deadline_s: float | None
    generation: int | None = None


class UnloadRequested(NamedTuple):
    """A client wants a model gone; `at_once` without waiting for its calls in flight."""

    caller: Caller
    model_id: ModelId
    deadline_s: float | None
    at_once: bool = False


class UnloadAllRequested(NamedTuple):
    """A client wants every model gone that has all `labels`; `at_once` without waiting for their calls in flight."""

    caller: Caller
    deadline_s: float | None
    at_once: bool = False
    labels: Mapping[str, str] = {}


class ShutdownRequested(NamedTuple):
    """Somebody wants the host to end: a client, or a signal (`caller` is None). `at_once` skips the draining."""

    caller: Caller | None
    at_once: bool = False


class DeployRequested(NamedTuple):
    """A client wants to send the files of a model: `(relative name, bytes)` each; `source` has no path yet.

    `folders` are those that are empty, `executables` the names of files that may be executed.
    """

    caller: Caller
    model_id: ModelId
    files: tuple[tuple[str, int], ...]
    source: LoadSource
    retries: int | None
    replace: bool
    keep: bool
    wait: bool
    folders: tuple[str, ...] = ()
    executables: tuple[str, ...] = ()
    labels: Mapping[str, str] | None = None


class DeployCommitRequested(NamedTuple):
    """A client has sent all files of its deploy."""

    caller: Caller
    files_id: FilesId
    deadline_s: float | None


class DeployAbortRequested(NamedTuple):
    """A client gives its deploy up."""

    caller: Caller
    files_id: FilesId


class UndeployRequested(NamedTuple):
    """A client wants a model and its files gone."""

    caller: Caller
    model_id: ModelId
    deadline_s: float | None


class PinRequested(NamedTuple):
    """A client wants a model to be kept whatever the budget says (`is_pinned`), or not to be kept any longer."""

    caller: Caller
    model_id: ModelId
    is_pinned: bool


class SyncRequested(NamedTuple):
    """Somebody wants the registry to follow the models directory.

    `load` says whether new entries are loaded, `wait` whether the answer comes after all loads and unloads, `retry_all`
    whether entries that failed before are tried again although they have not changed. `is_leaving` says that what is
    not loaded now is left alone by later syncs, too. `declared` is what the configuration wants loaded, which it then
    is; None for a sync that leaves it alone. `is_first`: until its scan is over nobody knows which models there are.
    """

    caller: Caller
    wait: bool
    load: bool
    retry_all: bool
    deadline_s: float | None
    is_leaving: bool = False
    declared: Mapping[ModelId, Declared] | None = None
    is_first: bool = False


class CallReceived(NamedTuple):
    """A client calls a method of a model; `size_bytes` counts all frames of `payload`."""

    client: ClientId
    request_id: int
    model_id: ModelId
    method: str
    deadline_s: float | None
    size_bytes: int
    payload: Payload


class LaneRequested(NamedTuple):
    """A client wants to call a model's worker without the host."""

    caller: Caller
    model_id: ModelId


class FateRequested(NamedTuple):
    """A client that has lost its lane to a worker wants to know what became of that."""

    caller: Caller
    worker_id: WorkerId
    deadline_s: float | None


class CallCancelled(NamedTuple):
    """A client does not want its answer any more."""

    caller: Caller


class CreditGranted(NamedTuple):
    """A client is ready for `items` more items of a stream."""

    caller: Caller
    items: int


class FeedReceived(NamedTuple):
    """A client sends an item of a call's feed, or its end."""

    caller: Caller
    payload: Payload


class ClientVanished(NamedTuple):
    """A client's connection is gone."""

    client: ClientId
