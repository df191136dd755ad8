"""What travels to other processes: handles, as references that connect there; the rest is `not_pickled`."""

from __future__ import annotations

import os
from typing import Any
from weakref import WeakValueDictionary

_clients: WeakValueDictionary[tuple[Any, ...], Any] = WeakValueDictionary()
"""The clients of handles that came from elsewhere: one for all to one endpoint, in one process, while there are any."""


def reopened(handle: type[Any], client: tuple[Any, ...], info: Any, timeout_s: float | None) -> Any:
    """Return a handle with a client that connects to the endpoint of the one that was pickled."""
    key = (os.getpid(), *client)
    found = _clients.get(key)
    if found is None:
        kind, endpoint, default_timeout_s, connect_timeout_s = client
        found = _clients[key] = kind(endpoint, timeout_s=default_timeout_s, connect_timeout_s=connect_timeout_s)
    return handle(found, info, timeout_s)
