"""What the calls of one connection share: what is served, the connection, its transport."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hostd.fronts.grpc.heads import head_of
from hostd.fronts.http2.connection import Connection

if TYPE_CHECKING:
    import asyncio

    from hostd.fronts.access import Access
    from hostd.fronts.bodies import Bodies
    from hostd.fronts.grpc.serving import Methods
    from hostd.fronts.http2.stream import Stream


@dataclass(frozen=True, eq=False)
class Served:
    """What all connections share: what is served to whom, and what messages may take, one and all."""

    methods: Methods
    access: Access
    bodies: Bodies
    max_message_bytes: int


class Exchange:
    """One connection, as its calls see it."""

    def __init__(self, served: Served, transport: asyncio.Transport) -> None:
        self.served = served
        self.connection = Connection(head_of)
        self.transport = transport
        self.address = str((transport.get_extra_info("peername") or ("",))[0])

    def __repr__(self) -> str:
        return f"<Exchange {self.address} {self.connection!r}>"

    def end(self, stream: Stream, block: bytes) -> None:
        """End a response."""
        self.connection.end(stream, block)
        self.flush()

    def flush(self) -> None:
        """Send what is ready, to a client that has greeted."""
        if self.connection.is_greeted and (ready := self.connection.take()) and not self.transport.is_closing():
            self.transport.write(ready)
