"""The records of programs that keep a view of a host: a summary at one moment, and what has changed since.

Sizes are bytes. What is not known is None.
"""

from __future__ import annotations

from dataclasses import field

from hostd.record import Record
from hostd.records import ModelInfo  # noqa: TC001 - `typing.get_type_hints` of a record needs it
from hostd_workers.wire.light_dataclass import dataclass


@dataclass(frozen=True)
class ModelSummary(Record):
    """A model in a `HostSummary`.

    `charge_bytes` is what it counts against the budget, `reload_s` how long its worker took to load it, and may take
    again, `in_flight` how many calls its workers have.
    """

    state: str
    generation: int = 0
    charge_bytes: int = 0
    reload_s: float | None = None
    in_flight: int = 0
    pinned: bool = False


@dataclass(frozen=True)
class HostSummary(Record):
    """A host at one moment, for those that decide where a model is loaded or called.

    `epoch` differs after every start of the host, and its `state` is that of `HostInfo`. The sizes are those of
    `MemoryInfo`. `models` are all that the host knows by id, also those that are evicted or whose load failed; what
    is merely in the models directory is not among them.
    """

    epoch: str
    state: str
    budget_bytes: int | None = None
    free_bytes: int | None = None
    measured_bytes: int = 0
    reserved_bytes: int = 0
    models: dict[str, ModelSummary] = field(default_factory=dict)

    _revived = {  # noqa: RUF012 - a ClassVar, by its base
        "models": lambda models: {model_id: ModelSummary.from_dict(model) for model_id, model in models.items()}
    }


SNAPSHOT = "snapshot"
CHANGED = "changed"
REMOVED = "removed"
LOST = "lost"


@dataclass(frozen=True)
class Change(Record):
    """What a watch of a host tells; `kind` says which of these it is.

    "snapshot": `models` are all that there are, whatever was known before. "changed": `models` has the one that is new
    or is not what it was. "removed": the host knows nothing of `model_id` any more. "lost": the host cannot be reached,
    and `reason` says why; when it can be again, a snapshot follows.

    `epoch` differs after every start of the host, and `number` counts its changes, of which none is left out between
    two snapshots. The models are those of a `HostSummary`. Figures that change all the time (sizes, calls, latencies)
    make no change, and are those of the moment of the last one.
    """

    kind: str
    epoch: str = ""
    number: int = 0
    models: tuple[ModelInfo, ...] = ()
    model_id: str = ""
    reason: str = ""
