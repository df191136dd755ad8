"""Watches: programs that keep a view of all models are told how these are, and then of each change.

Rules
1. What is known of a model is compared with what was told of it last, as in `records`: so no change can be missed, and
   what is none is not told. All that watch are told the same.
2. A transition is followed by a look at its model at once. What changes without one (a pin, a setting, the files) is
   found by a look at all models, in slices, once in a period.
3. While nobody watches nothing is looked at, and what was told is forgotten within a period.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hostd.core import events as ev
from hostd.core.describing import Facts, describe
from hostd.core.queries.views import lasting
from hostd.shell.control.records import body_of
from hostd.views import CHANGED, REMOVED, SNAPSHOT
from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hostd.records import Event
    from hostd.shell.control.subscriptions import Subscriptions
    from hostd.shell.supervisor import Supervisor
    from hostd.shell.verbs import Request
    from hostd.shell.work.slices import Slices

_PERIOD_S = 1.0

_NEW = object()
"""The topic of watches that have no snapshot yet."""

_CURRENT = object()
"""The topic of those that are told of changes."""

_OWN = ev.ClientId(b"watches")
"""Whose the slices are in which all models are looked at; no client is called so."""


class _Told(NamedTuple):
    """What was told of a model: what makes a change of it, and its record as it was sent."""

    lasting: tuple[object, ...]
    body: bytes


class Watches:
    """The watches of one start of a host, which is called `epoch`."""

    def __init__(self, supervisor: Supervisor, subscriptions: Subscriptions, slices: Slices, epoch: str) -> None:
        self._supervisor = supervisor
        self._subscriptions = subscriptions
        self._slices = slices
        self._epoch = epoch
        self._number = 0
        self._told: dict[ev.ModelId, _Told] = {}
        self._is_looking = False

    def follow(self, request: Request) -> None:
        """Tell a client how all models are, and of each change from then on."""
        request.only()
        self._subscriptions.add(request.caller, _NEW)
        self._supervisor.start(self._begin(request.caller))

    def on_event(self, event: Event) -> None:
        """Look at a model after a transition, when all that comes with it is done."""
        if self._told or self._is_watched:
            asyncio.get_running_loop().call_soon(self._look, event.model_id)

    @property
    def _is_watched(self) -> bool:
        return bool(self._subscriptions.of(_NEW, _CURRENT))

    async def _begin(self, caller: ev.Caller) -> None:
        await self._look_at_all()
        if caller in self._subscriptions:
            self._subscriptions.turn(caller, _CURRENT)
            self._tell(SNAPSHOT, [caller], [told.body for told in self._told.values()])
        if not self._is_looking:
            self._is_looking = True
            await self._go_on_looking()

    async def _go_on_looking(self) -> None:
        try:
            while self._is_watched:
                await asyncio.sleep(_PERIOD_S)
                await self._look_at_all()
        finally:
            self._is_looking = False
            self._told.clear()

    async def _look_at_all(self) -> None:
        all_ids = {*self._told, *self._supervisor.core.queries.all_ids()}
        await self._slices.all_of(_OWN, map(self._look, sorted(all_ids)))

    def _look(self, model_id: str) -> None:
        """Tell of a model what has changed since it was looked at."""
        known_id = ev.ModelId(model_id)
        told, found = self._told.get(known_id), self._supervisor.core.queries.known(known_id)
        if found is None:
            if told is not None:
                del self._told[known_id]
                self._number += 1
                self._tell(REMOVED, self._subscriptions.of(_CURRENT), model_id=model_id)
        elif told is None or told.lasting != lasting(found):
            body = body_of(describe(found) if isinstance(found, Facts) else found)
            self._told[known_id] = _Told(lasting(found), body)
            self._number += 1
            self._tell(CHANGED, self._subscriptions.of(_CURRENT), [body])

    def _tell(self, kind: str, callers: list[ev.Caller], bodies: Sequence[bytes] = (), model_id: str = "") -> None:
        change = {"kind": kind, "epoch": self._epoch, "number": self._number, "models": bodies, "model_id": model_id}
        self._subscriptions.tell(change, callers)
