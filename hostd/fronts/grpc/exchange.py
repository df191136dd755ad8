"""What the calls of one connection share: what is served, the connection, its transport."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from hostd.fronts.grpc.heads import head_of
from hostd.fronts.http2.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hostd.fronts.access import Access
    from hostd.fronts.bodies import Bodies
    from hostd.fronts.grpc.serving import Methods
    from hostd.fronts.http2.stream import Stream

_MANY_FRAMES: Final = 64


@dataclass(frozen=True, eq=False)
class Served:
    """What all connections share: what is served to whom, and what messages may take, one and all."""

    methods: Methods
    access: Access
    bodies: Bodies
    max_message_bytes: int


class Waiting(Protocol):
    """A call, as this sees it."""

    def on_drained(self) -> None:
        """Go on: what waited has gone."""


class Exchange:
    """One connection, as its calls see it."""

    def __init__(self, served: Served, transport: asyncio.Transport, calls: Mapping[int, Waiting]) -> None:
        """Tell `calls`, by the numbers of their streams, when what waited has gone."""
        self.served = served
        self._calls = calls
        self.connection = Connection(head_of)
        self.transport = transport
        self.address = str((transport.get_extra_info("peername") or ("",))[0])
        self._loop = asyncio.get_running_loop()
        self._is_flushing = False

    def __repr__(self) -> str:
        return f"<Exchange {self.address} {self.connection!r}>"

    def end(self, stream: Stream, block: bytes) -> None:
        """End a response."""
        self.connection.end(stream, block)
        self.flush_soon(is_alone=not self.connection.streams)

    def flush_soon(self, *, is_alone: bool) -> None:
        """Send what is ready; if other calls run, with what they say in this turn of the loop: to send takes 70 us."""
        if is_alone or self.connection.ready_frames >= _MANY_FRAMES:
            self.flush()
        else:
            self._flush_in_next_turn()

    def flush(self) -> None:
        """Send what is ready, to a client that has greeted; the rest of what has room in later turns of the loop."""
        connection = self.connection
        if not connection.is_greeted:
            return
        for stream in connection.go_on():
            if (call := self._calls.get(stream.id)) is not None:
                call.on_drained()
        if (ready := connection.take()) and not self.transport.is_closing():
            self.transport.write(ready)
        if connection.has_more:
            self._flush_in_next_turn()

    def _flush_in_next_turn(self) -> None:
        if not self._is_flushing:
            self._is_flushing = True
            self._loop.call_soon(self._flush_in_turn)

    def _flush_in_turn(self) -> None:
        self._is_flushing = False
        self.flush()
