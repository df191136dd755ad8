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

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from hostd.version import __version__
from hostd_workers.wire.errors import (
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

if TYPE_CHECKING:
    from hostd.client import connect
    from hostd.client._async.client import AsyncClient
    from hostd.client._async.model import AsyncModel
    from hostd.client._sync.calls import PendingCall
    from hostd.client._sync.client import Client
    from hostd.client._sync.model import Model
    from hostd.client.feed import Feed
    from hostd.embed import Host
    from hostd.log_lines import LogLine
    from hostd.records import (
        Event,
        Holder,
        HostInfo,
        LoadPlan,
        MemoryInfo,
        MethodInfo,
        ModelInfo,
        SizeEstimate,
        SyncReport,
        TemplateInfo,
        TemplatesInfo,
        TensorInfo,
        UnloadReport,
        WorkerInfo,
    )
    from hostd.views import Change, HostSummary, ModelSummary

__all__ = [
    "AbortedError",
    "AlreadyExistsError",
    "AsyncClient",
    "AsyncModel",
    "CancelledError",
    "Change",
    "Client",
    "DeadlineExceededError",
    "Event",
    "FailedPreconditionError",
    "Feed",
    "Holder",
    "Host",
    "HostError",
    "HostInfo",
    "HostSummary",
    "InternalError",
    "InvalidArgumentError",
    "LoadPlan",
    "LogLine",
    "MemoryInfo",
    "MessageTooLargeError",
    "MethodInfo",
    "Model",
    "ModelError",
    "ModelInfo",
    "ModelSummary",
    "NotFoundError",
    "PendingCall",
    "PermissionDeniedError",
    "ProtocolError",
    "ResourceExhaustedError",
    "SizeEstimate",
    "Status",
    "SyncReport",
    "TemplateInfo",
    "TemplatesInfo",
    "TensorInfo",
    "UnavailableError",
    "UnimplementedError",
    "UnloadReport",
    "VersionMismatchError",
    "WorkerInfo",
    "__version__",
    "connect",
]

_RECORDS = "hostd.records"
_HOMES = {
    "Change": "hostd.views",
    "HostSummary": "hostd.views",
    "ModelSummary": "hostd.views",
    "AsyncClient": "hostd.client._async.client",
    "AsyncModel": "hostd.client._async.model",
    "Client": "hostd.client._sync.client",
    "Feed": "hostd.client.feed",
    "Host": "hostd.embed",
    "Model": "hostd.client._sync.model",
    "PendingCall": "hostd.client._sync.calls",
    "LogLine": "hostd.log_lines",
    "connect": "hostd.client",
}
"""Where the names are that are imported when they are first asked for; all others are records. The supervisor is no
client of anybody, and to import one would take a fifth of its start; and what it does first needs no records."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_module(_HOMES.get(name, _RECORDS))
    for public in __all__:
        # Also what came along: a host has clients, and they have handles. Another thread may be importing one.
        if hasattr(module := sys.modules.get(_HOMES.get(public, _RECORDS)), public):
            globals()[public] = getattr(module, public)
    _name_public()
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _name_public() -> None:
    """Have tracebacks and reprs say where users import things from, and not where they are written."""
    for name in __all__:
        thing = globals().get(name)
        if hasattr(thing, "__module__"):
            thing.__module__ = __name__


_name_public()
