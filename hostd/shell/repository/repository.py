"""The models directory as the host sees it: where files are, whether they are whole, what is new and what is gone.

Covers the core's `ScanDirectory` and the following of changes. How a directory is scanned is in `scanner`, when files
are whole in `completeness` and `core/files/stability`, how files come and go through the host in `deploys`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.files.stability import Stability
from hostd.shell.repository.completeness import KnownHashes, looking_at
from hostd.shell.repository.contents import digesting_now
from hostd.shell.repository.directory import ModelsDirectory
from hostd.shell.repository.fingerprint import done
from hostd.shell.repository.notifications import changes
from hostd.shell.repository.scanner import Scanner, is_inside
from hostd.shell.work.component import Component
from hostd.shell.work.threads import in_thread
from hostd.shell.work.turns import Turns
from hostd_workers.wire.errors import FailedPreconditionError, HostError, NotFoundError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection
    from pathlib import Path

    from hostd.config.settings import ModelsConfig
    from hostd.core.files.stability import Wait
    from hostd.plugins.registry import Plugins
    from hostd.shell.repository.scanner import Scan
    from hostd.shell.work.component import Handlers
    from hostd.shell.work.turns import Steps

_log = logging.getLogger(__name__)

THREAD_NAME = "hostd-scan"

_ENTRIES_WITHIN_S = 5.0
"""A list of 10,000 entries takes 0.1 s. The question what models there are should not wait for a dead disk."""


class Repository(Component):
    """One models directory. `locate` and `is_unsettled` block and are called in threads."""

    def __init__(self, plugins: Plugins, directory: Path, settings: ModelsConfig) -> None:
        self.path = directory
        self._settings = settings
        self._directory = ModelsDirectory(directory)
        self._scanner = Scanner(self._directory.path, plugins.recognises)
        self._stability = Stability(settings.write_quiet_period_s or 0.0)
        self._hashes = KnownHashes()
        self._stability_lock = threading.Lock()  # finders look in several threads
        self._thread = Turns(1, THREAD_NAME)
        self._stop = asyncio.Event()
        self._was_degraded = False

    def handlers(self) -> Handlers:
        """Return what carries out which effect."""
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

    async def list_entries(self, client: ev.ClientId, loaded: Collection[str]) -> list[ev.DirectoryEntry]:
        """Look for a client at the directory, but for what is loaded. Raises `NotInTimeError` if it hangs."""

        def work() -> Steps[list[ev.DirectoryEntry]]:
            found = []
            for entry in self._scanner.entries():
                if entry.model_id not in loaded:
                    yield
                    found.append((yield from self._settled(entry)))
            return found

        entries: list[ev.DirectoryEntry] = await in_thread(self._thread.of(client), work, within_s=_ENTRIES_WITHIN_S)
        return entries

    def _settled(self, entry: ev.DirectoryEntry) -> Steps[ev.DirectoryEntry]:
        """Return what an entry is, also if it is still being written, or cannot be looked at."""
        if entry.state != "AVAILABLE":
            return entry
        try:
            wait = yield from self._observing(entry.path)
        except HostError as error:
            return entry._replace(state="FAILED", reason=error.message)
        return entry if wait is None else entry._replace(state="WRITING", reason=wait.reason)

    async def follow(self, ask: Callable[[Callable[[ev.Caller], ev.Event]], Awaitable[object]]) -> None:
        """Ask for a sync whenever the directory changes, and once in every period, until `end`."""
        period_s = self._settings.poll_period_s
        if not period_s:
            return
        async with contextlib.aclosing(changes(self.path, period_s, self._stop)) as causes:
            async for cause in causes:
                _log.debug("looking at %s: %s", self.path, cause)
                with contextlib.suppress(UnavailableError):  # the host is shutting down
                    await ask(
                        lambda caller: ev.SyncRequested(caller, wait=False, load=True, retry_all=False, deadline_s=None)
                    )

    def end(self) -> None:
        """End `follow`."""
        self._stop.set()

    async def _scan(self, effect: fx.ScanDirectory) -> ev.Event:
        try:
            scan, digests = await in_thread(self._thread.of("sync"), partial(self._look, effect))
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing is known of the directory
            self._note(str(error))
            return ev.DirectoryUnavailable(effect.sync_id, str(error))
        self._note(None)
        return ev.DirectoryScanned(
            effect.sync_id,
            tuple((ev.ModelId(model_id), path) for model_id, path in scan.found),
            tuple(map(ev.ModelId, scan.gone)),
            digests,
        )

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


class NoRepository(Component):
    """Stands for the models directory of a host that has none, of which the core wants nothing."""

    def handlers(self) -> Handlers:
        """Return what refuses the effects of a models directory."""
        return dict.fromkeys((fx.ScanDirectory, fx.LeaveEntry), _refuse)


def _refuse(_: object) -> None:
    raise FailedPreconditionError("this host has no models directory")
