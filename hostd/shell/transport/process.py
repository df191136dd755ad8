"""The process at the other end of connections. They share what is counted here: more of them have no more of it.

Rules
1. Others are held up for a process only for so long in all (`PATIENCE_S`), however many connections it has.
2. What it takes earns it time, so a process that reads fast may be sent more than it can take at once. Time without
   congestion gives some back, too.
"""

from __future__ import annotations

from time import monotonic
from typing import Final, Generic

from hostd.shell.transport.unfinished import S, Unfinished

PATIENCE_S = 1.0
"""How long others may be held up for a process that takes nothing. One that lives takes something every few
milliseconds, but its container may be out of CPU quota for a few tenths of a second."""

BUFFERS_PER_S = 2.0
"""How often a second a process should take what may wait for it: 64 MiB, where a UNIX socket carries gigabytes. ZeroMQ
reads in a thread of its own, so a program that is slow with its answers is not slow at the socket."""

LOOK_PERIOD_S: Final = 0.05
"""How often to look whether a congested process takes anything; only while there is one."""

_MOST_S: Final = 2 * LOOK_PERIOD_S
"""Of the time between two looks, how much counts: when it is more, it is this program that was late."""

_RECOVERY: Final = 0.1


class PeerProcess(Generic[S]):
    """The connections of one process, `newcomers` those of them that are not vouched for; both in order.

    `queued_bytes` wait to be sent, over all of them, and `taken_bytes` of what had waited were taken; `unfinished` is
    what it has sent of messages that are not whole.
    """

    __slots__ = (
        "_bytes_per_s",
        "_looked_bytes",
        "_looked_s",
        "_patience_s",
        "connections",
        "newcomers",
        "queued_bytes",
        "taken_bytes",
        "unfinished",
    )

    def __init__(self, peer_buffer_bytes: int) -> None:
        self.connections: dict[S, None] = {}
        self.newcomers: dict[S, None] = {}
        self.queued_bytes = self.taken_bytes = 0
        self.unfinished: Unfinished[S] = Unfinished(peer_buffer_bytes)
        self._bytes_per_s = peer_buffer_bytes * BUFFERS_PER_S
        self._patience_s = PATIENCE_S
        self._looked_s, self._looked_bytes = monotonic(), 0

    def congested(self) -> None:
        """Take note that others may be held up for it from now on."""
        self._earn((monotonic() - self._looked_s) * _RECOVERY)

    @property
    def is_out_of_patience(self) -> bool:
        """Whether nobody is held up for it any longer."""
        return self._patience_s < 0

    def has_stalled(self) -> bool:
        """Say whether others were held up for too long. To be called each `LOOK_PERIOD_S` while they are."""
        self._earn(-min(monotonic() - self._looked_s, _MOST_S))
        return self.is_out_of_patience

    def _earn(self, more_s: float) -> None:
        more_s += (self.taken_bytes - self._looked_bytes) / self._bytes_per_s
        self._patience_s = min(PATIENCE_S, self._patience_s + more_s)
        self._looked_s, self._looked_bytes = monotonic(), self.taken_bytes
