"""What happened, in the past tense: the only way in which the outside reaches the core.

Named tuples rather than dataclasses, because one is made for every request and every answer (a frozen dataclass costs
four times as much to make). `payload` is opaque: the core never looks into it. The values that they carry are named
here too, so that the outside needs this module alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from hostd.core.values import Caller as Caller
from hostd.core.values import CallId as CallId
from hostd.core.values import ClientId as ClientId
from hostd.core.values import FilesId as FilesId
from hostd.core.values import LoadingSpec as LoadingSpec
from hostd.core.values import LoadSource as LoadSource
from hostd.core.values import Memory as Memory
from hostd.core.values import ModelId as ModelId
from hostd.core.values import Origin as Origin
from hostd.core.values import Payload as Payload
from hostd.core.values import SyncId as SyncId
from hostd.core.values import WorkerId as WorkerId

if TYPE_CHECKING:
    from hostd.records import MethodInfo, SizeEstimate
    from workers.wire.errors import HostError

# Requests


class LoadRequested(NamedTuple):
    """A client wants a model loaded; `wait` says whether the answer comes after the load or at once.

    `retries` is how often a failed load is tried again; None leaves it to the configuration.
    """

    caller: Caller
    model_id: ModelId
    source: LoadSource
    wait: bool
    deadline_s: float | None
    retries: int | None = None


class RetrieveRequested(NamedTuple):
    """A client wants a handle to a model, and waits for it while it loads.

    `generation` is that of the load that it began; if just that one has failed, its error is the answer.
    """

    caller: Caller
    model_id: ModelId
    deadline_s: float | None
    generation: int | None = None


class UnloadRequested(NamedTuple):
    """A client wants a model gone."""

    caller: Caller
    model_id: ModelId
    deadline_s: float | None


class UnloadAllRequested(NamedTuple):
    """A client wants every model gone."""

    caller: Caller
    deadline_s: float | None


class ShutdownRequested(NamedTuple):
    """Somebody wants the host to end: a client, or a signal (`caller` is None). `at_once` skips the draining."""

    caller: Caller | None
    at_once: bool = False


class DeployRequested(NamedTuple):
    """A client wants to send the files of a model: `(relative name, bytes)` each; `source` has no path yet."""

    caller: Caller
    model_id: ModelId
    files: tuple[tuple[str, int], ...]
    source: LoadSource
    retries: int | None
    replace: bool
    keep: bool
    wait: bool


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


class SyncRequested(NamedTuple):
    """Somebody wants the registry to follow the models directory.

    `load` says whether new entries are loaded, `wait` whether the answer comes after all loads and unloads, `retry_all`
    whether entries that failed before are tried again although they have not changed. `is_leaving` says that what is
    not loaded now is left alone by later syncs, too.
    """

    caller: Caller
    wait: bool
    load: bool
    retry_all: bool
    deadline_s: float | None
    is_leaving: bool = False


class CallReceived(NamedTuple):
    """A client calls a method of a model; `size_bytes` counts all frames of `payload`."""

    client: ClientId
    request_id: int
    model_id: ModelId
    method: str
    deadline_s: float | None
    size_bytes: int
    payload: Payload


class CallCancelled(NamedTuple):
    """A client does not want its answer any more."""

    caller: Caller


class CreditGranted(NamedTuple):
    """A client is ready for `items` more items of a stream."""

    caller: Caller
    items: int


class ClientVanished(NamedTuple):
    """A client's connection is gone."""

    client: ClientId


# Finding and workers


class SpecFound(NamedTuple):
    """A finder knows how to load the model, and from which path."""

    model_id: ModelId
    generation: int
    spec: LoadingSpec
    path: str | None


class SpecDelayed(NamedTuple):
    """The model's files are still being written; they are looked at again."""

    model_id: ModelId
    generation: int
    reason: str


class SpecRefused(NamedTuple):
    """No finder knows how to load the model, or what it found is wrong."""

    model_id: ModelId
    generation: int
    error: HostError


class WorkerSpawned(NamedTuple):
    """The worker has a process; it has said nothing yet."""

    worker_id: WorkerId
    pid: int


class WorkerSpawnFailed(NamedTuple):
    """The operating system made no process for the worker."""

    worker_id: WorkerId
    error: HostError


class WorkerSaidHello(NamedTuple):
    """The worker is up and speaks our protocol."""

    worker_id: WorkerId


class WorkerLoaded(NamedTuple):
    """The worker has loaded its model and serves these methods."""

    worker_id: WorkerId
    loader: str
    methods: dict[str, MethodInfo]
    default_method: str | None


class WorkerRefusedLoad(NamedTuple):
    """The model could not be loaded."""

    worker_id: WorkerId
    error: HostError


class WorkerMeasured(NamedTuple):
    """A memory sample of the worker's tree; None if the tree could not be read, with an estimate instead if asked."""

    worker_id: WorkerId
    memory: Memory | None
    estimate: SizeEstimate | None = None


class WorkerAnswered(NamedTuple):
    """The worker sent something for a call; `final` if it is the last, `failed` if it is an error."""

    worker_id: WorkerId
    call_id: CallId
    final: bool
    failed: bool
    payload: Payload


class WorkerSpokeLastWords(NamedTuple):
    """The worker says why it is about to end."""

    worker_id: WorkerId
    error: HostError


class WorkerExited(NamedTuple):
    """The operating system says that the worker's own process ended; `how` says in words how."""

    worker_id: WorkerId
    how: str


class WorkerGone(NamedTuple):
    """The proof: the worker's process and all of its descendants are gone.

    `freed_bytes` is their private memory just before the kill, `processes` how many there were.
    """

    worker_id: WorkerId
    freed_bytes: int
    processes: int


class WorkerUnreachable(NamedTuple):
    """A message to the worker could not be sent: its queue is full (`is_full`) or it has no connection."""

    worker_id: WorkerId
    call_id: CallId
    is_full: bool


# Files


class FilesStaged(NamedTuple):
    """There is a place for the files of a deploy."""

    files_id: FilesId


class FilesInstalled(NamedTuple):
    """The files of a deploy lie at `path`, in the place of earlier ones if there were any; they can still be undone."""

    files_id: FilesId
    path: str


class FilesConfirmed(NamedTuple):
    """What a deploy installed stays, whatever happens from now on."""

    files_id: FilesId


class FilesUndone(NamedTuple):
    """Nothing is left of a deploy; `error` if the system did not let us, so that the next start has to."""

    files_id: FilesId
    error: HostError | None


class FilesChecked(NamedTuple):
    """The files of an undeploy are there."""

    files_id: FilesId


class FilesRemoved(NamedTuple):
    """The files of an undeploy are gone for good."""

    files_id: FilesId


class FilesFailed(NamedTuple):
    """What was to be done with files next could not be done; nothing of that step is left."""

    files_id: FilesId
    error: HostError


class DirectoryScanned(NamedTuple):
    """The models directory was looked at: entries `(id, path)` that may be loaded, and loaded models that are gone."""

    sync_id: SyncId
    found: tuple[tuple[ModelId, str], ...]
    gone: tuple[ModelId, ...]


class DirectoryUnavailable(NamedTuple):
    """The models directory could not be looked at."""

    sync_id: SyncId
    reason: str


class TimePassed(NamedTuple):
    """The deadline that `next_deadline` named has come."""


Event: TypeAlias = (
    LoadRequested
    | RetrieveRequested
    | UnloadRequested
    | UnloadAllRequested
    | ShutdownRequested
    | DeployRequested
    | DeployCommitRequested
    | DeployAbortRequested
    | UndeployRequested
    | SyncRequested
    | CallReceived
    | CallCancelled
    | CreditGranted
    | ClientVanished
    | SpecFound
    | SpecDelayed
    | SpecRefused
    | WorkerSpawned
    | WorkerSpawnFailed
    | WorkerSaidHello
    | WorkerLoaded
    | WorkerRefusedLoad
    | WorkerMeasured
    | WorkerAnswered
    | WorkerSpokeLastWords
    | WorkerExited
    | WorkerGone
    | WorkerUnreachable
    | FilesStaged
    | FilesInstalled
    | FilesConfirmed
    | FilesUndone
    | FilesChecked
    | FilesRemoved
    | FilesFailed
    | DirectoryScanned
    | DirectoryUnavailable
    | TimePassed
)
