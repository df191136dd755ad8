"""Whether a host's runtime directory is still its own: people and tidying programs remove what lies in /tmp and /run.

A look costs five system calls in a thread. Nothing is put back: whoever removed the lock may have started another
host.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hostd.shell.rundir import RuntimeDirectory

PERIOD_S = 2.0

_log = logging.getLogger(__name__)


class Place:
    """Looks at the runtime directory again and again."""

    def __init__(self, directory: RuntimeDirectory) -> None:
        self._directory = directory
        self.trouble: str | None = None
        """What is missing, and what to do."""

    async def follow(self) -> None:
        """Look until this is cancelled; what changes is logged once."""
        loop = asyncio.get_running_loop()
        while True:
            found = await loop.run_in_executor(None, self._directory.trouble)
            if found != self.trouble:
                _log.error("%s", found or f"{self._directory.path} is as it should be again")
            self.trouble = found
            await asyncio.sleep(PERIOD_S)
