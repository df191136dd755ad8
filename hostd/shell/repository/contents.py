"""What the files of loaded models are: when they were loaded, and now.

One thread of its own, in which a huge model yields for small ones (`turns`); a look that takes too long is no
answer, and nobody waits for it any longer. The digests are those of `content`: of files that have not changed since the
last look, by the system's word, nothing is read again.
"""

from __future__ import annotations

import contextlib
import logging
import time
from functools import partial
from typing import TYPE_CHECKING

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.shell.repository.fingerprint import digesting
from hostd.shell.work.component import Component
from hostd.shell.work.threads import in_thread
from hostd.shell.work.turns import Turns
from hostd_workers.wire.errors import HostError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hostd.shell.work.component import Handlers
    from hostd.shell.work.turns import Steps

_log = logging.getLogger(__name__)

COMPARE_S = 5.0
"""How long a load of what is loaded waits for a look at its files. In that time a disk reads gigabytes."""

GONE = ""


class Contents(Component):
    """Notes and compares the files of models."""

    def __init__(self, emit: Callable[[ev.Event], None], thread_name: str) -> None:
        """Take where events go that are no answer to an effect."""
        self._emit = emit
        self._thread = Turns(1, thread_name)

    def handlers(self) -> Handlers:
        """Return what carries out which effect."""
        return {fx.CompareFiles: self._compare}

    def close(self) -> None:
        """End the thread; one that hangs on a disk is left alone."""
        self._thread.shutdown()

    async def note(self, model_id: ev.ModelId, generation: int, path: str) -> ev.Event:
        """Find out what the files of a load that begins are."""
        digest = await self._digest(f"note {model_id}", path)
        return ev.FilesNoted(model_id, generation, digest)

    async def compare_all(self, client: ev.ClientId, models: Sequence[tuple[ev.ModelId, int, str]]) -> None:
        """Find out for a client what the files of loaded models are now, by id, generation and path.

        Those that are not looked at in `COMPARE_S` stay as they were known.
        """
        until_s = time.monotonic() + COMPARE_S

        def work() -> Steps[list[tuple[ev.ModelId, int, str | None]]]:
            found = []
            for model_id, generation, path in models:
                if time.monotonic() < until_s:
                    digest = yield from digesting_now(path)
                    found.append((model_id, generation, digest))
            return found

        found: list[tuple[ev.ModelId, int, str | None]] = []
        with contextlib.suppress(Exception):
            found = await in_thread(self._thread.of(client), work, within_s=2 * COMPARE_S)
        for compared in found:
            self._emit(ev.FilesCompared(*compared))

    async def _compare(self, effect: fx.CompareFiles) -> ev.Event:
        digest = await self._digest(f"load {effect.model_id}", effect.path, within_s=COMPARE_S)
        return ev.FilesCompared(effect.model_id, effect.generation, digest)

    async def _digest(self, owner: str, path: str, within_s: float | None = None) -> str | None:
        digest: str | None = None
        with contextlib.suppress(Exception):
            digest = await in_thread(self._thread.of(owner), partial(digesting_now, path), within_s=within_s)
        return digest


def digesting_now(path: str) -> Steps[str | None]:
    """Return the digest of what is at a path, `GONE` if nothing is, None if it cannot be known. Blocks on the disk."""
    try:
        return (yield from digesting(path))
    except NotFoundError:
        return GONE
    except HostError as error:
        _log.debug("what the files at %s are is not known: %s", path, error)
        return None
