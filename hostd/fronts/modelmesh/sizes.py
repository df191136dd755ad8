"""What a model may take that is not loaded, said at once: of several guesses the one that knows most.

Rules
1. What the host has measured or a model declares is taken as it is.
2. What is only known by its files is their size times what a sizer multiplies it by, and never less than an interpreter
   needs. Of several such figures the greatest counts: ModelMesh wants to hear too much rather than too little.
3. Of what nothing is known the default size is assumed.
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Final

from hostd.sizers import DEFAULT_MULTIPLIER

if TYPE_CHECKING:
    from hostd.records import SizeEstimate

LEAST_BYTES: Final = 32 * 2**20
"""What an interpreter with NumPy has to itself when it has loaded a model of a few bytes."""

_GUESSED: Final = "estimated"
"""The source of an estimate that is made from files."""


def predicted_bytes(
    estimate: SizeEstimate | None, disk_bytes: int | None, seen_bytes: int | None, default_bytes: int
) -> int:
    """Return the size of a model from the host's estimate, what its key says of its files, and what was seen of them.

    Each is None where that is not known.
    """
    if estimate is not None and estimate.source != _GUESSED:
        return estimate.bytes
    found = [int(size * DEFAULT_MULTIPLIER) for size in (disk_bytes, seen_bytes) if size is not None]
    if estimate is not None:
        found.append(estimate.bytes)
    return max(LEAST_BYTES, *found) if found else default_bytes


def disk_bytes_of(model_key: str) -> int | None:
    """Return `disk_size_bytes` of a model's key, which is JSON from ModelMesh's controller and anything from others."""
    try:
        key = json.loads(model_key)
    except (ValueError, RecursionError):
        return None
    found = key.get("disk_size_bytes") if isinstance(key, dict) else None
    is_size = isinstance(found, int) and not isinstance(found, bool) and 0 < found < 2**62
    return found if is_size else None


def seen_bytes_of(path: str, within_s: float) -> int | None:
    """Return the bytes of a file, or of all files below a directory; None if there are none or it takes too long."""
    until_s = time.monotonic() + within_s
    if not path:
        return None
    try:
        if not os.path.isdir(path):  # noqa: PTH112 - as a Path an odd name would raise
            return os.path.getsize(path)  # noqa: PTH202 - as above
        total = 0
        for directory, _, names in os.walk(path):
            for name in names:
                if time.monotonic() > until_s:
                    return None
                total += os.path.getsize(os.path.join(directory, name))  # noqa: PTH118, PTH202 - as above
    except (OSError, ValueError):
        return None
    return total
