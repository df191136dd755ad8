"""Where clients come to a worker: a UNIX socket in the host's runtime directory.

Rules
1. Only processes of our user come in, and of those only the ones that show the secret of this generation, which the
   host gives to those that may call the model. A copied path or a number used again leads nowhere.
2. A connection that says nothing gives way to the next when there are too many of its kind.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING, Final

from hostd_workers.lane.connection import Lane
from hostd_workers.wire import messages as msg
from hostd_workers.wire.errors import PermissionDeniedError, ProtocolError
from hostd_workers.wire.stream import new_buffer

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostd_workers.runtime import Runtime
    from hostd_workers.wire import frames as wire
    from hostd_workers.wire.frames import Buffer

_CREDENTIALS: Final = struct.Struct("3i")
_BACKLOG: Final = 128

_MOST_SILENT: Final = 32
"""Connections that have not said hello."""


class Listener:
    """Accepts lanes. `serve` makes the runtime of one, of what sends its answers."""

    def __init__(
        self,
        path: str,
        secret: bytes,
        max_message_bytes: int,
        serve: Callable[[Callable[[list[Buffer]], None]], Runtime],
    ) -> None:
        """Listen at a path that nobody has. Raises `OSError`."""
        self._secret = secret
        self._max_message_bytes = max_message_bytes
        self._serve = serve
        self._buffer = new_buffer()
        self._silent: dict[Lane, None] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self.fd = self._socket.fileno()
        try:
            self._socket.bind(path)
            self._socket.listen(_BACKLOG)
        except OSError:
            self._socket.close()
            raise

    def accept(self) -> Lane | None:
        """Return the next connection; None if there is none, or it is of another user."""
        try:
            connection, _ = self._socket.accept()
        except OSError:
            return None
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        if _CREDENTIALS.unpack(credentials)[1] not in (os.geteuid(), 0):
            connection.close()
            return None
        connection.setblocking(False)
        lane = Lane(connection, self._buffer, self._max_message_bytes, self._hello)
        self._silent[lane] = None
        return lane

    def too_silent(self) -> Lane | None:
        """Return the oldest of the connections that have said nothing, if there are too many."""
        return next(iter(self._silent)) if len(self._silent) > _MOST_SILENT else None

    def forget(self, lane: Lane) -> None:
        """Forget a connection that is over."""
        self._silent.pop(lane, None)

    def close(self) -> None:
        """Accept no more."""
        self._socket.close()

    def _hello(self, lane: Lane, envelope: wire.Envelope) -> Runtime:
        if envelope.kind != msg.LANE_HELLO:
            raise ProtocolError("a client says hello first")
        if envelope.header != self._secret:
            raise PermissionDeniedError("this is not the secret of this worker")
        del self._silent[lane]
        return self._serve(lane.send)
