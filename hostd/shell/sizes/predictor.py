"""Sizes before anything is loaded: remembered, declared or estimated, and never without saying which.

Rules
1. The store has a thread of its own, in which nothing runs but its own statements.
2. Sizers and finders are somebody else's code: they run in a small pool, and an estimate ends in time whatever they do.
3. What is to be remembered never waits for them. Contents are hashed in a thread of their own, a slice at a time
   (`turns`), so that no small model waits for a big one; several threads would only make a disk seek more.
4. A load waits for a digest half of the time that an estimate may take; then the size is estimated.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from concurrent.futures import wait
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from hostd import paths
from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.bookkeeping.templates import Base, Kind, Learned
from hostd.records import SizeEstimate
from hostd.shell.own_log import about
from hostd.shell.sizes.store import Figures, Imports, SizeStore, finding_key
from hostd.shell.work.component import Component
from hostd.shell.work.raised import as_host_error
from hostd.shell.work.threads import NotInTimeError, Threads, in_thread, result_of
from hostd.shell.work.turns import Turns
from hostd.units import format_size
from hostd_workers.wire.errors import DeadlineExceededError, HostError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from pathlib import Path

    from hostd.config.settings import HostConfig
    from hostd.plugins.registry import Plugins
    from hostd.shell.processes.pool import Workforce
    from hostd.shell.repository.specifying import Specifying
    from hostd.shell.sizes.store import SizeKey
    from hostd.shell.work.component import Handlers
    from hostd.shell.work.turns import Steps

T = TypeVar("T")

_log = logging.getLogger(__name__)

SIZER_THREADS = 8
"""Estimates that are made at the same time; one that hangs costs one of them until it ends."""

THREAD_NAME = "hostd-sizes"
"""What the names of all threads begin with."""

AT_LEAST = "at least"
"""The source of a size that a load had when it was ended because it needed more."""

FILE_NAME = paths.SIZES

_NAMELESS = "embedded"
"""Hosts of programs that gave them no name, which may be any: what one has loaded is not usual for another."""

CLOSE_S = 2.0
"""What is to be remembered is written in milliseconds; a hash of a huge model is not worth a later end."""


class Sizes(Component):
    """Measures, remembers and estimates what models use."""

    def __init__(
        self,
        now: Callable[[], float],
        workforce: Workforce,
        plugins: Plugins,
        config: HostConfig,
        specifying: Specifying,
    ) -> None:
        """Take the core's clock and what looks at workers; have the store opened, in its thread.

        Nobody waits for its disk, or for another host that has it.
        """
        self._now = now
        self._specifying = specifying
        self._workforce = workforce
        self._plugins = plugins
        self._python = config.workers.python
        self._host = paths.PRIVATE.sub("", config.name)
        self._estimate_timeout_s = config.memory.estimate_timeout_s
        self._assumed_bytes = config.memory.assumed_size
        self._sizers = Turns(SIZER_THREADS, THREAD_NAME)
        self._hasher = Turns(1, f"{THREAD_NAME}-hash")
        self._remembering: dict[str, Future[Any]] = {}
        """What is being remembered, by path."""
        self._store_thread = Threads(1, f"{THREAD_NAME}-store")
        self._store = SizeStore(*_places(config))
        self._store_thread.submit(self._store.__enter__)

    def handlers(self) -> Handlers:
        """Return what carries out which effect."""
        return {
            fx.MeasureWorker: self._measure,
            fx.RememberSize: self._remember,
            fx.RememberImports: self._remember_imports,
            fx.PredictSize: self._on_predict,
        }

    def close(self) -> None:
        """Write what is to be remembered, and end the threads; one that hangs in a sizer or on a disk is left alone."""
        wait(self._remembering.values(), CLOSE_S)
        wait([self._store_thread.submit(self._store.__exit__)], CLOSE_S)
        self._sizers.shutdown()
        self._hasher.shutdown()
        self._store_thread.shutdown(wait=False)

    async def estimate(self, client: ev.ClientId, model_id: str, path: str, model_type: str) -> SizeEstimate:
        """Find out what a model may need. Raises `DeadlineExceededError` for a sizer that does not answer in time."""
        known: SizeEstimate | None = None
        until_s = time.monotonic() + self._estimate_timeout_s

        def work() -> ev.LoadingSpec | None:
            nonlocal known
            known = self._plugins.estimate(model_id, path, model_type)  # says so if nothing is at the path
            return self._spec_of(model_id, path)

        spec: ev.LoadingSpec | None = None
        try:
            spec = await in_thread(self._sizers.of(client), work, within_s=self._estimate_timeout_s)
        except NotInTimeError:
            if known is None:  # else only the search for a better one hangs
                raise self._too_late(model_id, path) from None
        except Exception as error:  # noqa: BLE001 - a sizer may raise anything
            raise as_host_error(error, "the sizer failed") from None
        size: SizeEstimate = known  # type: ignore[assignment]
        figures = (
            None if spec is None else await self._recall(client, path, spec, until_s - time.monotonic(), is_forked=True)
        )
        if figures is None or (figures.is_minimum and figures.rss_bytes <= size.bytes):
            return size
        return SizeEstimate(figures.rss_bytes, AT_LEAST if figures.is_minimum else "remembered")

    async def predict(
        self,
        owner: str | bytes,
        model_id: str,
        path: str | None,
        model_type: str,
        spec: ev.LoadingSpec,
        *,
        is_forked: bool,
    ) -> ev.Prediction:
        """Find out what a load will take, whatever happens."""
        assumed = ev.Prediction(self._assumed_bytes, "assumed")
        if path is None:
            return assumed
        half_s = self._estimate_timeout_s / 2
        figures = await self._recall(owner, path, spec, half_s, is_forked=is_forked)
        if figures is not None:
            memory = figures.memory
            if figures.is_minimum:
                return ev.Prediction(memory.charge_bytes, AT_LEAST)
            return ev.Prediction(memory.peak_charge_bytes, "remembered")
        # What cannot be hashed, or not in time, can be estimated all the same.
        work = partial(self._plugins.estimate, model_id, path, model_type)
        try:
            size = await in_thread(self._sizers.of(owner), work, within_s=half_s)
            return ev.Prediction(size.bytes, size.source, spec.python)
        except NotInTimeError:
            why = "no answer within memory.estimate_timeout_s"
        except Exception as error:  # noqa: BLE001 - a sizer may raise anything
            why = as_host_error(error, "the sizer failed").message
        _log.warning(
            "what it needs is not known (%s): %s is assumed (memory.assumed_size)",
            why,
            format_size(self._assumed_bytes),
            extra=about(model=model_id),
        )
        return assumed

    async def foresee(self, client: ev.ClientId, model_id: str, source: ev.LoadSource) -> ev.Prediction:
        """Find out what a load would take that nobody has begun. Raises what refuses it."""
        work = partial(self._specifying.specify, ev.ModelId(model_id), source)
        try:
            found = await in_thread(self._sizers.of(client), work, within_s=self._estimate_timeout_s)
        except NotInTimeError:
            raise self._too_late(model_id, source.path or "") from None
        except Exception as error:  # noqa: BLE001 - a finder may raise anything
            raise as_host_error(error, "the finder failed") from None
        kind, spec = found.source.type, found.spec
        return await self.predict(client, model_id, source.path, kind, spec, is_forked=not spec.is_isolated)

    async def _on_predict(self, effect: fx.PredictSize) -> ev.Event:
        model_id = effect.model_id
        found = await self.predict(
            f"load {model_id}", model_id, effect.path, effect.model_type, effect.spec, is_forked=effect.is_forked
        )
        return ev.SizePredicted(model_id, effect.generation, found)

    def _too_late(self, model_id: str, path: str) -> HostError:
        sizer = self._plugins.sizer_type
        return DeadlineExceededError(
            f"the sizer {sizer!r} did not say within {self._estimate_timeout_s:g} s (memory.estimate_timeout_s) what "
            f"model {model_id!r} may take: it hangs, or the disk of {path} does. Mend or replace the sizer "
            f"(sizers.default), say the size in the model's model.yaml, or allow it more time",
            details={"model_id": model_id, "path": path, "sizer": sizer},
        )

    def _spec_of(self, model_id: str, path: str) -> ev.LoadingSpec | None:
        source = ev.LoadSource(path)
        try:
            return self._specifying.specify(ev.ModelId(model_id), source).spec
        except HostError:
            return None  # what cannot be loaded was never measured; its size can be estimated all the same

    async def _recall(
        self, owner: str | bytes, path: str, spec: ev.LoadingSpec, within_s: float, *, is_forked: bool
    ) -> Figures | None:
        """Look for what the same content took; None if that is not known, or not in time.

        What a fresh worker took is more than what a forked one will, and is better than nothing for it.
        After what is being remembered of the same path: a client that has loaded a model finds what it took.
        """
        until_s = time.monotonic() + within_s

        def work() -> Steps[Figures | None]:
            key = yield from self._finding_key(path, spec)
            keys = [key._replace(is_forked=True), key] if is_forked else [key]
            known = (self._in_store(self._store.recall, each) for each in keys)
            return next((figures for figures in known if figures is not None), None)

        before = self._remembering.get(path)
        if before is not None:
            with contextlib.suppress(Exception):
                await result_of(before, within_s=within_s)
        try:
            left_s = max(0.0, until_s - time.monotonic())
            figures: Figures | None = await in_thread(self._hasher.of(owner), work, within_s=left_s)
        except Exception:  # noqa: BLE001 - its files cannot be read, or not in time
            return None
        return figures

    def _finding_key(self, path: str, spec: ev.LoadingSpec) -> Steps[SizeKey]:
        return finding_key(path, spec.loader, spec.initializer, spec.options, spec.python or self._python)

    def _in_store(self, work: Callable[..., T], *arguments: Any) -> T:
        return self._store_thread.submit(work, *arguments).result()

    async def _measure(self, effect: fx.MeasureWorker) -> ev.Event | None:
        """Measure a worker that has loaded; what cannot be measured is estimated."""
        worker_id, source, asked_s = effect.worker_id, effect.source, self._now()
        if not self._workforce.has(worker_id):
            return None  # its end is told
        memory: ev.Memory | None = None
        with contextlib.suppress(Exception):
            memory = await self._workforce.measure(worker_id)
        if memory is not None or source.path is None:
            return ev.WorkerMeasured(worker_id, memory, asked_s)
        own = ev.ClientId(b"")  # the host's own question
        try:
            size = await self.estimate(own, effect.model_id, source.path, source.type)
        except HostError:
            return ev.WorkerMeasured(worker_id, None, asked_s)
        return ev.WorkerMeasured(worker_id, None, asked_s, size)

    async def _remember(self, effect: fx.RememberSize) -> None:
        path, spec, memory, now_s = effect.path, effect.spec, effect.memory, time.time()
        is_forked = effect.is_forked  # then its resident pages are its template's too, which the load does not add
        figures = Figures(
            rss_bytes=memory.charge_bytes if is_forked else memory.rss_bytes,
            # With what is swapped out: the next load needs it again.
            uss_bytes=memory.charge_bytes,
            pss_bytes=memory.pss_bytes,
            peak_bytes=memory.peak_charge_bytes if is_forked else memory.peak_bytes,
            load_s=effect.load_s,
            is_minimum=effect.is_minimum,
        )

        def work() -> Steps[None]:
            key = yield from self._finding_key(path, spec)
            self._in_store(self._store.remember, key._replace(is_forked=is_forked), figures, now_s)

        future = self._remembering[path] = self._hasher.of(f"remember {path}").submit(work)
        try:
            await result_of(future)
        except Exception as error:  # noqa: BLE001 - its files have gone meanwhile, mostly
            _log.debug("a size could not be remembered: %s", error)
        if self._remembering.get(path) is future:
            del self._remembering[path]

    # Imports

    async def recall_imports(self, *, is_bare_begun: bool = False) -> ev.ImportsRecalled:
        """Return what loads have imported that earlier hosts have seen, under the interpreters that this host uses."""
        rows: list[Imports] = await in_thread(self._store_thread, self._store.recall_imports)
        own = self._python or sys.executable
        known = [(kind, row) for row in rows if (kind := _kind_of(row, own)) is not None]
        mine = [(kind, row) for kind, row in known if row.host == self._host != _NAMELESS]
        usual = [(row.load_s * row.loads, kind) for kind, row in mine if row.loads > 1]
        learned = [(kind, Learned(row.modules, row.loads, row.load_s, row.held_bytes)) for kind, row in known]
        return ev.ImportsRecalled(tuple(learned), max(usual)[1] if usual else None, is_bare_begun)

    async def _remember_imports(self, effect: fx.RememberImports) -> None:
        (python, env), *rest = effect.kind
        if env:  # what models set may be secrets, which are not for a file
            return
        known = effect.learned
        own = python or self._python or sys.executable
        kind = json.dumps([python is None, *rest])
        row = Imports(self._host, own, kind, known.modules, known.loads, known.load_s, known.held_bytes)
        await in_thread(self._store_thread, partial(self._store.remember_imports, row, time.time()))


def _kind_of(row: Imports, own: str) -> Kind | None:
    """Return the kind of loads that a row is of; None if that is of another host's interpreter."""
    match json.loads(row.kind):
        case [bool(is_own), str(loader), str(initializer), str(path)] if not is_own or row.python == own:
            return Kind(Base(None if is_own else row.python), loader, initializer, path)
    return None


def _places(config: HostConfig) -> list[Path]:
    """Return where sizes may be remembered, the best place first; nowhere if they are to be forgotten."""
    if config.memory.remember == "none":
        return []
    own = config.state_dir / FILE_NAME
    return [own] if config.memory.remember == "host" else [paths.shared_state_dir(config.runtime_dir) / FILE_NAME, own]
