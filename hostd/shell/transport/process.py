"""The process at the other end of connections. They share what is counted here: more of them have no more of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostd.shell.transport.unfinished import Unfinished

if TYPE_CHECKING:
    from hostd.shell.transport.connection import Connection


class PeerProcess:
    """The connections of one process, `newcomers` those of them that are not vouched for; both in order.

    `queued_bytes` wait to be sent, over all of them; `unfinished` is what it has sent of messages that are not whole.
    """

    __slots__ = ("connections", "newcomers", "queued_bytes", "unfinished")

    def __init__(self, peer_buffer_bytes: int) -> None:
        self.connections: dict[Connection, None] = {}
        self.newcomers: dict[Connection, None] = {}
        self.queued_bytes = 0
        self.unfinished = Unfinished(peer_buffer_bytes)
