"""Syncs: the registry follows the models directory.

Rules
1. A model is unloaded by a sync only if the directory could be read and the model's files, which lay in it, are gone.
2. A directory that cannot be read changes nothing; the host says that it is degraded until it can be read again.
3. One bad entry stops neither the others nor the next sync.
4. What failed, what was unloaded on purpose and what was not to be loaded at the start is left alone by the host's own
   syncs until its files change. A sync that a client asks for tries everything but what has been evicted: that is
   loaded from its files as they are then when it is used, and until then others have its memory.
5. A sync that loads and waits also waits for what an earlier one has begun to load: a caller wants to know what the
   directory has come to, not which sync began it.
6. One scan runs at a time: what a later sync asks for may be newer than what a running scan has seen.
7. What the configuration declares comes first (`Declaring`), with and without a models directory.
8. A report says one thing of each id's load, the last that is known. A declared model that is loaded from elsewhere has
   failed, whatever becomes of the load from there.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import field
from typing import TYPE_CHECKING, TypeAlias

from hostd.core.effects import LeaveEntry, ScanDirectory
from hostd.core.events import LoadSource, Origin, SyncId
from hostd.core.files.declaring import Declaring
from hostd.core.lifecycle import ModelState
from hostd.core.refusals import check_directory
from hostd.records import SyncReport
from hostd_workers.wire.errors import HostError, UnavailableError
from hostd_workers.wire.light_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hostd.core import events as ev
    from hostd.core.comparing import Comparing
    from hostd.core.events import Declared, ModelId
    from hostd.core.happenings import LoadEnded, UnloadEnded
    from hostd.core.loading import Loading
    from hostd.core.models import Model
    from hostd.core.registry import Registry
    from hostd.core.unloading import Unloading
    from hostd.core.values import Waiters


class Fate(enum.Enum):
    """What a sync has to tell of a load that has not failed."""

    LOADED = "LOADED"
    WRITING = "WRITING"


Why: TypeAlias = str
"""Why a load has failed, or was not begun."""


@dataclass(eq=False)
class Sync:
    """One sync; `loading` and `unloading` are the generations that it waits for.

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
    loading: set[int] = field(default_factory=set)
    unloading: set[int] = field(default_factory=set)
    fates: dict[ModelId, Fate | Why] = field(default_factory=dict)
    unloaded: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)

    def report(self, degraded: str | None) -> SyncReport:
        """Return what became of it so far."""
        return SyncReport(
            loaded=self._of(Fate.LOADED),
            unloaded=tuple(self.unloaded),
            failed={model_id: fate for model_id, fate in self.fates.items() if not isinstance(fate, Fate)},
            writing=self._of(Fate.WRITING),
            degraded=degraded,
            changed=tuple(self.changed),
        )

    def await_load(self, model: Model) -> None:
        """Wait for a load that is under way, and tell of it unless it ends badly."""
        self.loading.add(model.generation)
        self.fates[model.id] = Fate.LOADED

    def has_failed(self, model_id: ModelId) -> bool:
        """Say whether the load of an id has failed, or was not begun."""
        return isinstance(self.fates.get(model_id), Why)

    def _of(self, fate: Fate) -> tuple[str, ...]:
        return tuple(model_id for model_id, known in self.fates.items() if known is fate)


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
            sync.fates[model_id] = error.message
            return
        model = self._registry.models.get(model_id)
        is_under_way = model is not None and model.state is ModelState.LOADING
        if model is not None and (has_begun or (sync.wait and is_under_way)):  # the latter of an earlier sync
            sync.await_load(model)

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
            if event.generation in sync.loading:
                self._load_over(sync, event.model_id, event.generation, Fate.WRITING)

    def problems(self) -> list[str]:
        """Return what is wrong with these books; a question for `check_invariants`."""
        models = self._registry.models.values()
        loading = {model.generation for model in models if model.state is ModelState.LOADING}
        unloading = {model.generation for model in models if model.state is ModelState.UNLOADING}
        return [
            f"sync {sync.id} waits for loads or unloads that are not under way"
            for sync in self._syncs.values()
            if not (sync.loading <= loading and sync.unloading <= unloading)
        ]

    def _of_scan(self, sync: Sync, model_id: ModelId) -> Model | None:
        """Return the loaded model that a scan was about, None if it is gone or another by now."""
        model = self._registry.models.get(model_id)
        return model if model is not None and sync.generations.get(model_id) == model.generation else None

    def _unload(self, sync: Sync, model: Model, reason: str) -> None:
        if not sync.has_failed(model.id):
            sync.fates.pop(model.id, None)
        sync.loading.discard(model.generation)
        sync.unloaded.append(model.id)
        self._gone.add(model.id)
        sync.unloading.add(model.generation)
        self._unloading.begin(model, reason)

    def _load(self, sync: Sync, model_id: ModelId, path: str) -> None:
        registry = self._registry
        if registry.intact(model_id) is not None or sync.has_failed(model_id):
            return  # the latter while it was looked for, in the load of an earlier sync
        if registry.is_declared_elsewhere(model_id, path):
            return
        evicted = registry.evicted.get(model_id)
        # One that could not be loaded again may have been mended since.
        if evicted is not None and evicted.source.path in (None, path) and model_id not in registry.failures:
            registry.effects.append(LeaveEntry(model_id))
            return
        source = LoadSource(path)
        try:
            self._loading.check_free(model_id)
        except HostError:
            return  # its files are being moved by a deploy, which sees to it
        sync.await_load(self._loading.begin(model_id, source, Origin.SYNCED, registry.config.lazy_load_retries).model)

    def load_ended(self, what: LoadEnded) -> None:
        """Note in the syncs that wait for a load how it has ended."""
        model, error = what.model, what.error
        # What is gone has not failed: if it comes back before the next scan, it is new.
        is_own = model.origin in (Origin.SYNCED, Origin.DECLARED)
        has_directory = self._registry.config.models_dir is not None
        if error is not None and is_own and has_directory and model.id not in self._gone:
            self._registry.effects.append(LeaveEntry(model.id))
        for sync in list(self._syncs.values()):
            if model.generation in sync.loading:
                self._load_over(sync, model.id, model.generation, Fate.LOADED if error is None else error.message)

    def unload_ended(self, what: UnloadEnded) -> None:
        """Go on with the syncs that wait for an unload; what somebody wanted unloaded is not loaded by the next."""
        model = what.unload.model
        if model.id in self._gone:
            self._gone.discard(model.id)
        elif self._registry.config.models_dir is not None:
            self._registry.effects.append(LeaveEntry(model.id))
        for sync in list(self._syncs.values()):
            if model.generation in sync.unloading:
                sync.unloading.discard(model.generation)
                self._go_on(sync)

    def _load_over(self, sync: Sync, model_id: ModelId, generation: int, fate: Fate | Why) -> None:
        """Wait no longer for a load, and tell what became of it; of one from elsewhere it was told."""
        sync.loading.discard(generation)
        if not sync.has_failed(model_id):
            sync.fates[model_id] = fate
        self._go_on(sync)

    def _go_on(self, sync: Sync) -> None:
        """Answer a sync that has nothing to wait for any more."""
        if sync.is_acting or (sync.wait and (sync.loading or sync.unloading)):
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
                self._join(sync, models)
            self._registry.effects.append(ScanDirectory(sync.id, loaded, sync.retry_all))

    def _join(self, sync: Sync, models: list[Model]) -> None:
        """Have a sync wait for the loads that earlier ones have begun, as if it had begun them."""
        for model in models:
            if model.origin not in (Origin.SYNCED, Origin.DECLARED) or model.load is None:
                continue
            is_elsewhere = self._registry.is_declared_elsewhere(model.id, model.source.path)
            if sync.has_failed(model.id) and is_elsewhere:
                sync.loading.add(model.generation)
            else:
                sync.await_load(model)


def _has_files(model: Model) -> bool:
    """Say whether a model has a path that may be gone; that of a lazy load, say, is a guess until it is found."""
    is_guess = model.origin in (Origin.LAZY, Origin.DECLARED) and model.spec is None
    return model.source.path is not None and model.state is not ModelState.UNLOADING and not is_guess
