"""What one process may have the supervisor hold of messages that have not come whole. Does no I/O; the poller asks it.

Rules
1. The oldest unfinished message of a process goes on, whatever it takes: so one of `limits.max_message_bytes` can
   always come, and every message has its turn to be the oldest.
2. The process's other connections share a fourth of `limits.peer_buffer_bytes`. When they hold more, those amid a
   message are not read on; when they hold half of it, none is. What they send waits in the process's own buffers.
3. What has come counts, and what it takes to keep it: not what was announced.
4. A process that holds more than the fourth must send. Its oldest message is looked at each second, and has stalled if
   too little of it has come (`Connection.pace_bytes`) between any two of so many looks. Looks are counted, not seconds:
   a supervisor that was stopped itself blames nobody.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Generic, Protocol, TypeVar

LARGE_LOOK_PERIOD_S: Final = 1.0

_IDLE_LOOKS: Final = 10
"""Our clients send from memory, but an array may be mapped from a disk that sleeps or a share that hangs a moment."""


class Sender(Protocol):
    """What is asked of a connection.

    `held_bytes` of what it sent are held, it has sent so many `messages` whole, and `come_bytes` in all. `told` and
    `blockers` are not 0 while it is for us to go on; else `pace_bytes` should come each second.
    """

    come_bytes: int
    told: int
    blockers: int

    @property
    def held_bytes(self) -> int: ...  # noqa: D102 - see above

    @property
    def messages(self) -> int: ...  # noqa: D102

    @property
    def pace_bytes(self) -> int: ...  # noqa: D102


S = TypeVar("S", bound=Sender)


class Unfinished(Generic[S]):
    """The unfinished messages of one process, and its connections that wait until there are fewer bytes of them."""

    __slots__ = (
        "_begin_bytes",
        "_come_bytes",
        "_go_on_bytes",
        "_held",
        "_idle_looks",
        "_looked_at",
        "_total_bytes",
        "is_due",
        "waiting",
    )

    def __init__(self, peer_buffer_bytes: int) -> None:
        self._go_on_bytes = peer_buffer_bytes // 4
        self._begin_bytes = peer_buffer_bytes // 2
        self._held: OrderedDict[S, tuple[int, int]] = OrderedDict()
        """What each connection holds, and the number of its message; the oldest first."""
        self._total_bytes = 0
        self._looked_at: S | None = None
        self._come_bytes = self._idle_looks = 0
        self.waiting: OrderedDict[S, None] = OrderedDict()
        """Those that are not read."""
        self.is_due = False
        """Whether the poller comes back to let others of them go on."""

    def __repr__(self) -> str:
        return f"<Unfinished {len(self._held)} messages, {self._total_bytes} bytes, {len(self.waiting)} wait>"

    @property
    def is_large(self) -> bool:
        """Whether the process has to go on, or lose its oldest message."""
        return self._total_bytes > self._go_on_bytes

    def note(self, connection: S) -> bool:
        """Take note of what a connection holds now; say whether anything is held, or was."""
        held_bytes = connection.held_bytes
        before = self._held.get(connection)
        if before is not None:
            self._total_bytes -= before[0]
            if not held_bytes or connection.messages != before[1]:
                del self._held[connection]
        elif not held_bytes:
            return False
        if held_bytes:
            self._held[connection] = held_bytes, connection.messages
            self._total_bytes += held_bytes
        return True

    def forget(self, connection: S) -> None:
        """Take note of the end of a connection."""
        self.waiting.pop(connection, None)
        self._total_bytes -= self._held.pop(connection, (0, 0))[0]
        if self._looked_at is connection:
            self._looked_at = None  # it has the memory of what has come

    def must_wait(self, connection: S) -> bool:
        """Say whether a connection may not be read now."""
        if self._total_bytes <= self._go_on_bytes:
            return False
        oldest, (oldest_bytes, _) = next(iter(self._held.items()))
        limit_bytes = self._go_on_bytes if connection in self._held else self._begin_bytes
        return connection is not oldest and self._total_bytes - oldest_bytes > limit_bytes

    def next(self) -> S | None:
        """Return the next connection that waits and need not any more; None: there is none."""
        waiting = self.waiting
        for connections in (self._held, waiting):
            first = next(iter(connections), None)
            if first is not None and first in waiting and not self.must_wait(first):
                del waiting[first]
                return first
        return None

    def look(self) -> S | None:
        """Return the connection that has stalled in a message, if one has. To be called each `LARGE_LOOK_PERIOD_S`."""
        oldest = next(iter(self._held))
        come_bytes = oldest.come_bytes
        is_our_turn = oldest.told or oldest.blockers
        if is_our_turn or oldest is not self._looked_at or come_bytes - self._come_bytes >= oldest.pace_bytes:
            self._idle_looks = 0
        else:
            self._idle_looks += 1
        self._looked_at, self._come_bytes = oldest, come_bytes
        return oldest if self._idle_looks >= _IDLE_LOOKS else None
