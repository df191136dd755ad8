"""What a model may see of the request that it answers: a task method may ask caikit for the request's context.

The context itself is a connection of the serving process. A gRPC one arrives in the worker as a `WorkerContext` with
the request's metadata, its peer and the time that was left; an HTTP one as a request with the same address and headers.
What would act on the connection does nothing in the worker: a model cannot set trailing metadata, but it can raise.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import grpc

_SCOPE = ("type", "http_version", "method", "scheme", "path", "root_path", "query_string", "client", "server")


class WorkerContext(grpc.ServicerContext):  # type: ignore[misc]
    """A gRPC request's context, as far as it can be had in another process."""

    def __init__(self, metadata: tuple[tuple[str, Any], ...], peer: str, expires_s: float | None) -> None:
        self._metadata = metadata
        self._peer = peer
        self._expires_s = expires_s

    def invocation_metadata(self) -> tuple[tuple[str, Any], ...]:
        """Return the metadata that the client sent."""
        return self._metadata

    def peer(self) -> str:
        """Return who called, as gRPC names it."""
        return self._peer

    def time_remaining(self) -> float | None:
        """Return the seconds that are left, None if the client set no deadline."""
        return None if self._expires_s is None else max(0.0, self._expires_s - time.monotonic())

    def is_active(self) -> bool:
        """Say that the call goes on: its end ends the work."""
        return True

    def abort(self, code: grpc.StatusCode, details: str) -> None:
        """Raise, as the context of a server does."""
        from caikit.runtime.types.caikit_runtime_exception import CaikitRuntimeException  # noqa: PLC0415 - few do

        raise CaikitRuntimeException(code, details)

    def abort_with_status(self, status: Any) -> None:
        """Raise, as the context of a server does."""
        self.abort(status.code, status.details)

    def _nothing(self, *_: Any, **__: Any) -> None:
        """Do nothing: this acts on the connection."""

    add_callback = cancel = send_initial_metadata = set_trailing_metadata = set_code = set_details = _nothing
    peer_identities = peer_identity_key = disable_next_message_compression = set_compression = _nothing

    def auth_context(self) -> dict[str, Any]:
        """Return nothing: who called is for the serving process to check."""
        return {}


def kept_of(value: Any) -> dict[str, Any] | None:
    """Return what is kept of a request's context; None if this is none."""
    if isinstance(value, grpc.ServicerContext):
        metadata = [[str(key), item] for key, item in value.invocation_metadata() or ()]
        return {"kind": "grpc", "metadata": metadata, "peer": str(value.peer()), "left_s": _left_s(value)}
    starlette = sys.modules.get("starlette.requests")
    if starlette is not None and isinstance(value, starlette.Request):
        scope = {key: value.scope[key] for key in _SCOPE if key in value.scope}
        return {"kind": "http", "scope": scope, "headers": [[key, item] for key, item in value.scope["headers"]]}
    return None


def again(kept: dict[str, Any]) -> Any:
    """Return a context for a model to look at."""
    if kept["kind"] == "grpc":
        expires_s = None if kept["left_s"] is None else time.monotonic() + kept["left_s"]
        return WorkerContext(tuple((key, item) for key, item in kept["metadata"]), kept["peer"], expires_s)
    from fastapi import Request  # noqa: PLC0415 - only where the runtime serves HTTP

    return Request({**kept["scope"], "headers": [(key, item) for key, item in kept["headers"]]})


def _left_s(value: Any) -> float | None:
    left_s = value.time_remaining()
    return float(left_s) if isinstance(left_s, (int, float)) else None
