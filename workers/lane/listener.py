"""Where clients come to a worker: a UNIX socket in the host's runtime directory, which only our user can enter.

Rules
1. Only processes of our user come in, or root's, and of those only the ones that show the secret of this generation,
   which the host gives to those that may call the model. A path that is used again leads nowhere.
2. What comes when there is no descriptor left is ended at once, and its client calls by the host. It would wait for
   ever in the line of those that are to be accepted.
3. Of connections that have said nothing, the oldest makes place when there are too many.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from typing import TYPE_CHECKING, Final

from hostd_workers.lane.connection import Lane
from hostd_workers.wire.lane.stream import new_buffer

if TYPE_CHECKING:
    from hostd_workers.lane.connection import Books

_CREDENTIALS: Final = struct.Struct("3i")
_BACKLOG: Final = 128


class Listener:
    """Accepts connections at a path that nobody has."""

    def __init__(self, path: str, books: Books) -> None:
        """Listen. Raises `OSError`."""
        self._books = books
        self._buffer = new_buffer()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.setblocking(False)
            self._socket.bind(path)
            self._socket.listen(_BACKLOG)
            self._reserve = os.open(os.devnull, os.O_RDONLY)
        except OSError:
            self._socket.close()
            raise
        self.fd = self._socket.fileno()

    def accept(self) -> Lane | None:
        """Return the next connection; None if it is of another user. Raises `OSError` if there is none."""
        connection, _ = self._socket.accept()
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(credentials)
        if uid not in (os.geteuid(), 0):
            connection.close()
            return None
        return Lane(connection, pid, self._buffer, self._books)

    def shed(self) -> None:
        """End the next connection, for which there is no descriptor: that of `_reserve` is there for this."""
        os.close(self._reserve)
        with contextlib.suppress(OSError):
            self._socket.accept()[0].close()
        self._reserve = os.open(os.devnull, os.O_RDONLY)
