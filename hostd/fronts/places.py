"""Whose calls are in flight: nobody who calls by a front takes all places of a model while others want some.

To the host all calls of a front are those of one client, which may have `workers.max_in_flight` of a model. Here these
are shared among those who call, by the host's own rule (`hostd_workers.wire.shares`): whoever is alone has two thirds.
Somebody is a token, or without one an address, so all who come by one proxy are one.
"""

from __future__ import annotations

from contextlib import nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from hostd_workers.wire.shares import Shares, check_in_flight

if TYPE_CHECKING:
    from collections.abc import Hashable
    from contextlib import AbstractContextManager

_LEAST_SHARED: Final = 16
"""Fewer places are how long somebody wants a queue to be: a third of them would be missed, and nobody is kept out."""

_CALLER: ContextVar[tuple[Places, Hashable] | None] = ContextVar("_CALLER", default=None)
"""Who has made the request of this context, and what they share; None where nobody counts."""


class Places:
    """The calls in flight of each model; `max_in_flight` is what the host lets a front have of one."""

    def __init__(self, max_in_flight: int) -> None:
        self._limit = max_in_flight if max_in_flight < _LEAST_SHARED else max_in_flight * 2 // 3
        self._of_model: dict[str, Shares[Hashable]] = {}

    def __repr__(self) -> str:
        return f"<Places {self._of_model}>"

    def set_caller(self, caller: Hashable) -> None:
        """Have calls of this context count as this caller's."""
        _CALLER.set((self, caller))

    def taking(self, model_id: str, caller: Hashable) -> _Place:
        """Count a call of a caller in the block of a `with`; to enter it may raise `ResourceExhaustedError`."""
        return _Place(self, model_id, caller)

    def take(self, model_id: str, caller: Hashable) -> None:
        """Count a call. Raises `ResourceExhaustedError`."""
        shares = self._of_model.setdefault(model_id, Shares())
        check_in_flight(shares, caller, model_id, self._limit, "in flight by this front")
        shares.take(caller)

    def give_back(self, model_id: str, caller: Hashable) -> None:
        """Count a call no more."""
        shares = self._of_model[model_id]
        shares.give_back(caller)
        if not shares.total:
            del self._of_model[model_id]


class _Place:
    """A call that counts. A class, because a generator takes three times as long, for every call."""

    __slots__ = ("_caller", "_model_id", "_places")

    def __init__(self, places: Places, model_id: str, caller: Hashable) -> None:
        self._places = places
        self._model_id = model_id
        self._caller = caller

    def __enter__(self) -> None:
        self._places.take(self._model_id, self._caller)

    def __exit__(self, *_: object) -> None:
        self._places.give_back(self._model_id, self._caller)


_UNCOUNTED: Final = nullcontext()


def place_of(model_id: str) -> AbstractContextManager[None]:
    """Count a call of a model in the block of a `with`; to enter it may raise `ResourceExhaustedError`."""
    found = _CALLER.get()
    if found is None:
        return _UNCOUNTED
    places, caller = found
    return places.taking(model_id, caller)
