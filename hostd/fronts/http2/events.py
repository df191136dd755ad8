"""What a peer has done, and what it may not do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

if TYPE_CHECKING:
    from hostd.fronts.http2.stream import Stream

T = TypeVar("T")
"""What is made of a head."""


@dataclass(eq=False, slots=True)
class Began(Generic[T]):
    """A request has begun; nothing follows if `is_whole`."""

    stream: Stream
    head: T
    is_whole: bool


@dataclass(eq=False, slots=True)
class Received:
    """A part of a body has come. It counts in the stream's window until `Connection.grant` is told."""

    stream: Stream
    data: bytes
    is_last: bool


@dataclass(eq=False, slots=True)
class Ended:
    """A stream has ended from their side before ours was through: nobody waits for a response."""

    stream: Stream


Event: TypeAlias = "Began[T] | Received | Ended"


class BrokenRuleError(Exception):
    """A peer has broken the protocol, which ends its connection."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code
        self.why = why
