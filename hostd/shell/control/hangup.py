"""What SIGHUP means: the terminal that the host was started from is gone, or the configuration is to be read again."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

LOOK_S = 0.2
"""The kernel takes a terminal that closes from its session in the moment of its SIGHUP, be it before or after it."""


class Hangup:
    """The handler of SIGHUP; it knows whether there was a terminal when it was made."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, reload: Callable[[], None], shut_down: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._reload = reload
        self._shut_down = shut_down
        self._had_terminal = has_terminal()

    def __call__(self) -> None:
        """End the host if it has lost its terminal, else reload its configuration."""
        if self._had_terminal:
            self._loop.call_later(LOOK_S, lambda: self._reload() if has_terminal() else self._shut_down())
        else:
            self._reload()


def has_terminal() -> bool:
    """Say whether this process has a controlling terminal (tty(4))."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
