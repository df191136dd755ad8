"""Whether a host's directories are still its own: people and tidying programs remove what lies in /tmp and /run.

A look costs five system calls in a thread. Nothing is put back: with the lock gone, another
host may have been started.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hostd.shell.rundir import RuntimeDirectory, StateDirectory

PERIOD_S = 2.0

_log = logging.getLogger(__name__)


class Place:
    """Looks at the runtime directory and the state directory again and again."""

    def __init__(self, *directories: RuntimeDirectory | StateDirectory) -> None:
        self._found: dict[RuntimeDirectory | StateDirectory, str | None] = dict.fromkeys(directories)

    @property
    def troubles(self) -> tuple[str, ...]:
        """What is wrong by the last look, and what to do."""
        return tuple(trouble for trouble in self._found.values() if trouble)

    async def follow(self, aside: Callable[[Callable[[], str | None]], Awaitable[str | None]]) -> None:
        """Look until this is cancelled, `aside` in a thread; what changes is logged once."""
        while True:
            for directory, known in self._found.items():
                found = await aside(partial(_trouble_of, directory))
                if found != known:
                    _log.error("%s", found or f"{directory.path} is as it should be again")
                self._found[directory] = found
            await asyncio.sleep(PERIOD_S)


def _trouble_of(directory: RuntimeDirectory | StateDirectory) -> str | None:
    try:
        return directory.trouble()
    except OSError as error:
        return f"{directory.path} cannot be looked at: {error.strerror or error}"
