"""The addresses of fronts: sockets that listen, and one that keeps an address for a front that binds it itself.

Does not cover the processes of fronts (`hostd.shell.fronts`).
"""

from __future__ import annotations

import socket
from typing import Final

from hostd_workers.wire.errors import FailedPreconditionError

_BACKLOG: Final = 4096


def listening(name: str, address: str, *, is_kept: bool) -> tuple[socket.socket, str]:
    """Return a socket at the address of a front, and the host of the address; `is_kept`: the front binds it itself.

    Raises `FailedPreconditionError` for an address that is not free.
    """
    host, _, port = address.rpartition(":")
    try:
        family, *_, place = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        make = _kept if is_kept else _listener
        listener = make((str(place[0]), int(place[1])), family)
    except OSError as error:
        raise FailedPreconditionError(
            f"the {name} front cannot listen at {address}: {error.strerror}; choose another fronts.{name} "
            f"(--{name} ADDRESS; port 0 takes any that is free)"
        ) from None
    return listener, host


def _listener(place: tuple[str, int], family: socket.AddressFamily) -> socket.socket:
    return socket.create_server(place, family=family, backlog=_BACKLOG)


def _kept(place: tuple[str, int], family: socket.AddressFamily) -> socket.socket:
    """Return a socket that keeps an address and does not listen; only a process of this user can bind it, too.

    Raises OSError if somebody has the address, another host's front that is not running just then included.
    """
    host, port = place
    if port == 0:
        # The kernel gives up a port that it has chosen itself when its socket stops listening. Both sockets may have
        # it at a time, as none of them listens, so nobody gets it in between.
        with socket.socket(family, socket.SOCK_STREAM) as chosen:
            chosen.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            chosen.bind(place)
            return _kept((host, chosen.getsockname()[1]), family)
    # To listen is what has the kernel look whether anybody else does, and what ends the sharing by SO_REUSEADDR.
    kept = _listener(place, family)
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    kept.shutdown(socket.SHUT_RD)
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    return kept
