"""What happened, in the past tense: the only way in which the outside reaches the core.

Named tuples rather than dataclasses, because one is made for every request and every answer (a frozen dataclass costs
four times as much to make). `payload` is opaque: the core never looks into it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, NewType, TypeAlias

if TYPE_CHECKING:
    from hostd.records import MethodInfo
    from workers.wire.errors import HostError

ClientId = NewType("ClientId", bytes)
WorkerId = NewType("WorkerId", int)
CallId = NewType("CallId", int)
ModelId = NewType("ModelId", str)

Payload: TypeAlias = Any


class Caller(NamedTuple):
    """Who waits for an answer: a client and the id that it gave its request."""

    client: ClientId
    request_id: int


class LoadSource(NamedTuple):
    """What a load was asked to load; the same id with another source is another model."""

    path: str | None
    type: str
    finder: str | None
    initializer: str | None
    options: dict[str, Any]


class LoadingSpec(NamedTuple):
    """What a finder made of a source: everything that a worker needs to load the model.

    `loader` is a built-in name or `module:attr`, `python` the interpreter or None for the host's own, `methods` the
    only ones to expose or None for all.
    """

    loader: str
    options: dict[str, Any]
    python: str | None
    env: dict[str, str]
    methods: tuple[str, ...] | None
    default_method: str | None


class Memory(NamedTuple):
    """A sample of a worker's whole tree, in bytes summed over `processes`; None where the system did not tell."""

    processes: int
    rss_bytes: int
    uss_bytes: int | None
    pss_bytes: int | None
    peak_bytes: int | None


# Requests


class LoadRequested(NamedTuple):
    """A client wants a model loaded; `wait` says whether the answer comes after the load or at once."""

    caller: Caller
    model_id: ModelId
    source: LoadSource
    wait: bool
    deadline_s: float | None


class RetrieveRequested(NamedTuple):
    """A client wants a handle to a model, and waits for it while it loads."""

    caller: Caller
    model_id: ModelId
    deadline_s: float | None


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
    """A finder knows how to load the model."""

    model_id: ModelId
    generation: int
    spec: LoadingSpec


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
    """A memory sample of the worker's tree; None if the tree could not be read."""

    worker_id: WorkerId
    memory: Memory | None


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


class TimePassed(NamedTuple):
    """The deadline that `next_deadline` named has come."""


Event: TypeAlias = (
    LoadRequested
    | RetrieveRequested
    | UnloadRequested
    | UnloadAllRequested
    | ShutdownRequested
    | CallReceived
    | CallCancelled
    | CreditGranted
    | ClientVanished
    | SpecFound
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
    | TimePassed
)
