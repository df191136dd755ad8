"""The models directory as the host sees it: where files are, whether they are whole, what is new and what is gone.

Covers the core's `ScanDirectory` and the following of changes. How a directory is scanned is in `scanning`, when files
are whole in `completeness` and `core/files/stability`, how files come and go through the host in `files`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.files.stability import Stability
from hostd.shell.repository.completeness import KnownHashes, looking_at
from hostd.shell.repository.contents import digesting_now
from hostd.shell.repository.directory import ModelsDirectory
from hostd.shell.repository.fingerprint import done
from hostd.shell.repository.notifications import changes
from hostd.shell.repository.scanner import Scanner, is_inside
from hostd.shell.turns import Turns
from hostd_workers.wire.errors import FailedPreconditionError, HostError, NotFoundError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from hostd.config.settings import ModelsConfig
    from hostd.core.files.stability import Wait
    from hostd.plugins.registry import Plugins
    from hostd.shell.repository.scanner import Scan
    from hostd.shell.supervisor import Supervisor
    from hostd.shell.turns import Steps

_log = logging.getLogger(__name__)

THREAD_NAME = "hostd-scan"

_ENTRIES_WITHIN_S = 5.0
"""A list of 10,000 entries takes 0.1 s. The question what models there are should not wait for a dead disk."""


class Repository:
    """One models directory. `locate` and `is_unsettled` block and are called in threads."""

    def __init__(self, supervisor: Supervisor, plugins: Plugins, directory: Path, settings: ModelsConfig) -> None:
        self.path = directory
        self._supervisor = supervisor
        self._settings = settings
        self._directory = ModelsDirectory(directory)
        self._scanner = Scanner(self._directory.path, plugins.recognises)
        self._stability = Stability(settings.write_quiet_period_s or 0.0)
        self._hashes = KnownHashes()
        self._stability_lock = threading.Lock()  # finders look in several threads
        self._thread = Turns(1, THREAD_NAME)
        self._stop = asyncio.Event()
        self._was_degraded = False

    def handlers(self) -> dict[type, Callable[[Any], object]]:
        """Return who carries out which effect."""
        return {fx.ScanDirectory: self._scan, fx.LeaveEntry: lambda e: self._scanner.note_failed(e.model_id)}

    def close(self) -> None:
        """End the thread."""
        self._hashes.stop()
        self._thread.shutdown()

    def locate(self, model_id: str) -> Path | None:
        """Return where the files of an id are, or None. Raises `HostError` for what is no honest file or directory."""
        return self._directory.locate(model_id)

    def is_unsettled(self, path: str) -> Wait | None:
        """Return None for files that are whole; else after how many seconds to look again, and why.

        Raises `NotFoundError` if they are gone, `FailedPreconditionError` if they cannot be looked at.
        """
        return done(self._observing(path))

    def _observing(self, path: str) -> Steps[Wait | None]:
        try:
            look = yield from looking_at(path, self._settings.completion_marker, self._hashes)
        except FileNotFoundError as error:
            raise NotFoundError(f"there is nothing at {path} any more", details={"path": path}) from error
        except OSError as error:
            raise FailedPreconditionError(f"cannot look at {path}: {error.strerror}", details={"path": path}) from error
        with self._stability_lock:
            return self._stability.observe(path, look, time.monotonic(), time.time())

    def list_entries(self, client: ev.ClientId, loaded: Collection[str], then: Callable[[Any], None]) -> None:
        """Look for a client at the directory, but for what is loaded; `then` gets its entries, or why there are none.

        The latter also if it hangs.
        """

        def work() -> Steps[list[ev.DirectoryEntry]]:
            found = []
            for entry in self._scanner.entries():
                if entry.model_id not in loaded:
                    yield
                    found.append((yield from self._settled(entry)))
            return found

        self._supervisor.in_thread(self._thread.of(client), work, then, within_s=_ENTRIES_WITHIN_S)

    def _settled(self, entry: ev.DirectoryEntry) -> Steps[ev.DirectoryEntry]:
        """Return what an entry is, also if it is still being written, or cannot be looked at."""
        if entry.state != "AVAILABLE":
            return entry
        try:
            wait = yield from self._observing(entry.path)
        except HostError as error:
            return entry._replace(state="FAILED", reason=error.message)
        return entry if wait is None else entry._replace(state="WRITING", reason=wait.reason)

    async def follow(self) -> None:
        """Sync whenever the directory changes, and once in every period, until `end`."""
        period_s = self._settings.poll_period_s
        if not period_s:
            return
        async with contextlib.aclosing(changes(self.path, period_s, self._stop)) as causes:
            async for cause in causes:
                _log.debug("looking at %s: %s", self.path, cause)
                with contextlib.suppress(UnavailableError):  # the host is shutting down
                    await self._supervisor.ask(
                        lambda caller: ev.SyncRequested(caller, wait=False, load=True, retry_all=False, deadline_s=None)
                    )

    def end(self) -> None:
        """End `follow`."""
        self._stop.set()

    def _scan(self, effect: fx.ScanDirectory) -> None:
        def then(seen: Any) -> ev.Event:
            if isinstance(seen, BaseException):
                self._note(str(seen))
                return ev.DirectoryUnavailable(effect.sync_id, str(seen))
            scan, digests = seen
            self._note(None)
            return ev.DirectoryScanned(
                effect.sync_id,
                tuple((ev.ModelId(model_id), path) for model_id, path in scan.found),
                tuple(map(ev.ModelId, scan.gone)),
                digests,
            )

        self._supervisor.in_thread(self._thread.of("sync"), lambda: self._look(effect), then)

    def _look(self, effect: fx.ScanDirectory) -> Steps[tuple[Scan, tuple[tuple[ev.ModelId, str], ...]]]:
        """Scan, and look at the files of loaded models that lie in the directory."""
        scan = self._scanner.scan(dict(effect.loaded), effect.retry_all)
        there = [model for model in effect.loaded if model[0] not in scan.gone and is_inside(model[1], str(self.path))]
        digests = []
        for model_id, path in there:
            digest = yield from digesting_now(path)
            if digest is not None:
                digests.append((model_id, digest))
        return scan, tuple(digests)

    def _note(self, trouble: str | None) -> None:
        if trouble is not None and not self._was_degraded:
            _log.error("the models directory cannot be followed; nothing is unloaded because of that: %s", trouble)
        elif trouble is None and self._was_degraded:
            _log.warning("the models directory %s can be read again", self.path)
        self._was_degraded = trouble is not None
