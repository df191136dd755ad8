"""Syncs: the registry follows the models directory.

Rules
1. A model is unloaded by a sync only if the directory could be read and the model's files, which lay in it, are gone.
2. A directory that cannot be read changes nothing; the host says that it is degraded until it can be read again.
3. One bad entry stops neither the others nor the next sync.
4. What failed, what was unloaded on purpose and what was not to be loaded at the start is left alone by the host's own
   syncs until its files change. A sync that a client asks for tries everything but what has been evicted: that is
   loaded from its files as they are then when it is used, and until then others have its memory.
5. A sync that loads and waits also waits for what an earlier one has begun to load: whoever asks wants to know what the
   directory has come to, not who began it.
6. One scan runs at a time: what a later sync asks for may be newer than what a running scan has seen.
7. What the configuration declares comes first (`Declaring`), with and without a models directory.
"""

from __future__ import annotations

import contextlib
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hostd.core.declaring import Declaring
from hostd.core.effects import LeaveEntry, ScanDirectory
from hostd.core.events import STANDALONE, LoadSource, Origin, SyncId
from hostd.core.lifecycle import ModelState
from hostd.core.refusals import check_directory
from hostd.records import SyncReport
from hostd_workers.wire.errors import HostError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hostd.core import events as ev
    from hostd.core.comparing import Comparing
    from hostd.core.events import Declared, ModelId
    from hostd.core.loading import Loading
    from hostd.core.models import Model
    from hostd.core.registry import Registry
    from hostd.core.unloading import Unloading
    from hostd.core.waiting import Waiters
    from hostd.records import UnloadReport


@dataclass(eq=False)
class Sync:
    """One sync; `pending` are the models that it loads or unloads, or waits for, and that are not done.

    `is_acting` while it still finds out what to do, so that it does not end with the first thing done. `generations`
    are the models that the scan was about: what was loaded later is not gone.
    """

    id: SyncId
    wait: bool
    load: bool
    retry_all: bool
    is_leaving: bool
    is_acting: bool = True
    waiters: Waiters = field(default_factory=dict)
    generations: dict[ModelId, int] = field(default_factory=dict)
    pending: set[ModelId] = field(default_factory=set)
    loaded: list[str] = field(default_factory=list)
    unloaded: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    writing: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)

    def report(self, degraded: str | None) -> SyncReport:
        """Return what became of it so far."""
        return SyncReport(
            loaded=tuple(self.loaded),
            unloaded=tuple(self.unloaded),
            failed=dict(self.failed),
            writing=tuple(self.writing),
            degraded=degraded,
            changed=tuple(self.changed),
        )


class Syncing:
    """The decisions about syncs."""

    def __init__(self, registry: Registry, loading: Loading, unloading: Unloading, comparing: Comparing) -> None:
        self._registry = registry
        self._loading = loading
        self._unloading = unloading
        self._comparing = comparing
        self._declaring = Declaring(registry, loading)
        self._queue: deque[Sync] = deque()
        self._syncs: dict[SyncId, Sync] = {}
        self._gone: set[ModelId] = set()
        """Models that are being unloaded because their files are gone, not because somebody wanted it."""
        self._is_scanning = False
        self._count = 0
        registry.load_ended.append(self._on_load_ended)
        registry.unload_ended.append(self._on_unload_ended)

    def sync(self, event: ev.SyncRequested) -> None:
        """Have the directory looked at. Raises `HostError` to refuse."""
        registry = self._registry
        self._loading.refuse_if_stopping()
        if not event.declared and not registry.declared:
            check_directory(registry)
        self._count += 1
        sync = Sync(SyncId(self._count), event.wait, event.load, event.retry_all, event.is_leaving)
        registry.waiting.add(sync.waiters, event.caller, event.deadline_s)
        self._syncs[sync.id] = sync
        if event.declared is not None:
            self._declare(sync, event.declared)
        registry.is_reading = event.is_first and registry.config.models_dir is not None
        if registry.config.models_dir is None:
            sync.is_acting = False
            self._go_on(sync)
        else:
            self._queue.append(sync)
            self._scan_next()

    def _declare(self, sync: Sync, declared: Mapping[ModelId, Declared]) -> None:
        for model in self._declaring.declare(declared):
            self._unload(sync, model, "it is not declared in the configuration any more")
        for model_id in declared:
            self._load_declared(sync, model_id)

    def _load_declared(self, sync: Sync, model_id: ModelId) -> None:
        try:
            has_begun = self._declaring.load(model_id)
        except HostError as error:
            sync.failed[model_id] = error.message
            return
        model = self._registry.models.get(model_id)
        is_under_way = model is not None and model.state is ModelState.LOADING
        if has_begun or (sync.wait and is_under_way):  # the latter of an earlier sync
            sync.loaded.append(model_id)
            sync.pending.add(model_id)

    def scanned(self, event: ev.DirectoryScanned) -> None:
        """Load what is new, and unload what is gone."""
        sync = self._take(event.sync_id)
        registry = self._registry
        registry.degraded = None
        for model_id in event.gone:
            model = self._of_scan(sync, model_id)
            if model is not None and not self._loading.is_busy(model_id):
                self._unload(sync, model, "its files are gone from the models directory")
        for model_id, digest in event.digests:
            model = self._of_scan(sync, model_id)
            if model is not None and self._comparing.note(model, digest):
                sync.changed.append(model_id)
        for model_id, path in event.found:
            if sync.load and not registry.is_stopping:
                self._load(sync, model_id, path)
            elif sync.is_leaving:
                registry.effects.append(LeaveEntry(model_id))
        self._acted(sync)

    def unavailable(self, event: ev.DirectoryUnavailable) -> None:
        """Note that the directory cannot be followed at present."""
        sync = self._take(event.sync_id)
        self._registry.degraded = event.reason
        self._acted(sync)

    def stop(self) -> None:
        """Answer everybody: the host is shutting down."""
        self._queue.clear()
        for sync in self._syncs.values():
            self._registry.waiting.refuse(sync.waiters, UnavailableError("the host is shutting down"))

    def delayed(self, event: ev.SpecDelayed) -> None:
        """Wait no longer for entries that are still being written: they are loaded when they are whole."""
        for sync in list(self._syncs.values()):
            if event.model_id in sync.pending and event.model_id in sync.loaded:
                sync.pending.discard(event.model_id)
                sync.loaded.remove(event.model_id)
                sync.writing.append(event.model_id)
                self._go_on(sync)

    def _of_scan(self, sync: Sync, model_id: ModelId) -> Model | None:
        """Return the loaded model that a scan was about, None if it is gone or another by now."""
        model = self._registry.models.get(model_id)
        return model if model is not None and sync.generations.get(model_id) == model.generation else None

    def _unload(self, sync: Sync, model: Model, reason: str) -> None:
        _disown(sync, model.id)
        sync.unloaded.append(model.id)
        self._gone.add(model.id)
        sync.pending.add(model.id)
        self._unloading.begin(model, reason)

    def _load(self, sync: Sync, model_id: ModelId, path: str) -> None:
        registry = self._registry
        model = registry.models.get(model_id)
        if (model is not None and model.state is not ModelState.FAILED) or model_id in sync.failed:
            return  # the latter while it was looked for, in the load of an earlier sync
        if registry.is_declared_elsewhere(model_id, path):
            return
        evicted = registry.evicted.get(model_id)
        # One that could not be loaded again may have been mended since.
        if evicted is not None and evicted.source.path in (None, path) and model_id not in registry.failures:
            registry.effects.append(LeaveEntry(model_id))
            return
        source = LoadSource(path, STANDALONE, None, None, {})
        try:
            self._loading.check_free(model_id)
        except HostError:
            return  # its files are being moved by a deploy, which sees to it
        self._loading.begin(model_id, source, Origin.SYNCED, registry.config.lazy_load_retries)
        _disown(sync, model_id)  # a load that it joined, and that has ended while the directory was read
        sync.loaded.append(model_id)
        sync.pending.add(model_id)

    def _on_load_ended(self, model: Model, error: HostError | None) -> None:
        # What is gone has not failed: if it comes back before the next scan, it is new.
        is_own = model.origin in (Origin.SYNCED, Origin.DECLARED)
        has_directory = self._registry.config.models_dir is not None
        if error is not None and is_own and has_directory and model.id not in self._gone:
            self._registry.effects.append(LeaveEntry(model.id))
        for sync in self._syncs.values():
            if error is not None and model.id in sync.pending and model.id in sync.loaded:
                sync.loaded.remove(model.id)
                sync.failed[model.id] = error.message
        for sync in list(self._syncs.values()):
            if model.id not in sync.unloaded:  # else its unload has overtaken the load, and is still to be proven
                self._done(sync, model.id)

    def _on_unload_ended(self, model: Model, _report: UnloadReport) -> None:
        if model.id in self._gone:
            self._gone.discard(model.id)
        elif self._registry.config.models_dir is not None:
            self._registry.effects.append(LeaveEntry(model.id))
        for sync in list(self._syncs.values()):
            self._done(sync, model.id)

    def _done(self, sync: Sync, model_id: ModelId) -> None:
        if model_id in sync.pending:
            sync.pending.discard(model_id)
            self._go_on(sync)

    def _go_on(self, sync: Sync) -> None:
        """Answer a sync that has nothing to wait for any more."""
        if sync.is_acting or (sync.wait and sync.pending):
            return
        del self._syncs[sync.id]
        self._registry.waiting.answer(sync.waiters, sync.report(self._registry.degraded))

    def _take(self, sync_id: SyncId) -> Sync:
        self._is_scanning = self._registry.is_reading = False
        return self._syncs[sync_id]

    def _acted(self, sync: Sync) -> None:
        sync.is_acting = False
        self._scan_next()  # not before: the next sync has to know what this one has begun
        self._go_on(sync)

    def _scan_next(self) -> None:
        if not self._is_scanning and self._queue:
            self._is_scanning = True
            sync = self._queue.popleft()
            models = [model for model in self._registry.models.values() if _has_files(model)]
            sync.generations = {model.id: model.generation for model in models}
            loaded = tuple((model.id, model.source.path or "") for model in models)
            if sync.load and sync.wait:
                # Not when the directory was read: it leaves out what is loaded now, and some will have ended by then.
                _join(sync, models)
            self._registry.effects.append(ScanDirectory(sync.id, loaded, sync.retry_all))


def _join(sync: Sync, models: list[Model]) -> None:
    """Have a sync wait for the loads that earlier ones have begun, as if it had begun them."""
    own = [model for model in models if model.origin in (Origin.SYNCED, Origin.DECLARED)]
    under_way = [model.id for model in own if model.state is ModelState.LOADING and model.id not in sync.loaded]
    sync.loaded.extend(under_way)
    sync.pending.update(under_way)


def _disown(sync: Sync, model_id: ModelId) -> None:
    """Forget what a sync had to tell of a load that it joined."""
    for joined in (sync.loaded, sync.writing):
        with contextlib.suppress(ValueError):
            joined.remove(model_id)


def _has_files(model: Model) -> bool:
    """Say whether a model has a path that may be gone; that of a lazy load, say, is a guess until it is found."""
    is_guess = model.origin in (Origin.LAZY, Origin.DECLARED) and model.spec is None
    return model.source.path is not None and model.state is not ModelState.UNLOADING and not is_guess
