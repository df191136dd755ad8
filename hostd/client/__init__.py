"""The client library: a tracker of requests without I/O, and a synchronous and an asyncio client around it."""

from __future__ import annotations

from hostd.client.arguments import CONNECT_TIMEOUT_S, DEFAULT_TIMEOUT_S
from hostd.client.sync import Client


def connect(
    endpoint: str | None = None,
    *,
    timeout_s: float | None = DEFAULT_TIMEOUT_S,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
) -> Client:
    """Return a client of the host at `endpoint`.

    Without an endpoint it is `HOSTD_ENDPOINT`, or the host that `hostd serve` starts for this user. `timeout_s` is the
    default for calls (None: no deadline). Raises `UnavailableError` if no host answers within `connect_timeout_s`.
    """
    return Client(endpoint, timeout_s=timeout_s, connect_timeout_s=connect_timeout_s)
