"""What the files of loaded models are: when they were loaded, and now.

One thread of its own, in which a huge model yields for small ones (`turns`); a look that takes too long is no
answer, and nobody waits for it any longer. The digests are those of `content`: of files that have not changed since the
last look, by the system's word, nothing is read again.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.shell.repository.fingerprint import digesting
from hostd.shell.turns import Turns
from hostd_workers.wire.errors import HostError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hostd.shell.supervisor import Supervisor
    from hostd.shell.turns import Steps

_log = logging.getLogger(__name__)

COMPARE_S = 5.0
"""How long a load of what is loaded waits for a look at its files. In that time a disk reads gigabytes."""

GONE = ""


class Contents:
    """Notes and compares the files of models."""

    def __init__(self, supervisor: Supervisor, thread_name: str) -> None:
        self._supervisor = supervisor
        self._thread = Turns(1, thread_name)

    def handlers(self) -> dict[type, Callable[[Any], object]]:
        """Return what carries out which effect."""
        return {fx.CompareFiles: lambda effect: self._compare(effect.model_id, effect.generation, effect.path)}

    def close(self) -> None:
        """End the thread; one that hangs on a disk is left alone."""
        self._thread.shutdown()

    def note(self, model_id: ev.ModelId, generation: int, path: str) -> None:
        """Find out what the files of a load that begins are."""

        def then(found: Any) -> ev.Event:
            return ev.FilesNoted(model_id, generation, found if isinstance(found, str) else None)

        self._supervisor.in_thread(self._thread.of(f"note {model_id}"), partial(digesting_now, path), then)

    def compare_all(
        self, client: ev.ClientId, models: Sequence[tuple[ev.ModelId, int, str]], then: Callable[[], None]
    ) -> None:
        """Find out for a client what the files of loaded models are now, by id, generation and path, and call `then`.

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

        def finished(found: Any) -> None:
            for compared in found if isinstance(found, list) else ():
                self._supervisor.emit(ev.FilesCompared(*compared))
            then()

        self._supervisor.in_thread(self._thread.of(client), work, finished, within_s=2 * COMPARE_S)

    def _compare(self, model_id: ev.ModelId, generation: int, path: str) -> None:
        def then(found: Any) -> ev.Event:
            return ev.FilesCompared(model_id, generation, found if isinstance(found, str) else None)

        work = partial(digesting_now, path)
        self._supervisor.in_thread(self._thread.of(f"load {model_id}"), work, then, within_s=COMPARE_S)


def digesting_now(path: str) -> Steps[str | None]:
    """Return the digest of what is at a path, `GONE` if nothing is, None if it cannot be known. Blocks on the disk."""
    try:
        return (yield from digesting(path))
    except NotFoundError:
        return GONE
    except HostError as error:
        _log.debug("what the files at %s are is not known: %s", path, error)
        return None
