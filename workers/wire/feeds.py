"""Feeds: items that a caller sends to a call while that runs, no sooner than the model asks for them. Does no I/O.

A call has one feed at most, an argument that the header of the call names. What belongs to it has the id of the call:
CREDIT from the worker, then ITEMs from the caller, at last its END, or an ERROR if what makes the items has failed.

    caller's end   what happens                then       worker's end   what happens                     then
    OPEN           CREDIT came                 OPEN       OPEN           the model asks                   OPEN
    OPEN           an item was made and sent   OPEN       OPEN           ITEM came                        OPEN
    OPEN           there are no more           ENDED      OPEN           END came                         ENDED
    OPEN, ENDED    the call is over            OVER       OPEN, ENDED    the model takes an item          as before
                                                          OPEN, ENDED    the call is over, or is to be    OVER

Whatever else comes is late, or of a peer that does not keep to this, and changes nothing. An input that has failed, a
cancel, a deadline and a flood are reasons for which a call is to be over: the model learns of them where it asks.

Invariants
1. `granted` is what the model had taken when credit was given last, and the window. None is given before the model asks
   for its first item: a call that has not begun has consumed nothing, and can be sent elsewhere.
2. What was sent is never more than was granted: at most a window waits for the model.
3. Of items that the caller does not know to be taken it sends another only while they have less than `FEED_BYTES`.
4. A model that waits has left the caller more than half of the window and of the bytes, or has given the rest: one of
   the two ends can always go on.
5. What comes against 2 or 3 is a flood, for which the call ends (`ProtocolError`).
"""

from __future__ import annotations

import enum
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from hostd_workers.wire.errors import HostError, ProtocolError, from_wire, to_wire

if TYPE_CHECKING:
    from hostd_workers.wire.frames import Envelope

FEED_WINDOW: Final = 64
"""Items that a caller may be ahead of the model, as a model may be of its caller."""

FEED_BYTES: Final = 4 << 20
"""Above that no further item is sent ahead. A call with a feed counts as so much longer, whatever is on its way."""


class FeedState(enum.Enum):
    """What an end of a feed may still do."""

    OPEN = "OPEN"
    ENDED = "ENDED"
    OVER = "OVER"


class FeedSender:
    """The caller's end: how much it may send."""

    __slots__ = ("_granted", "_sent", "_sizes", "_untaken_bytes", "_window", "state")

    def __init__(self, window: int) -> None:
        self._window = window
        self._granted = self._sent = self._untaken_bytes = 0
        self._sizes: deque[int] = deque()
        """Of the items that are not known to be taken."""
        self.state = FeedState.OPEN

    def __repr__(self) -> str:
        return f"<FeedSender {self.state.value} {self._sent} of {self._granted} sent, {self._untaken_bytes} bytes>"

    @property
    def may_send(self) -> bool:
        """Whether another item is wanted."""
        return self.state is FeedState.OPEN and self._sent < self._granted and self._untaken_bytes < FEED_BYTES

    def granted(self, items: int) -> None:
        """Take note of credit."""
        self._granted += items
        while self._sizes and self._sent - len(self._sizes) < self._granted - self._window:
            self._untaken_bytes -= self._sizes.popleft()

    def sent(self, size_bytes: int) -> None:
        """Take note of an item."""
        self._sent += 1
        self._sizes.append(size_bytes)
        self._untaken_bytes += size_bytes

    def end(self) -> None:
        """Take note that there are no more items."""
        if self.state is FeedState.OPEN:
            self.state = FeedState.ENDED

    def close(self) -> None:
        """Take note that the call is over."""
        self.state = FeedState.OVER


class FeedReceiver:
    """The worker's end: the items that wait for the model."""

    __slots__ = (
        "_came",
        "_error",
        "_granted",
        "_taken",
        "_untold_bytes",
        "_waiting",
        "_waiting_bytes",
        "_window",
        "state",
    )

    def __init__(self, window: int) -> None:
        self._window = window
        self._granted = self._came = self._taken = 0
        self._waiting: deque[tuple[Envelope, int]] = deque()
        self._waiting_bytes = 0
        self._untold_bytes = 0
        """Of the items that the model has taken since credit was given last."""
        self._error: HostError | None = None
        self.state = FeedState.OPEN

    def __repr__(self) -> str:
        return f"<FeedReceiver {self.state.value} {self._came} of {self._granted} came, {len(self._waiting)} wait>"

    @property
    def must_wait(self) -> bool:
        """Whether the model has to wait for what comes next."""
        return self.state is FeedState.OPEN and not self._waiting

    @property
    def owed(self) -> int:
        """How much credit `grant` would give."""
        items = self._taken + self._window - self._granted
        is_much = 2 * items >= self._window or 2 * self._untold_bytes >= FEED_BYTES
        return items if is_much and self.state is FeedState.OPEN else 0

    def grant(self) -> int:
        """Return the credit that the caller is to be given now that the model asks; 0: what it has is enough."""
        items = self.owed
        if items:
            self._granted += items
            self._untold_bytes = 0
        return items

    def came(self, item: Envelope) -> None:
        """Take in an item. Raises `ProtocolError` for one that was not asked for."""
        if self.state is not FeedState.OPEN:
            return
        if self._came == self._granted or self._untold_bytes + self._waiting_bytes >= FEED_BYTES:
            raise ProtocolError("the caller has sent an item for which it had no credit")
        size_bytes = size_of(item)
        self._came += 1
        self._waiting.append((item, size_bytes))
        self._waiting_bytes += size_bytes

    def end(self) -> None:
        """Take note that no more items come."""
        if self.state is FeedState.OPEN:
            self.state = FeedState.ENDED

    def take(self) -> Envelope | None:
        """Return the next item, None after the last; raises what has ended the call. Not while it `must_wait`."""
        if self._error is not None:
            raise from_wire(to_wire(self._error))  # a copy: what is raised refers to the frames that it was raised in
        if not self._waiting:
            return None
        item, size_bytes = self._waiting.popleft()
        self._taken += 1
        self._waiting_bytes -= size_bytes
        self._untold_bytes += size_bytes
        return item

    def close(self, why: HostError) -> None:
        """Take note that the call is over, or is to be."""
        if self.state is not FeedState.OVER:
            self.state = FeedState.OVER
            self._error = why
            self._waiting.clear()
            self._waiting_bytes = 0


def size_of(envelope: Envelope) -> int:
    """Return how many bytes an item has, as both ends count them."""
    return len(envelope.body) + sum(map(len, envelope.buffers))


def put(args: list[Any], kwargs: dict[str, Any], place: int | str, value: object) -> bool:
    """Put a feed where an argument is, by its index or its name; say whether there is one."""
    if isinstance(place, int):
        if place >= len(args):
            return False
        args[place] = value
    elif place in kwargs:
        kwargs[place] = value
    else:
        return False
    return True
