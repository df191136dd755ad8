"""Shares of clients of the host; the rule itself is in `hostd_workers.wire.shares`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostd.core.values import process_of
from hostd_workers.wire.shares import Shares

if TYPE_CHECKING:
    from collections.abc import Hashable

    from hostd.core.values import ClientId


class ClientShares(Shares["ClientId"]):
    """Shares of clients, where all connections of one process are one client."""

    __slots__ = ()

    def _owner(self, client: ClientId) -> Hashable:
        return process_of(client)
