"""What the configuration declares (`preload`): read at the start, and again when its file has changed.

Covers the way from settings to what the core and the finders take. What follows from it is in `core/files/declaring`.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hostd.core import events as ev
from hostd.core.names import model_id_of
from hostd.shell.work.component import Component
from hostd.shell.work.threads import Threads
from hostd_workers.wire.errors import HostError, InvalidArgumentError
from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hostd.config.preload import PreloadEntry
    from hostd.records import Event
    from hostd.shell.repository.specifying import Specifying

_log = logging.getLogger(__name__)


class Sources(NamedTuple):
    """Where the settings came from, beside the environment: the file, and what was given as arguments."""

    file: str | None = None
    arguments: Mapping[str, Any] = {}


class DeclaredModels(Component):
    """The declared models of one host."""

    def __init__(
        self, table: Mapping[str, PreloadEntry], specifying: Specifying, models_dir: Path | None, sources: Sources
    ) -> None:
        self._specifying = specifying
        self._models_dir = models_dir
        self._sources = sources
        self.thread = Threads(1, "hostd-declared")
        """In which it is read again."""
        self._read_from = self._state_of_file()
        self.now = self._take(table)

    def on_event(self, event: Event) -> None:
        """Say so, also in a host that only warns, if what is declared cannot be loaded."""
        if event.subject == "model" and event.new == "FAILED" and event.model_id in self.now:
            _log.warning("model %s, which is declared (preload), could not be loaded: %s", event.model_id, event.reason)

    def close(self) -> None:
        """End the thread."""
        self.thread.shutdown(wait=False, cancel_futures=True)

    @property
    def may_change(self) -> bool:
        """Whether there is anything to declare, now or after a change of the file."""
        return bool(self.now) or self._sources.file is not None

    def again(self) -> Mapping[ev.ModelId, ev.Declared]:
        """Return what is declared now. Blocks on the disk; a file that is wrong is told as an entry of its own."""
        state = self._state_of_file()
        if state == self._read_from:
            return self.now
        # A fifth of a second, and only needed when the file has changed.
        from hostd.config.sources import gather  # noqa: PLC0415

        file = str(self._sources.file)
        try:
            found = gather(self._sources.arguments, file=Path(file), environment=True)
        except HostError as error:
            return {**self.now, ev.ModelId(file): ev.Declared(None, f"what it declares is not read: {error.message}")}
        self._read_from = state
        self.now = self._take(found.config.preload)
        return self.now

    def _take(self, table: Mapping[str, PreloadEntry]) -> Mapping[ev.ModelId, ev.Declared]:
        declared = {ev.ModelId(model_id): self._declared(model_id, entry) for model_id, entry in table.items()}
        for one in declared.values():
            if one.problem:
                _log.error("%s", one.problem)
        good = (model_id for model_id, one in declared.items() if not one.problem)
        self._specifying.declare({each: (declared[each].path, standing_of(table[each])) for each in good})
        return declared

    def _declared(self, model_id: str, entry: PreloadEntry) -> ev.Declared:
        problem, path = entry.problem, entry.path
        try:
            model_id_of(model_id)
        except InvalidArgumentError as error:
            problem = error.message
        if path is None and not problem:
            if self._models_dir is None:
                problem = "it names no path, and the host has no models directory (models.dir)"
            else:
                path = Path(os.path.abspath(self._models_dir / model_id))  # noqa: PTH100 - as clients give paths
        return ev.Declared(str(path), f"the preload entry {model_id!r} is wrong: {problem}" if problem else "")

    def _state_of_file(self) -> tuple[int, ...] | None:
        try:
            found = None if self._sources.file is None else Path(self._sources.file).stat()
        except OSError:
            return None
        return None if found is None else (found.st_ino, found.st_size, found.st_mtime_ns)


def standing_of(entry: PreloadEntry) -> ev.Standing:
    """Return the arguments that an entry gives."""
    limits = ev.Limits(entry.memory_limit, entry.evictable, entry.idle_ttl_s, entry.cpu_threads)
    given = (entry.type, entry.finder, entry.initializer, entry.options, entry.retries, entry.pin)
    return ev.Standing(*given, limits, labels=entry.labels or None, loader=entry.loader)
