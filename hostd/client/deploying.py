"""A deploy as both clients carry it out: its limits, its arguments, and its time.

Covers neither the files (`files`) nor the requests, which each client sends in its own way.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from hostd_workers.wire.errors import DeadlineExceededError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from hostd.client.files import Collected

    Progress: TypeAlias = Callable[[int, int], object]

CHUNK_BYTES = 2**20
"""The most that a host accepts in one piece. At this size the round trip is hidden by the window, and a piece is short
enough that other clients of the host, and a cancel, do not wait for it."""

WINDOW = 4
"""Pieces that may be unanswered: one that the host writes, one that it has received, one on the wire, and one to spare.
With the one that is read meanwhile the client holds 5 MiB; a host lets an upload have 8 MiB unanswered."""

ABORT_TIMEOUT_S = 5.0
"""How long to wait for the host to clean up. It does so in any case; the answer only says that it is done."""

_ROOM_FOR_ENVELOPE_BYTES = 512
"""What a piece's message has besides the piece: its prefix, its header and the map around the data."""


class Deadline:
    """The time that is left of a timeout for several requests together."""

    def __init__(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s
        self._end_s = None if timeout_s is None else time.monotonic() + timeout_s

    def left_s(self) -> float | None:
        """Return the seconds that are left, None for no limit. Raises `DeadlineExceededError` if there are none."""
        if self._end_s is None:
            return None
        left_s = self._end_s - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceededError(f"the deploy was not done within {self._timeout_s:g} s")
        return left_s


def files_arguments(collected: Collected) -> dict[str, Any]:
    """Return what the verb `deploy_begin` says about the files."""
    parts, folders = collected
    executables = [index for index, part in enumerate(parts) if part.is_executable]
    return {
        "files": [[part.name, part.size_bytes] for part in parts],
        # Only if there are any: a host of an older version knows neither.
        **({"folders": folders} if folders else {}),
        **({"executables": executables} if executables else {}),
    }


def chunk_bytes(max_message_bytes: int | None) -> int:
    """Return how big a piece may be for a host that accepts messages of that size."""
    if max_message_bytes is None:
        return CHUNK_BYTES
    return max(1, min(CHUNK_BYTES, max_message_bytes - _ROOM_FOR_ENVELOPE_BYTES))


def is_worth_an_abort(error: BaseException) -> bool:
    """Say whether the host may still have the upload: when a connection breaks it drops what came over it."""
    return not isinstance(error, UnavailableError)
