"""The addresses of fronts: sockets that listen. Does not cover their processes (`hostd.shell.fronts`)."""

from __future__ import annotations

import socket
from typing import Final

from hostd_workers.wire.errors import FailedPreconditionError

_BACKLOG: Final = 4096

_OF_CONNECTIONS: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 20),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
"""What they inherit: idle ones of a machine that is no more end after two minutes."""


def listening(name: str, address: str) -> tuple[socket.socket, str]:
    """Return a socket that listens at the address of a front, and the host of the address.

    Raises `FailedPreconditionError` for an address that is not free.
    """
    host, _, port = address.rpartition(":")
    try:
        family, *_, place = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.create_server((str(place[0]), int(place[1])), family=family, backlog=_BACKLOG)
        for level, option, value in _OF_CONNECTIONS:
            listener.setsockopt(level, option, value)
    except OSError as error:
        raise FailedPreconditionError(
            f"the {name} front cannot listen at {address}: {error.strerror}; choose another one for it "
            "(port 0 takes any that is free)"
        ) from None
    return listener, host
