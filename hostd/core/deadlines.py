"""What deadlines the core has, each a key of `Timers`; a call's is its id."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostd_workers.wire.light_dataclass import dataclass

if TYPE_CHECKING:
    from hostd.core.bookkeeping.templates import TemplateId
    from hostd.core.models import Load, Model
    from hostd.core.values import Caller, ClientId, FilesId, WorkerId


@dataclass(frozen=True)
class WorkerTimer:
    """The deadline of whatever a worker is doing now."""

    worker_id: WorkerId


@dataclass(frozen=True)
class TemplateTimer:
    """The deadline of whatever a template is doing now, or when nobody may have needed it for long enough."""

    template_id: TemplateId


@dataclass(frozen=True)
class ConnectionTimer:
    """When a worker that lost its connection should have ended."""

    worker_id: WorkerId


@dataclass(frozen=True)
class LoadTimer:
    """The deadline of the step that a load is in; while its worker starts and is not paused, that has the deadline."""

    load: Load


@dataclass(frozen=True)
class IdleTimer:
    """When nobody may have used a model for long enough."""

    model: Model


@dataclass(frozen=True)
class UploadTimer:
    """When nothing may have come for an upload for too long."""

    files_id: FilesId


@dataclass(frozen=True)
class HeadroomTimer:
    """When models may have become ready to yield for others."""


@dataclass(frozen=True)
class WaiterTimer:
    """The deadline of a caller that waits for the control plane."""

    caller: Caller


@dataclass(frozen=True)
class HeldTimer:
    """The deadline of a call that waits for its model to be loaded."""

    caller: Caller


@dataclass(frozen=True)
class GoneTimer:
    """When the next calls of a client that has gone are ended."""

    client: ClientId
