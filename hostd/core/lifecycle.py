"""The lives of workers and models, as tables.

Rules
1. A state changes only by a row of a table here; what has no row is a broken invariant and changes nothing.
2. A worker is DEAD only by GONE: the operating system said that every process of its tree has ended (or by
   SPAWN_FAILED: there never was one). EXITED alone is not enough, because descendants may live on.
3. A model is UNLOADED only when every worker of it is DEAD.

Theory: a worker is told one thing at a time (spawn, load, drain, close, kill) and answers or dies. Death may come in
any state, so EXITED and KILL have a row in every living one, and both lead through KILLING, where the shell kills what
is left of the tree and waits for the proof. An action beside a row is what the shell must do because of it. A worker
that is PAUSED does nothing, but what it said just before may still arrive: it stays PAUSED with its model loaded, or
ends. CLOSING has only one whose model has something to finish (`closing`).
"""

from __future__ import annotations

import enum
from typing import Final, TypeAlias


class WorkerState(enum.Enum):
    """Where a worker process is in its life."""

    SPAWNING = "SPAWNING"
    IDLE = "IDLE"
    LOADING = "LOADING"
    PAUSED = "PAUSED"
    READY = "READY"
    DRAINING = "DRAINING"
    CLOSING = "CLOSING"
    KILLING = "KILLING"
    DEAD = "DEAD"


class WorkerInput(enum.Enum):
    """What can happen to a worker."""

    HELLO = "HELLO"
    ASSIGN = "ASSIGN"
    LOADED = "LOADED"
    MEASURED = "MEASURED"
    PAUSE = "PAUSE"
    RESUME = "RESUME"
    LOAD_FAILED = "LOAD_FAILED"
    DRAIN = "DRAIN"
    DRAINED = "DRAINED"
    CLOSE = "CLOSE"
    CLOSED = "CLOSED"
    KILL = "KILL"
    EXITED = "EXITED"
    GONE = "GONE"
    SPAWN_FAILED = "SPAWN_FAILED"


class WorkerAction(enum.Enum):
    """What a row of the worker's table asks the shell to do."""

    SEND_LOAD = "SEND_LOAD"
    MEASURE = "MEASURE"
    PAUSE = "PAUSE"
    RESUME = "RESUME"
    CLOSE = "CLOSE"
    KILL = "KILL"


class LaneState(enum.Enum):
    """Whether clients may call a worker without the host; UNUSED: none was told of it, CLOSING: calls may go on."""

    UNUSED = "UNUSED"
    OPEN = "OPEN"
    CLOSING = "CLOSING"
    CLOSED = "CLOSED"


class ModelState(enum.Enum):
    """What a model is for its users."""

    LOADING = "LOADING"
    READY = "READY"
    DEGRADED = "DEGRADED"
    UNLOADING = "UNLOADING"
    UNLOADED = "UNLOADED"
    FAILED = "FAILED"
    QUARANTINED = "QUARANTINED"


class ModelInput(enum.Enum):
    """What can happen to a model."""

    LOAD_SUCCEEDED = "LOAD_SUCCEEDED"
    LOAD_FAILED = "LOAD_FAILED"
    WORKER_LOST = "WORKER_LOST"
    LAST_WORKER_LOST = "LAST_WORKER_LOST"
    UNLOAD = "UNLOAD"
    EVICT = "EVICT"
    ALL_GONE = "ALL_GONE"


State: TypeAlias = "WorkerState | ModelState"
Input: TypeAlias = "WorkerInput | ModelInput"

_W, _I, _A = WorkerState, WorkerInput, WorkerAction

WORKER_TRANSITIONS: Final[dict[tuple[WorkerState, WorkerInput], tuple[WorkerState, tuple[WorkerAction, ...]]]] = {
    (_W.SPAWNING, _I.HELLO): (_W.IDLE, ()),
    (_W.SPAWNING, _I.KILL): (_W.KILLING, (_A.KILL,)),
    (_W.SPAWNING, _I.EXITED): (_W.KILLING, (_A.KILL,)),
    (_W.SPAWNING, _I.SPAWN_FAILED): (_W.DEAD, ()),
    (_W.IDLE, _I.ASSIGN): (_W.LOADING, (_A.SEND_LOAD,)),
    (_W.IDLE, _I.KILL): (_W.KILLING, (_A.KILL,)),
    (_W.IDLE, _I.EXITED): (_W.KILLING, (_A.KILL,)),
    (_W.IDLE, _I.SPAWN_FAILED): (_W.DEAD, ()),
    (_W.LOADING, _I.LOADED): (_W.LOADING, (_A.MEASURE,)),
    (_W.LOADING, _I.MEASURED): (_W.READY, ()),
    (_W.LOADING, _I.LOAD_FAILED): (_W.KILLING, (_A.KILL,)),
    (_W.LOADING, _I.KILL): (_W.KILLING, (_A.KILL,)),
    (_W.LOADING, _I.EXITED): (_W.KILLING, (_A.KILL,)),
    (_W.LOADING, _I.PAUSE): (_W.PAUSED, (_A.PAUSE,)),
    (_W.LOADING, _I.CLOSE): (_W.CLOSING, (_A.CLOSE,)),
    (_W.PAUSED, _I.RESUME): (_W.LOADING, (_A.RESUME,)),
    (_W.PAUSED, _I.LOADED): (_W.PAUSED, ()),
    (_W.PAUSED, _I.LOAD_FAILED): (_W.KILLING, (_A.KILL,)),
    (_W.PAUSED, _I.KILL): (_W.KILLING, (_A.KILL,)),
    (_W.PAUSED, _I.EXITED): (_W.KILLING, (_A.KILL,)),
    (_W.READY, _I.DRAIN): (_W.DRAINING, ()),
    (_W.READY, _I.CLOSE): (_W.CLOSING, (_A.CLOSE,)),
    (_W.READY, _I.KILL): (_W.KILLING, (_A.KILL,)),
    (_W.READY, _I.EXITED): (_W.KILLING, (_A.KILL,)),
    (_W.DRAINING, _I.DRAINED): (_W.KILLING, (_A.KILL,)),
    (_W.DRAINING, _I.CLOSE): (_W.CLOSING, (_A.CLOSE,)),
    (_W.DRAINING, _I.KILL): (_W.KILLING, (_A.KILL,)),
    (_W.DRAINING, _I.EXITED): (_W.KILLING, (_A.KILL,)),
    (_W.CLOSING, _I.CLOSED): (_W.KILLING, (_A.KILL,)),
    (_W.CLOSING, _I.KILL): (_W.KILLING, (_A.KILL,)),
    (_W.CLOSING, _I.EXITED): (_W.KILLING, (_A.KILL,)),
    (_W.KILLING, _I.EXITED): (_W.KILLING, ()),
    (_W.KILLING, _I.GONE): (_W.DEAD, ()),
    (_W.KILLING, _I.SPAWN_FAILED): (_W.DEAD, ()),
}

_M, _E = ModelState, ModelInput

MODEL_TRANSITIONS: Final[dict[tuple[ModelState, ModelInput], ModelState]] = {
    (_M.LOADING, _E.LOAD_SUCCEEDED): _M.READY,
    (_M.LOADING, _E.LOAD_FAILED): _M.FAILED,
    (_M.LOADING, _E.UNLOAD): _M.UNLOADING,
    (_M.READY, _E.WORKER_LOST): _M.DEGRADED,
    (_M.READY, _E.LAST_WORKER_LOST): _M.FAILED,
    (_M.READY, _E.UNLOAD): _M.UNLOADING,
    (_M.READY, _E.EVICT): _M.UNLOADING,
    (_M.DEGRADED, _E.LOAD_SUCCEEDED): _M.READY,
    (_M.DEGRADED, _E.WORKER_LOST): _M.DEGRADED,
    (_M.DEGRADED, _E.LAST_WORKER_LOST): _M.FAILED,
    (_M.DEGRADED, _E.UNLOAD): _M.UNLOADING,
    (_M.DEGRADED, _E.EVICT): _M.UNLOADING,
    (_M.FAILED, _E.UNLOAD): _M.UNLOADING,
    (_M.QUARANTINED, _E.UNLOAD): _M.UNLOADING,
    (_M.UNLOADING, _E.ALL_GONE): _M.UNLOADED,
}

ALIVE: Final = frozenset(WorkerState) - {WorkerState.DEAD}

SERVING: Final = (ModelState.READY, ModelState.DEGRADED)
"""A model in one of these states answers calls."""


def diagram() -> str:
    """Return both tables as Mermaid state diagrams, for `docs/lifecycle.md`; a test keeps the page current."""
    return "\n\n".join(
        (
            _mermaid({(old, why): new for (old, why), (new, _) in WORKER_TRANSITIONS.items()}),
            _mermaid(dict(MODEL_TRANSITIONS.items())),
        )
    )


def _mermaid(rows: dict[tuple[State, Input], State]) -> str:
    lines = [f"    {old.value} --> {new.value}: {why.value}" for (old, why), new in rows.items()]
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```"])
