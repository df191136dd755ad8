"""What has happened inside one `handle`, and of which more follows.

What decides notes it in `Registry.happened` and goes on. When the event is dealt with, `Core` takes one after the
other and does what its table says, until nothing is left: what follows from what, and in which order, stands there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from hostd_workers.wire.light_dataclass import dataclass

if TYPE_CHECKING:
    from hostd.core.models import Model, Unload
    from hostd.core.values import Caller, ModelId
    from hostd.records import UnloadReport
    from hostd_workers.wire.errors import HostError


@dataclass(frozen=True, eq=False)
class LoadEnded:
    """A load has ended, and the callers that waited for it were answered; `error` is None if it succeeded.

    `is_overtaken`: by an unload of its model; that end is told later.
    """

    model: Model
    error: HostError | None
    is_overtaken: bool = False


@dataclass(frozen=True, eq=False)
class UnloadEnded:
    """A model is UNLOADED, and the callers that waited for that were answered."""

    unload: Unload
    report: UnloadReport


@dataclass(frozen=True, eq=False)
class ReloadBegun:
    """Somebody has had a model reloaded, and waits for no more than to hear that."""

    caller: Caller
    model_id: ModelId


@dataclass(frozen=True)
class HeadroomChanged:
    """Because of something, loads that wait for memory, or models that yield for them, may perhaps go on."""


@dataclass(frozen=True)
class ModelIdle:
    """A model that nobody asked to yield has had its last call in flight answered."""


Happening: TypeAlias = "LoadEnded | UnloadEnded | ReloadBegun | HeadroomChanged | ModelIdle"

HEADROOM_CHANGED = HeadroomChanged()
MODEL_IDLE = ModelIdle()
