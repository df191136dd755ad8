"""Fair shares: how much of something bounded one client may have, while others may want some of it too.

The host and its workers count by the same rule and refuse in the same words, whichever of them a call comes to.

Rules
1. No more than the capacity is ever given out.
2. A client that has nothing gets a first piece while there is room for it.
3. Beyond that, a client has at most twice what stays free, divided by the number of clients that have something.

Theory
Rule 3 is the threshold of Active Buffer Management (Addanki, Apostolaki, Ghobadi, Schmid and Vanbever, 2022), with
alpha = 2: Dynamic Thresholds (Choudhury and Hahne, 1998), divided by the number of active queues. What is free speaks
for everybody, so nobody has to be asked to give anything back.

* A client alone gets two thirds of the capacity: x = 2 (C - x).
* If n clients give back and ask again, each comes to have an n-th of these two thirds. What has more is not admitted
  meanwhile, what has less is.
* If n clients take all that they can and give nothing back, 2 C / ((n + 1) (n + 2)) stay free for the next.
  Proof: order the clients by when each was admitted last. The i-th was so beside i - 1 others that have as much or less
  now, and got at most 2 / (i + 2) of what those had left.
* So a client is refused for another's doing only above its first piece, or when there are more clients than pieces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from hostd_workers.wire.errors import ResourceExhaustedError

if TYPE_CHECKING:
    from collections.abc import Hashable

K = TypeVar("K")


def capacity_for(limit: int) -> int:
    """Return the capacity of which a client alone gets `limit`; the rest is for those that come while it has that."""
    return limit + (limit + 1) // 2


class Shares(Generic[K]):
    """How much of one thing each client (or other owner) has. The capacity is an argument, because settings change."""

    __slots__ = ("_by_client", "total")

    def __init__(self) -> None:
        self._by_client: dict[Hashable, int] = {}
        self.total = 0

    def __repr__(self) -> str:
        return f"<Shares {self.total} of {len(self)} clients>"

    def __len__(self) -> int:
        """Return how many clients have something."""
        return len(self._by_client)

    def of(self, client: K) -> int:
        """Return how much a client has."""
        return self._by_client.get(self._owner(client), 0)

    def allows(self, client: K, amount: int, capacity: int) -> bool:
        """Say whether a client may have so much more."""
        free = capacity - self.total - amount
        own = self._by_client.get(self._owner(client))
        if own is None:
            return free >= 0
        return (own + amount) * len(self._by_client) <= 2 * free

    def ask(self, client: K, amount: int, capacity: int) -> bool:
        """Give so much to a client if it may have that, and say whether."""
        is_allowed = self.allows(client, amount, capacity)
        if is_allowed:
            self.take(client, amount)
        return is_allowed

    def take(self, client: K, amount: int = 1) -> None:
        """Give so much to a client, allowed or not."""
        if amount:
            owner, mine = self._owner(client), self._by_client
            mine[owner] = mine.get(owner, 0) + amount
            self.total += amount

    def give_back(self, client: K, amount: int = 1) -> None:
        """Take so much back."""
        if amount:  # a client with nothing may give nothing back
            owner, mine = self._owner(client), self._by_client
            left = mine[owner] = mine[owner] - amount
            if not left:
                del mine[owner]
            self.total -= amount

    def clients(self) -> list[Hashable]:
        """Return which owners have something."""
        return list(self._by_client)

    def _owner(self, client: K) -> Hashable:
        return client


def check_in_flight(shares: Shares[K], client: K, model_id: str, limit: int, doing: str) -> None:
    """Raise `ResourceExhaustedError` if a client may have no more calls of a model that are `doing` something."""
    if not shares.allows(client, 1, capacity_for(limit)):
        raise too_many(model_id, shares.total, shares.of(client), limit, doing)


def too_many(model_id: str, total: int, own: int, limit: int, doing: str) -> ResourceExhaustedError:
    """Return the error of a client that has too many calls of a model which are `doing` something."""
    return ResourceExhaustedError(
        f"model {model_id!r} has {total} {'call' if total == 1 else 'calls'} {doing}, {own} of this client; a client "
        f"may have {limit} (workers.max_in_flight), and fewer if others call too: call more slowly"
    )


def check_bytes(shares: Shares[K], client: K, size_bytes: int, capacity: int) -> None:
    """Raise `ResourceExhaustedError` if calls in flight may not hold so much more for a client."""
    if not shares.allows(client, size_bytes, capacity):
        raise too_long(shares, client, size_bytes, capacity)


def too_long(shares: Shares[K], client: K, size_bytes: int, capacity: int) -> ResourceExhaustedError:
    """Return the error of a client whose calls in flight may not hold so much more."""
    return ResourceExhaustedError(
        f"calls in flight hold {shares.total} bytes, {shares.of(client)} of this client; {size_bytes} more are "
        f"over the limit of {capacity} (limits.max_in_flight_bytes), or over this client's share of it: "
        "send less at a time"
    )
