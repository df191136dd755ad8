"""A descriptor through which any thread ends the poll of another one."""

from __future__ import annotations

import os
import threading


class Waker:
    """An eventfd; `fd` is -1 once it is closed. A finalizer or a signal handler may use it at any point."""

    def __init__(self) -> None:
        self._using = threading.RLock()
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            self.close()

    def wake(self) -> None:
        """Make the descriptor readable."""
        with self._using:  # after `close` its number may be another file's
            if self.fd >= 0:
                os.eventfd_write(self.fd, 1)

    def clear(self) -> None:
        """Make the descriptor unreadable again; for the thread that polls it."""
        os.eventfd_read(self.fd)

    def close(self) -> None:
        """Close the descriptor, once."""
        with self._using:
            fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
