"""The client library: a tracker of requests without I/O, and a synchronous and an asyncio client around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostd.client.arguments import CONNECT_TIMEOUT_S, DEFAULT_TIMEOUT_S

if TYPE_CHECKING:
    from hostd import Client


def connect(
    endpoint: str | None = None,
    *,
    timeout_s: float | None = DEFAULT_TIMEOUT_S,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    wait_s: float = 0.0,
    direct: bool = True,
) -> Client:
    """Return a client of the host called `endpoint`, or at it: `connect("two")`, `connect("ipc:///path/client.ipc")`.

    Without an endpoint it is `HOSTD_ENDPOINT`, or the host that `hostd serve` starts for this user. `timeout_s` is the
    default for calls (None: no deadline). Raises `UnavailableError` at once if no host is there, with the names of
    those that are; `wait_s` waits for it to come up. One that is there has `connect_timeout_s` to answer. A host that
    goes away later has as long to come back, when the next call connects again. After the first ones, calls on the
    host's machine go to the model's worker itself, over a UNIX socket; with `direct=False` all of them go by the host.

    The client is thread safe. In a signal handler or a finalizer that interrupts a call of the same client in the same
    thread, `close`, `submit` and `cancel` work, and whatever waits raises `FailedPreconditionError`.
    """
    from hostd import Client  # noqa: PLC0415 - a host that starts imports this package, and needs no client yet

    return Client(endpoint, timeout_s=timeout_s, connect_timeout_s=connect_timeout_s, wait_s=wait_s, direct=direct)
