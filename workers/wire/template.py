"""What a supervisor and its templates say to each other, on a socket pair of packets, with descriptors beside them.

An order is a packet with three descriptors or four: a memfd that holds what is different in its environment, the
worker's log, a socket for answers, and the page of its figures. On that socket the child says its `pid`, waits for
`GO`, and says that it `leads` a session. Or there is none: `refused` (the system makes no process) or `stale` (a
library was installed anew). A template says once `ready` with `import_s` and perhaps what `keeps_one_thread`, or
`unsafe`, a module with the reason; and of each `spare` its number.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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

PID_BYTES: Final = 8
"""Of the number that a spare says in the pipe to its template when it is prepared; a byte more says that it has an
order."""

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


def packed_changes(environment: Mapping[str, str], base: Mapping[str, str]) -> bytes:
    """Return what an environment has that its template's has not: NAME=value, or NAME alone of what it has not.

    Each has a zero byte at its end. Raises `ValueError` for what no environment can hold, as a start does.
    """
    if any("=" in name or "\0" in name + value for name, value in environment.items()):
        raise ValueError("an environment cannot have a name with = in it, or a zero byte")
    entries = [f"{name}={value}" for name, value in environment.items() if base.get(name) != value]
    entries += base.keys() - environment.keys()
    return b"".join(os.fsencode(entry) + b"\0" for entry in entries)


def unpacked_changes(packed: bytes) -> Iterator[tuple[str, str | None]]:
    """Yield names with their values, None for what is not there, of what `packed_changes` has returned."""
    for entry in packed.split(b"\0")[:-1]:
        name, is_there, value = os.fsdecode(entry).partition("=")
        yield name, value if is_there else None


def noted(module: str) -> bytes:
    """Return the note that a module is being imported."""
    return module.encode()[:NOTE_BYTES].ljust(NOTE_BYTES, b"\0")
