"""What a server serves: for the path of each method the role that it needs, its messages, and what answers it.

A handler takes a message, or the messages of a stream, and its call; it raises `HostError`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from hostd.fronts.access import Role


class Context(Protocol):
    """A call, as its handler sees it."""

    def left_s(self) -> float | None:
        """Return how long the client still waits, in seconds; None if it does not say. Negative if it does no more."""

    async def write(self, message: Any) -> None:
        """Send a message of many, and return when the client has room for the next."""


Handler: TypeAlias = "Callable[[Any, Context], Awaitable[Any]]"
"""What answers; a handler that answers with many messages writes them itself, and returns None."""


@dataclass(frozen=True)
class Rpc:
    """A method as a service declares it: its messages, and which side sends many."""

    name: str
    request: Any
    response: Any
    is_of_many_requests: bool
    is_of_many_responses: bool


@dataclass(frozen=True, eq=False)
class Method:
    """A method of a service."""

    rpc: Rpc
    role: Role
    handler: Handler


Methods: TypeAlias = "dict[bytes, Method]"
"""Methods by the path that asks for each."""


def served(service: str, rpcs: tuple[Rpc, ...], handlers: Mapping[str, tuple[Role, Handler]]) -> Methods:
    """Return what is served for a service: by the name of a method the role that it needs, and its handler."""
    return {f"/{service}/{rpc.name}".encode(): Method(rpc, *handlers[rpc.name]) for rpc in rpcs if rpc.name in handlers}


def left_s(context: Context, timeout_s: float | None) -> float | None:
    """Return what a call may take: what its client waits, or less if the request says so."""
    found = [limit_s for limit_s in (context.left_s(), timeout_s) if limit_s is not None]
    return min(found, default=None)
