"""What is known by caller, so that what belongs to one client is found without a look at that of all others."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Generic, TypeVar

from hostd.core.values import Caller

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hostd.core.values import ClientId

V = TypeVar("V")


class ByClient(Generic[V]):
    """A value for each caller. Everything takes the same time however many clients there are."""

    __slots__ = ("_by_client", "_count")

    def __init__(self) -> None:
        self._by_client: dict[ClientId, dict[int, V]] = {}
        self._count = 0

    def __repr__(self) -> str:
        return f"<ByClient {self._count} of {len(self._by_client)} clients>"

    def __len__(self) -> int:
        return self._count

    def __contains__(self, caller: Caller) -> bool:
        own = self._by_client.get(caller.client)
        return own is not None and caller.request_id in own

    def __iter__(self) -> Iterator[Caller]:
        for client, own in self._by_client.items():
            for request_id in own:
                yield Caller(client, request_id)

    def __getitem__(self, caller: Caller) -> V:
        return self._by_client[caller.client][caller.request_id]

    def __setitem__(self, caller: Caller, value: V) -> None:
        own = self._by_client.get(caller.client)
        if own is None:
            own = self._by_client[caller.client] = {}
        before = len(own)
        own[caller.request_id] = value
        self._count += len(own) - before

    def get(self, caller: Caller) -> V | None:
        """Return the value of a caller, or None."""
        own = self._by_client.get(caller.client)
        return None if own is None else own.get(caller.request_id)

    def pop(self, caller: Caller) -> V:
        """Return the value of a caller that has one, and forget it."""
        own = self._by_client[caller.client]
        value = own.pop(caller.request_id)
        self._count -= 1
        if not own:
            del self._by_client[caller.client]
        return value

    def values(self) -> Iterator[V]:
        """Yield the values of all callers."""
        for own in self._by_client.values():
            yield from own.values()

    def of(self, client: ClientId, at_most: int | None = None) -> list[Caller]:
        """Return the callers of one client, or the first of them, in the order in which they came."""
        return [Caller(client, request_id) for request_id in islice(self._by_client.get(client, ()), at_most)]
