"""What a supervisor and its templates say to each other, on a socket pair of packets, with descriptors beside them.

An order is a packet with three descriptors or four: a memfd that holds its environment as JSON, the worker's log, a
socket for answers, and the page of its figures. On that socket the child says its `pid` and waits for `GO`, then that
it `leads` a session and waits for `GO`. Or the template says why there is none: `refused` (the system makes no process)
or `stale` (a library was installed anew). A template says once `ready` with `import_s`, and perhaps what
`keeps_one_thread`; or `unsafe`, a module with the reason.
"""

from __future__ import annotations

import json
from typing import Any, Final

CONTROL_FD: Final = 3
"""Of the socket, in a template."""

NOTE_FD: Final = 4
"""Of a memfd, in a template: what to import, as JSON; then what is being imported, which tells what hangs."""

PAGE_FD: Final = 3
"""Of the page of figures, in a worker: the first descriptor that a process does not have by itself."""

ORDER: Final = b"F"
GO: Final = b"G"
MAX_FDS: Final = 4
ANSWERS: Final = 2
"""The place of the socket for answers among the descriptors of an order."""

MAX_PACKET: Final = 64 * 1024

NOTE_BYTES: Final = 512
"""Of the note of a module that is being imported."""


def packed(what: dict[str, Any]) -> bytes:
    """Return a packet."""
    return json.dumps(what).encode()


def unpacked(packet: bytes) -> dict[str, Any]:
    """Return what a packet says; nothing of one that is none."""
    try:
        said = json.loads(packet)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def noted(module: str) -> bytes:
    """Return the note that a module is being imported."""
    return module.encode()[:NOTE_BYTES].ljust(NOTE_BYTES, b"\0")
