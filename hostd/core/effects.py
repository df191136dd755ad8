"""What to do, in the imperative: the only way in which the core reaches the outside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from hostd.core.standing import Standing
from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    from hostd.core.bookkeeping.templates import Base, Kind, Learned, TemplateId
    from hostd.core.events import (
        Caller,
        CallId,
        ClientId,
        FilesId,
        LoadingSpec,
        LoadSource,
        Memory,
        ModelId,
        Origin,
        Payload,
        SyncId,
        WorkerId,
    )
    from hostd.records import Event as StoryEvent
    from hostd_workers.wire.errors import HostError


class FindSpec(NamedTuple):
    """Ask a finder how to load a source; it answers with SpecFound or SpecRefused, perhaps after SpecDelayed."""

    model_id: ModelId
    generation: int
    source: LoadSource
    origin: Origin


class PredictSize(NamedTuple):
    """Find out what a load is expected to take; it comes back as SizePredicted, whatever happens.

    `is_forked`: its worker is to be a template's child, which takes less than a fresh one.
    """

    model_id: ModelId
    generation: int
    path: str | None
    model_type: str
    spec: LoadingSpec
    is_forked: bool = False


class Origination(NamedTuple):
    """How a worker comes into being: forked from a template that is ready within `wait_s`, else afresh, and why.

    `is_learning`: the template is started when another load has shown what to import.
    """

    template_id: TemplateId | None = None
    why_fresh: str = ""
    wait_s: float = 0.0
    is_learning: bool = False


class SpawnWorker(NamedTuple):
    """Start a worker process under the specification's interpreter and environment.

    `cpu_threads` is how many threads its libraries may use, `limit_bytes` what it may take, None for no limit.
    """

    worker_id: WorkerId
    model_id: ModelId
    spec: LoadingSpec
    cpu_threads: int
    limit_bytes: int | None
    origination: Origination = Origination()


class StartTemplate(NamedTuple):
    """Start a process that imports modules; it comes back as TemplateReady or TemplateEnded.

    Workers that were told to wait for it do so from before this on.
    """

    template_id: TemplateId
    base: Base
    modules: tuple[str, ...]


class EndTemplate(NamedTuple):
    """End a template, if it has a process, and have nothing wait for it; it comes back as TemplateEnded.

    `is_hanging`: what it is importing is to be blamed.
    """

    template_id: TemplateId
    reason: str
    is_hanging: bool = False


class RememberImports(NamedTuple):
    """Keep what loads of a kind import, for later hosts."""

    kind: Kind
    learned: Learned


class SendLoad(NamedTuple):
    """Tell the worker what to load; `is_learning`: and to say what that has imported."""

    worker_id: WorkerId
    model_id: ModelId
    path: str | None
    spec: LoadingSpec
    is_forked: bool = False
    is_learning: bool = False


class CloseLanes(NamedTuple):
    """Have the worker begin no call of a lane any more; it comes back as LanesClosed when none is left."""

    worker_id: WorkerId


class OpenLanes(NamedTuple):
    """Have a worker that has closed its lanes take their calls again."""

    worker_id: WorkerId


class CloseModel(NamedTuple):
    """Have a worker that has no call any more let its model finish; it comes back as ModelClosed."""

    worker_id: WorkerId


class MeasureWorker(NamedTuple):
    """Sample the memory of the worker's tree; it comes back as WorkerMeasured, if need be with an estimate."""

    worker_id: WorkerId
    model_id: ModelId
    source: LoadSource


class PauseWorker(NamedTuple):
    """Stop every process of the worker's tree; it comes back as WorkerPauseFailed only if one cannot be stopped."""

    worker_id: WorkerId


class ResumeWorker(NamedTuple):
    """Let the processes go on that PauseWorker has stopped."""

    worker_id: WorkerId


class KillWorker(NamedTuple):
    """End every process of the worker's tree, wait for the proof, and report WorkerGone.

    `measured` is the sample of the tree that just came, if that is why it is killed.
    """

    worker_id: WorkerId
    measured: Memory | None = None


class RememberSize(NamedTuple):
    """Keep what a model turned out to use, for the next time that somebody asks before loading it.

    `is_minimum`: its load was ended when it held so much, and it needs more. `is_forked`: its worker was a template's
    child.
    """

    path: str
    spec: LoadingSpec
    memory: Memory
    load_s: float
    is_minimum: bool = False
    is_forked: bool = False


class StageFiles(NamedTuple):
    """Make a place for the files of a deploy; it comes back as FilesStaged or FilesFailed."""

    files_id: FilesId
    client: ClientId
    model_id: ModelId
    files: tuple[tuple[str, int], ...]
    replace: bool
    folders: tuple[str, ...] = ()
    executables: tuple[str, ...] = ()


class InstallFiles(NamedTuple):
    """Put staged files in their place; it comes back as FilesInstalled or FilesFailed.

    `standing` is kept beside them; where it does not say whether the model is pinned, what was kept before counts.
    """

    files_id: FilesId
    standing: Standing = Standing()


class KeepPin(NamedTuple):
    """Write down beside a model's files whether it is pinned; it comes back as PinKept, whatever happens."""

    files_id: FilesId
    model_id: ModelId
    is_pinned: bool


class CompareFiles(NamedTuple):
    """Find out what a model's files are now; it comes back as FilesCompared, whatever happens."""

    model_id: ModelId
    generation: int
    path: str


class ConfirmFiles(NamedTuple):
    """Make an installation last; it comes back as FilesConfirmed or FilesFailed."""

    files_id: FilesId


class UndoFiles(NamedTuple):
    """Undo what a deploy has done so far, in whatever step it is; it comes back as FilesUndone."""

    files_id: FilesId


class CheckFiles(NamedTuple):
    """See whether there are files to undeploy; it comes back as FilesChecked or FilesFailed."""

    files_id: FilesId
    model_id: ModelId


class RemoveFiles(NamedTuple):
    """Remove the files of a model; it comes back as FilesRemoved or FilesFailed."""

    files_id: FilesId
    model_id: ModelId


class TidyFiles(NamedTuple):
    """Remove what an operation that has been answered no longer needs."""

    files_id: FilesId


class ScanDirectory(NamedTuple):
    """Look at the models directory; it comes back as DirectoryScanned or DirectoryUnavailable.

    `loaded` are the models with a path, as `(id, path)`.
    """

    sync_id: SyncId
    loaded: tuple[tuple[ModelId, str], ...]
    retry_all: bool


class LeaveEntry(NamedTuple):
    """Leave an entry of the models directory alone until its files change, or somebody asks for it."""

    model_id: ModelId


class ForwardCall(NamedTuple):
    """Send a call to the worker under an id of ours, with what is left of its deadline (None: no deadline)."""

    worker_id: WorkerId
    call_id: CallId
    remaining_s: float | None
    payload: Payload


class ForwardCancel(NamedTuple):
    """Tell the worker that nobody waits for the call."""

    worker_id: WorkerId
    call_id: CallId


class ForwardCredit(NamedTuple):
    """Tell the worker that it may send more items of a stream."""

    worker_id: WorkerId
    call_id: CallId
    items: int


class ForwardFeed(NamedTuple):
    """Send the worker what has come for the feed of a call."""

    worker_id: WorkerId
    call_id: CallId
    payload: Payload


class RelayAnswer(NamedTuple):
    """Pass what a worker sent on to the client, under the client's own id."""

    client: ClientId
    request_id: int
    payload: Payload


class Answer(NamedTuple):
    """Answer a request of the control plane with plain values; what is not the last answer is an item."""

    caller: Caller
    value: Any
    is_last: bool = True


class AnswerError(NamedTuple):
    """Answer a request with an error."""

    caller: Caller
    error: HostError


class Announce(NamedTuple):
    """Tell all that listen about a transition."""

    event: StoryEvent


class Stop(NamedTuple):
    """Nothing is left: end the supervisor."""


Effect: TypeAlias = (
    FindSpec
    | PredictSize
    | SpawnWorker
    | StartTemplate
    | EndTemplate
    | RememberImports
    | SendLoad
    | CloseLanes
    | OpenLanes
    | CloseModel
    | MeasureWorker
    | PauseWorker
    | ResumeWorker
    | KillWorker
    | RememberSize
    | StageFiles
    | InstallFiles
    | KeepPin
    | CompareFiles
    | ConfirmFiles
    | UndoFiles
    | CheckFiles
    | RemoveFiles
    | TidyFiles
    | ScanDirectory
    | LeaveEntry
    | ForwardCall
    | ForwardCancel
    | ForwardCredit
    | ForwardFeed
    | RelayAnswer
    | Answer
    | AnswerError
    | Announce
    | Stop
)


def refusal(caller: Caller, error: HostError) -> AnswerError:
    """Return the answer to a request that ends with an error.

    Without its frames: they know the event, in a circle with this error, until a collection comes.
    """
    return AnswerError(caller, error.with_traceback(None))
