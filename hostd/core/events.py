"""What happened, in the past tense: the only way in which the outside reaches the core.

Named tuples rather than dataclasses, because one is made for every request and every answer (a frozen dataclass costs
four times as much to make). `payload` is opaque: the core never looks into it. The values that they carry are named
here too, so that the outside needs this module alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from hostd.core.requests import CallCancelled as CallCancelled
from hostd.core.requests import CallReceived as CallReceived
from hostd.core.requests import ClientVanished as ClientVanished
from hostd.core.requests import CreditGranted as CreditGranted
from hostd.core.requests import DeployAbortRequested as DeployAbortRequested
from hostd.core.requests import DeployCommitRequested as DeployCommitRequested
from hostd.core.requests import DeployRequested as DeployRequested
from hostd.core.requests import FateRequested as FateRequested
from hostd.core.requests import FeedReceived as FeedReceived
from hostd.core.requests import LaneRequested as LaneRequested
from hostd.core.requests import LoadRequested as LoadRequested
from hostd.core.requests import PinRequested as PinRequested
from hostd.core.requests import RetrieveRequested as RetrieveRequested
from hostd.core.requests import ShutdownRequested as ShutdownRequested
from hostd.core.requests import SyncRequested as SyncRequested
from hostd.core.requests import UndeployRequested as UndeployRequested
from hostd.core.requests import UnloadAllRequested as UnloadAllRequested
from hostd.core.requests import UnloadRequested as UnloadRequested
from hostd.core.standing import Standing as Standing
from hostd.core.values import Caller as Caller
from hostd.core.values import CallId as CallId
from hostd.core.values import ClientId as ClientId
from hostd.core.values import Death as Death
from hostd.core.values import Declared as Declared
from hostd.core.values import DirectoryEntry as DirectoryEntry
from hostd.core.values import FilesId as FilesId
from hostd.core.values import Lane as Lane
from hostd.core.values import Limits as Limits
from hostd.core.values import LoadingSpec as LoadingSpec
from hostd.core.values import LoadSource as LoadSource
from hostd.core.values import Memory as Memory
from hostd.core.values import MemoryPolicy as MemoryPolicy
from hostd.core.values import ModelId as ModelId
from hostd.core.values import Origin as Origin
from hostd.core.values import Payload as Payload
from hostd.core.values import Prediction as Prediction
from hostd.core.values import SyncId as SyncId
from hostd.core.values import WorkerId as WorkerId
from hostd.records import STANDALONE as STANDALONE
from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    from hostd.core.bookkeeping.templates import Kind, Learned, TemplateId
    from hostd.core.config import CoreConfig
    from hostd.records import MethodInfo, SizeEstimate
    from hostd_workers.wire.errors import HostError

# Finding and workers


class SpecFound(NamedTuple):
    """A finder knows how to load the model, and from which path; `standing` is what holds for each load of it."""

    model_id: ModelId
    generation: int
    spec: LoadingSpec
    path: str | None
    standing: Standing = Standing()


class SizePredicted(NamedTuple):
    """What the load of a model is expected to take."""

    model_id: ModelId
    generation: int
    prediction: Prediction


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
    """The worker has a process; it may have said hello before. `template_id` is what it was forked from, if it was."""

    worker_id: WorkerId
    pid: int
    template_id: TemplateId | None = None
    why_fresh: str = ""


class WorkerSpawnFailed(NamedTuple):
    """The operating system made no process for the worker."""

    worker_id: WorkerId
    error: HostError


class WorkerSaidHello(NamedTuple):
    """The worker is up and speaks our protocol."""

    worker_id: WorkerId


class BaselineMeasured(NamedTuple):
    """How much memory of its own a worker has before it is told what to load, as the host has measured it."""

    worker_id: WorkerId
    baseline_bytes: int


class WorkerLoaded(NamedTuple):
    """The worker has loaded its model and serves these methods.

    `warnings` are the texts of what the loader, its libraries and the model warned of. `has_close`: the model has
    something to finish before it is ended.
    """

    worker_id: WorkerId
    loader: str
    methods: dict[str, MethodInfo]
    default_method: str | None
    warnings: tuple[str, ...] = ()
    lane: Lane | None = None
    has_close: bool = False


class WorkerImported(NamedTuple):
    """What modules of installed distributions a worker has imported to load its model, in order."""

    worker_id: WorkerId
    modules: tuple[str, ...]


class ImportsRecalled(NamedTuple):
    """What earlier hosts have learned about imports; `usual` is what hosts of this one's name have loaded most.

    `is_bare_begun`: the template that has imported nothing was started with the host.
    """

    known: tuple[tuple[Kind, Learned], ...]
    usual: Kind | None = None
    is_bare_begun: bool = False


class TemplateReady(NamedTuple):
    """A template has imported its modules, and forks workers from now on. It holds so many bytes."""

    template_id: TemplateId
    pid: int
    import_s: float
    held_bytes: int


class TemplateEnded(NamedTuple):
    """A template has no process any more, or never had one; `module` is what made it unfit to be forked, "" if none.

    `is_stale`: libraries were installed anew.
    """

    template_id: TemplateId
    reason: str
    module: str = ""
    is_stale: bool = False


class LanesClosed(NamedTuple):
    """The worker has no call of a lane any more, and begins none."""

    worker_id: WorkerId


class ModelClosed(NamedTuple):
    """The model has finished; `problem` says what went wrong with that, or is ""."""

    worker_id: WorkerId
    problem: str = ""


class WorkerRefusedLoad(NamedTuple):
    """The model could not be loaded."""

    worker_id: WorkerId
    error: HostError


class WorkerMeasured(NamedTuple):
    """A memory sample of the worker's tree; None if the tree could not be read, with an estimate instead if asked.

    `asked_s` is when it was asked for: it was read at some moment between that and now.
    """

    worker_id: WorkerId
    memory: Memory | None
    asked_s: float
    estimate: SizeEstimate | None = None


class WorkerPauseFailed(NamedTuple):
    """The worker's tree could not be stopped as a whole, and may go on to grow."""

    worker_id: WorkerId
    reason: str


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


class WorkerDisconnected(NamedTuple):
    """The worker's connection has ended, `reason` says how; its process may live, and has no other connection.

    Nothing that is said under its token counts from now on.
    """

    worker_id: WorkerId
    reason: str


class WorkerExited(NamedTuple):
    """The operating system says that the worker's own process ended; `how` says in words how, `death` why if known.

    `stack` is the beginning of what faulthandler wrote if it crashed, "" if that wrote nothing.
    """

    worker_id: WorkerId
    how: str
    death: Death = Death.UNEXPLAINED
    stack: str = ""


class WorkerGone(NamedTuple):
    """The proof: the worker's process and all of its descendants are gone.

    `freed_bytes` is what their end gave back, `processes` how many there were. `output` is the end of what a worker
    printed that never said hello; "" for any other.
    """

    worker_id: WorkerId
    freed_bytes: int
    processes: int
    output: str = ""


class WorkerNotEnded(NamedTuple):
    """Processes of a worker that was killed are still there, `reason` says which and why; it is being tried again.

    `is_beyond_reach`: the system does not let this host end them, so that their end may never come.
    """

    worker_id: WorkerId
    reason: str
    is_beyond_reach: bool


class WorkerUnreachable(NamedTuple):
    """A message to the worker could not be sent: its queue is full (`is_full`) or it has no connection.

    That is a call, or what belongs to one that `has_begun`.
    """

    worker_id: WorkerId
    call_id: CallId
    is_full: bool
    has_begun: bool = False


# Files


class FilesStaged(NamedTuple):
    """There is a place for the files of a deploy."""

    files_id: FilesId


class FilesWritten(NamedTuple):
    """A client has sent a piece of a file for its deploy."""

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


class PinKept(NamedTuple):
    """Whether a model is pinned is written down beside its files; `error` if it could not be."""

    files_id: FilesId
    error: HostError | None


class FilesNoted(NamedTuple):
    """The digest of the files of a load that begins; None: it is not known."""

    model_id: ModelId
    generation: int
    digest: str | None


class FilesCompared(NamedTuple):
    """The digest of a loaded model's files as they are now; "": they are gone, None: it is not known."""

    model_id: ModelId
    generation: int
    digest: str | None


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
    """The models directory was looked at: entries `(id, path)` that may be loaded, and loaded models that are gone.

    `digests` are those of the files of loaded models that are there, as far as they are known.
    """

    sync_id: SyncId
    found: tuple[tuple[ModelId, str], ...]
    gone: tuple[ModelId, ...]
    digests: tuple[tuple[ModelId, str], ...] = ()


class DirectoryUnavailable(NamedTuple):
    """The models directory could not be looked at."""

    sync_id: SyncId
    reason: str


class SettingsChanged(NamedTuple):
    """The configuration was reloaded: what the core decides by from now on. Deadlines that run are left as they are.

    A budget is not switched on or off by it.
    """

    config: CoreConfig


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
    | PinRequested
    | SyncRequested
    | CallReceived
    | LaneRequested
    | FateRequested
    | CallCancelled
    | CreditGranted
    | FeedReceived
    | ClientVanished
    | SpecFound
    | SizePredicted
    | SpecDelayed
    | SpecRefused
    | WorkerSpawned
    | WorkerSpawnFailed
    | WorkerSaidHello
    | BaselineMeasured
    | WorkerLoaded
    | WorkerImported
    | ImportsRecalled
    | TemplateReady
    | TemplateEnded
    | LanesClosed
    | ModelClosed
    | WorkerRefusedLoad
    | WorkerMeasured
    | WorkerPauseFailed
    | WorkerAnswered
    | WorkerSpokeLastWords
    | WorkerDisconnected
    | WorkerExited
    | WorkerGone
    | WorkerNotEnded
    | WorkerUnreachable
    | FilesStaged
    | FilesWritten
    | FilesInstalled
    | FilesConfirmed
    | FilesUndone
    | PinKept
    | FilesNoted
    | FilesCompared
    | FilesChecked
    | FilesRemoved
    | FilesFailed
    | DirectoryScanned
    | DirectoryUnavailable
    | SettingsChanged
    | TimePassed
)
