"""Callers that wait for an answer of the control plane.

Rules
1. A caller that waits is in exactly one `Waiters` and leaves it with exactly one answer, or because its client is gone.
2. A caller that leaves early (deadline, cancellation) changes nothing about what was asked for, but for loads that end
   with their callers (`abandoning`).
3. One client that waits for much leaves places for others (`shares`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hostd.core.bookkeeping.by_client import ByClient
from hostd.core.bookkeeping.shares import ClientShares
from hostd.core.deadlines import WaiterTimer
from hostd.core.effects import Answer, refusal
from hostd.units import counted
from hostd_workers.wire.errors import HostError, InvalidArgumentError, ResourceExhaustedError
from hostd_workers.wire.shares import capacity_for

if TYPE_CHECKING:
    from collections.abc import Hashable

    from hostd.core.bookkeeping.timers import Timers
    from hostd.core.effects import Effect
    from hostd.core.values import Caller, ClientId, Waiters


class Waiting:
    """All callers that wait, and in which `Waiters` each of them is."""

    def __init__(self, effects: list[Effect], timers: Timers[Hashable]) -> None:
        self._effects = effects
        self._timers = timers
        self._places: ByClient[Waiters] = ByClient()
        self._shares = ClientShares()

    def __contains__(self, caller: Caller) -> bool:
        return caller in self._places

    def __len__(self) -> int:
        return len(self._places)

    def check_id(self, caller: Caller) -> None:
        """Raise `InvalidArgumentError` if this caller waits for something already."""
        if caller in self._places:
            raise InvalidArgumentError(f"request id {caller.request_id} is in use by another request of this client")

    def check_room(self, client: ClientId, limit: int) -> None:
        """Raise `ResourceExhaustedError` if this client may not wait for anything more."""
        shares = self._shares
        if not shares.allows(client, 1, capacity_for(limit)):
            raise ResourceExhaustedError(
                f"{counted(shares.of(client), 'request')} of this client and {shares.total - shares.of(client)} of "
                f"others wait for loads and unloads; a client may have {limit}, and fewer if others wait too: "
                "wait for answers before asking for more"
            )

    def add(self, waiters: Waiters, caller: Caller, deadline_s: float | None) -> None:
        """Let a caller wait, until its deadline at most."""
        waiters[caller] = None
        self._places[caller] = waiters
        self._shares.take(caller.client)
        if deadline_s is not None:
            self._timers.set(WaiterTimer(caller), deadline_s)

    def answer(self, waiters: Waiters, value: Any) -> None:
        """Answer all callers that wait here."""
        for caller in self._drain(waiters):
            self._effects.append(Answer(caller, value))

    def refuse(self, waiters: Waiters, error: HostError) -> None:
        """Answer all callers that wait here with an error."""
        for caller in self._drain(waiters):
            self._effects.append(refusal(caller, error))

    def move(self, waiters: Waiters, to: Waiters) -> None:
        """Let all callers that wait here wait there instead."""
        for caller in waiters:
            self._places[caller] = to
        to.update(waiters)
        waiters.clear()

    def dismiss(self, caller: Caller, error: HostError) -> None:
        """Answer one caller with an error; what it waited for goes on."""
        self._leave(caller)
        self._effects.append(refusal(caller, error))

    def lose_client(self, client: ClientId) -> None:
        """Forget the callers of a client that nobody can answer any more."""
        for caller in self._places.of(client):
            self._leave(caller)

    def _leave(self, caller: Caller) -> None:
        del self._places.pop(caller)[caller]
        self._shares.give_back(caller.client)
        self._timers.cancel(WaiterTimer(caller))

    def _drain(self, waiters: Waiters) -> list[Caller]:
        callers = list(waiters)
        for caller in callers:
            self._leave(caller)
        return callers

    def problems(self) -> list[str]:
        """Return what is wrong with these books; a question for `check_invariants`."""
        found = [f"{caller} waits where it is not" for caller in self._places if caller not in self._places[caller]]
        if self._shares.total != len(self._places):
            found.append(f"{len(self._places)} requests that wait do not add up")
        return found
