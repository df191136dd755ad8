"""A model host: every model in processes of its own, sizes that are measured, unloads that are proven.

    import hostd

    with hostd.Host() as host:
        client = host.client()
        model = client.load_model("digits", "models/digits")
        print(model.predict(x), model.size)
        print(client.unload_model("digits"))

`connect()` reaches a host that runs already (`hostd serve`).
"""

from __future__ import annotations

from hostd.client import connect
from hostd.client.aio import AsyncClient, AsyncModel
from hostd.client.calls import PendingCall
from hostd.client.sync import Client, Model
from hostd.embed import Host
from hostd.records import Event, HostInfo, MethodInfo, ModelInfo, SizeEstimate, SyncReport, UnloadReport, WorkerInfo
from hostd.version import __version__
from workers.wire.errors import (
    AbortedError,
    AlreadyExistsError,
    CancelledError,
    DeadlineExceededError,
    FailedPreconditionError,
    HostError,
    InternalError,
    InvalidArgumentError,
    MessageTooLargeError,
    ModelError,
    NotFoundError,
    PermissionDeniedError,
    ProtocolError,
    ResourceExhaustedError,
    Status,
    UnavailableError,
    UnimplementedError,
    VersionMismatchError,
)

__all__ = [
    "AbortedError",
    "AlreadyExistsError",
    "AsyncClient",
    "AsyncModel",
    "CancelledError",
    "Client",
    "DeadlineExceededError",
    "Event",
    "FailedPreconditionError",
    "Host",
    "HostError",
    "HostInfo",
    "InternalError",
    "InvalidArgumentError",
    "MessageTooLargeError",
    "MethodInfo",
    "Model",
    "ModelError",
    "ModelInfo",
    "NotFoundError",
    "PendingCall",
    "PermissionDeniedError",
    "ProtocolError",
    "ResourceExhaustedError",
    "SizeEstimate",
    "Status",
    "SyncReport",
    "UnavailableError",
    "UnimplementedError",
    "UnloadReport",
    "VersionMismatchError",
    "WorkerInfo",
    "__version__",
    "connect",
]
