"""The seam between the supervisor and what carries its effects out.

A component is made by `service`, which enters it until the end of the host, and has its handlers put into the one table
of the supervisor. So no component knows of the others but those that it was made with.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

from hostd.core.effects import Effect
from hostd.shell.work.closing import Closing
from hostd_workers.wire.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Handlers: TypeAlias = "Mapping[type, Callable[[Any], object]]"
"""What carries out which effect.

A hot one is a function. A slow one is a coroutine function, `async def handle(effect) -> Event | None`: what it returns
is given to the core, and what it raises becomes the event that says so (`failing`).
"""


class Component(Closing):
    """A part of the host that carries out effects, holds threads or descriptors until its end, or both.

    Closed on the loop, when the core has nothing left to do.
    """

    def handlers(self) -> Handlers:
        """Return the effects that it carries out; called once, when all components are there."""
        return {}


def composed(*tables: Handlers) -> dict[type, Callable[[Any], object]]:
    """Return one table of all handlers. Raises `InternalError` if an effect has none, or more than one."""
    counts = Counter(kind for table in tables for kind in table)
    twice = sorted(kind.__name__ for kind, count in counts.items() if count > 1)
    missing = sorted(kind.__name__ for kind in get_args(Effect) if kind not in counts)
    if twice or missing:
        raise InternalError(f"every effect needs one handler: there is none for {missing}, several for {twice}")
    return {kind: handle for table in tables for kind, handle in table.items()}
