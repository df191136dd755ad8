"""What clients follow: items without end, which come as things happen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.bookkeeping.by_client import ByClient
from hostd.core.bookkeeping.shares import ClientShares
from hostd.units import counted
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import encode
from hostd_workers.wire.errors import InvalidArgumentError, ResourceExhaustedError

if TYPE_CHECKING:
    from collections.abc import Hashable

    from hostd.records import Event
    from hostd.shell.supervisor import Supervisor
    from hostd.shell.verbs import Request

_MAX_SUBSCRIPTIONS = 64
"""Of one client: every one of them costs a message at every transition."""

_MAX_ALL_SUBSCRIPTIONS = 4096
"""Of all clients, in fair shares: an event to so many takes the loop 20 ms."""

ALL = None
"""The topic of the transitions of all models."""


class Subscriptions:
    """Who follows what: `ALL` transitions, those of a model (its id), or something else that has a topic of its own."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._topics: ByClient[Hashable] = ByClient()
        self._shares = ClientShares()

    def __contains__(self, caller: ev.Caller) -> bool:
        return caller in self._topics

    def follow_events(self, request: Request) -> None:
        """Tell a client of what happens from now on."""
        request.only("model_id")
        self.add(request.caller, request.get_optional("model_id", str))
        # "Noted": what happens from now on will come.
        self.tell(None, [request.caller])

    def add(self, caller: ev.Caller, topic: Hashable) -> None:
        """Note that a client follows a topic. Raises `ResourceExhaustedError` if it follows enough already."""
        client, shares = caller.client, self._shares
        if shares.of(client) >= _MAX_SUBSCRIPTIONS or not shares.allows(client, 1, _MAX_ALL_SUBSCRIPTIONS):
            raise ResourceExhaustedError(
                f"this client has {counted(shares.of(client), 'subscription')}; it may have {_MAX_SUBSCRIPTIONS}, and "
                "fewer if others have many: close some first"
            )
        if caller in self._topics:
            raise InvalidArgumentError(f"request id {caller.request_id} is in use by another subscription")
        self._topics[caller] = topic
        shares.take(client)

    def turn(self, caller: ev.Caller, topic: Hashable) -> None:
        """Have a client that follows something follow another topic."""
        self._topics[caller] = topic

    def withdraw(self, client: ev.ClientId, request_id: int | None) -> None:
        """End a client's subscription, or with None all of them."""
        callers = self._topics.of(client) if request_id is None else [ev.Caller(client, request_id)]
        for caller in callers:
            if caller in self._topics:
                self._topics.pop(caller)
                self._shares.give_back(client)

    def on_event(self, event: Event) -> None:
        """Tell those that follow it of a transition."""
        if callers := self.of(ALL, event.model_id):
            self.tell(event.to_dict(), callers)

    def of(self, *topics: Hashable) -> list[ev.Caller]:
        """Return who follows one of these."""
        return [caller for caller in self._topics if self._topics[caller] in topics]

    def tell(self, value: object, callers: list[ev.Caller]) -> None:
        """Send plain values as the next item of subscriptions."""
        body, buffers = encode(value)  # once for all: it is most of what an answer costs
        for caller in callers:
            frames = wire.pack(msg.ITEM, caller.request_id, body=body, buffers=buffers)
            self._supervisor.carry_out(fx.RelayAnswer(*caller, frames))
