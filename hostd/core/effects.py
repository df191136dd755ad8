"""What to do, in the imperative: the only way in which the core reaches the outside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from hostd.core.events import Caller, CallId, ClientId, LoadingSpec, LoadSource, ModelId, Payload, WorkerId
    from hostd.records import Event as StoryEvent
    from workers.wire.errors import HostError


class FindSpec(NamedTuple):
    """Ask a finder how to load a source; it answers with SpecFound or SpecRefused."""

    model_id: ModelId
    generation: int
    source: LoadSource


class SpawnWorker(NamedTuple):
    """Start a worker process under the specification's interpreter and environment."""

    worker_id: WorkerId
    model_id: ModelId
    spec: LoadingSpec


class SendLoad(NamedTuple):
    """Tell the worker what to load."""

    worker_id: WorkerId
    model_id: ModelId
    path: str | None
    spec: LoadingSpec


class MeasureWorker(NamedTuple):
    """Sample the memory of the worker's tree; it comes back as WorkerMeasured."""

    worker_id: WorkerId


class KillWorker(NamedTuple):
    """End every process of the worker's tree, wait for the proof, and report WorkerGone."""

    worker_id: WorkerId


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


class RelayAnswer(NamedTuple):
    """Pass what a worker sent on to the client, under the client's own id."""

    client: ClientId
    request_id: int
    payload: Payload


class Answer(NamedTuple):
    """Answer a request of the control plane with plain values."""

    caller: Caller
    value: Any


class AnswerError(NamedTuple):
    """Answer a request with an error."""

    caller: Caller
    error: HostError


class Announce(NamedTuple):
    """Tell everybody who listens about a transition."""

    event: StoryEvent


class Stop(NamedTuple):
    """Nothing is left: end the supervisor."""


Effect: TypeAlias = (
    FindSpec
    | SpawnWorker
    | SendLoad
    | MeasureWorker
    | KillWorker
    | ForwardCall
    | ForwardCancel
    | ForwardCredit
    | RelayAnswer
    | Answer
    | AnswerError
    | Announce
    | Stop
)
