"""Sizes before anything is loaded: remembered, declared or estimated, and never without saying which.

Rules
1. The store has a thread of its own, in which nothing runs but its own statements.
2. Sizers and finders are somebody else's code: they run in a small pool, and an estimate ends in time whatever they do.
3. What is to be remembered never waits for them. Contents are hashed in a thread of their own, a slice at a time
   (`turns`), so that no small model waits for a big one; several threads would only make a disk seek more.
4. A load waits for a digest half of the time that an estimate may take; then the size is estimated.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import wait
from typing import TYPE_CHECKING, Any, TypeVar, cast

from hostd import paths
from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.records import SizeEstimate
from hostd.shell.own_log import about
from hostd.shell.sizes.store import Figures, SizeStore, finding_key
from hostd.shell.supervisor import NotInTimeError, as_host_error
from hostd.shell.threads import Threads
from hostd.shell.turns import Turns
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
    from hostd.shell.supervisor import Supervisor
    from hostd.shell.turns import Steps

T = TypeVar("T")

_log = logging.getLogger(__name__)

SIZER_THREADS = 8
"""Estimates that are made at the same time; one that hangs costs one of them until it ends."""

THREAD_NAME = "hostd-sizes"
"""What the names of all threads begin with."""

AT_LEAST = "at least"
"""The source of a size that a load had when it was ended because it needed more."""

FILE_NAME = paths.SIZES

CLOSE_S = 2.0
"""What is to be remembered is written in milliseconds; a hash of a huge model is not worth a later end."""


class Sizes:
    """Measures, remembers and estimates what models use."""

    def __init__(
        self,
        supervisor: Supervisor,
        workforce: Workforce,
        plugins: Plugins,
        config: HostConfig,
        specifying: Specifying,
    ) -> None:
        self._supervisor = supervisor
        self._specifying = specifying
        self._workforce = workforce
        self._plugins = plugins
        self._python = config.workers.python
        self._estimate_timeout_s = config.memory.estimate_timeout_s
        self._assumed_bytes = config.memory.assumed_size
        self._sizers = Turns(SIZER_THREADS, THREAD_NAME)
        self._hasher = Turns(1, f"{THREAD_NAME}-hash")
        self._remembering: dict[str, Future[Any]] = {}
        """What is being remembered, by path."""
        self._store_thread = Threads(1, f"{THREAD_NAME}-store")
        self._store = SizeStore(*_places(config))

    def handlers(self) -> dict[type, Callable[[Any], object]]:
        """Return who carries out which effect."""
        return {fx.MeasureWorker: self._measure, fx.RememberSize: self._remember, fx.PredictSize: self._on_predict}

    def open(self) -> None:
        """Have the store opened, in its thread; nobody waits for the disk, or for another host that has it."""
        self._store_thread.submit(self._store.__enter__)

    def close(self) -> None:
        """Write what is to be remembered, and end the threads; one that hangs in a sizer or on a disk is left alone."""
        wait(self._remembering.values(), CLOSE_S)
        wait([self._store_thread.submit(self._store.__exit__, None, None, None)], CLOSE_S)
        self._sizers.shutdown()
        self._hasher.shutdown()
        self._store_thread.shutdown(wait=False)

    def estimate(
        self,
        client: ev.ClientId,
        model_id: str,
        path: str,
        model_type: str,
        then: Callable[[SizeEstimate | HostError], None],
    ) -> None:
        """Find out in threads what a model may need, and call `then` on the loop with it, or with what is wrong.

        `DeadlineExceededError` for a sizer that does not answer in time.
        """
        known: SizeEstimate | None = None
        until_s = time.monotonic() + self._estimate_timeout_s

        def work() -> ev.LoadingSpec | None:
            nonlocal known
            known = self._plugins.estimate(model_id, path, model_type)  # says so if nothing is at the path
            return self._spec_of(model_id, path)

        def estimated(found: Any) -> None:
            if isinstance(found, NotInTimeError) or (known is not None and found is None):
                then(known or self._too_late(model_id, path))  # with a size if only the search for a better one hangs
            elif isinstance(found, BaseException):
                then(as_host_error(found, "the sizer failed"))
            else:
                self._recall(client, path, found, until_s - time.monotonic(), recalled)

        def recalled(found: Any) -> None:
            size = cast("SizeEstimate", known)
            if isinstance(found, Figures) and not (found.is_minimum and found.rss_bytes <= size.bytes):
                size = SizeEstimate(found.rss_bytes, AT_LEAST if found.is_minimum else "remembered")
            then(size)

        self._supervisor.in_thread(self._sizers.of(client), work, estimated, within_s=self._estimate_timeout_s)

    def predict(
        self,
        owner: str | bytes,
        model_id: str,
        path: str | None,
        model_type: str,
        spec: ev.LoadingSpec,
        then: Callable[[ev.Prediction], None],
    ) -> None:
        """Find out in threads what a load will take, and call `then` on the loop with it, whatever happens."""
        assumed = ev.Prediction(self._assumed_bytes, self._assumed_bytes, "assumed")
        if path is None:
            then(assumed)
            return
        place, half_s = path, self._estimate_timeout_s / 2

        def recalled(found: Any) -> None:
            if isinstance(found, Figures):
                memory = found.memory
                peak_bytes = memory.charge_bytes if found.is_minimum else memory.peak_charge_bytes
                then(ev.Prediction(peak_bytes, memory.charge_bytes, AT_LEAST if found.is_minimum else "remembered"))
                return
            # What cannot be hashed, or not in time, can be estimated all the same.
            self._supervisor.in_thread(self._sizers.of(owner), estimate, estimated, within_s=half_s)

        def estimate() -> SizeEstimate:
            return self._plugins.estimate(model_id, place, model_type)

        def estimated(found: Any) -> None:
            if isinstance(found, SizeEstimate):
                then(ev.Prediction(found.bytes, found.bytes, found.source, spec.python))
                return
            failed = as_host_error(found, "the sizer failed").message
            why = "no answer within memory.estimate_timeout_s" if isinstance(found, NotInTimeError) else failed
            _log.warning(
                "what it needs is not known (%s): %s is assumed (memory.assumed_size)",
                why,
                format_size(self._assumed_bytes),
                extra=about(model=model_id),
            )
            then(assumed)

        self._recall(owner, place, spec, half_s, recalled)

    def foresee(
        self,
        client: ev.ClientId,
        model_id: str,
        source: ev.LoadSource,
        then: Callable[[ev.Prediction | HostError], None],
    ) -> None:
        """Find out what a load would take that nobody has begun, and call `then` with it, or with what refuses it."""

        def work() -> tuple[ev.LoadingSpec, str]:
            found = self._specifying.specify(ev.ModelId(model_id), source)
            return found.spec, found.source.type

        def finished(found: Any) -> None:
            if isinstance(found, NotInTimeError):
                then(self._too_late(model_id, source.path or ""))
            elif isinstance(found, BaseException):
                then(as_host_error(found, "the finder failed"))
            else:
                spec, model_type = found
                self.predict(client, model_id, source.path, model_type, spec, then)

        self._supervisor.in_thread(self._sizers.of(client), work, finished, within_s=self._estimate_timeout_s)

    def _on_predict(self, effect: fx.PredictSize) -> None:
        def then(prediction: ev.Prediction) -> None:
            self._supervisor.emit_later(ev.SizePredicted(effect.model_id, effect.generation, prediction))

        owner = f"load {effect.model_id}"
        self.predict(owner, effect.model_id, effect.path, effect.model_type, effect.spec, then)

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

    def _recall(
        self, owner: str | bytes, path: str, spec: ev.LoadingSpec, within_s: float, then: Callable[[Any], None]
    ) -> None:
        """Look for what the same content took, and call `then` with the figures, None or what went wrong.

        After what is being remembered of the same path: who has loaded a model finds what it took.
        """
        until_s = time.monotonic() + within_s

        def work() -> Steps[Figures | None]:
            key = yield from self._finding_key(path, spec)
            return self._in_store(self._store.recall, key)

        def begin(_: object = None) -> None:
            left_s = max(0.0, until_s - time.monotonic())
            self._supervisor.in_thread(self._hasher.of(owner), work, then, within_s=left_s)

        before = self._remembering.get(path)
        if before is None:
            begin()
        else:
            self._supervisor.when(before, begin, within_s=within_s)

    def _finding_key(self, path: str, spec: ev.LoadingSpec) -> Steps[SizeKey]:
        return finding_key(path, spec.loader, spec.initializer, spec.options, spec.python or self._python)

    def _in_store(self, work: Callable[..., T], *arguments: Any) -> T:
        return self._store_thread.submit(work, *arguments).result()

    def _measure(self, effect: fx.MeasureWorker) -> None:
        """Measure a worker that has loaded; what cannot be measured is estimated."""
        worker_id, source, asked_s = effect.worker_id, effect.source, self._supervisor.now()

        def then(memory: ev.Memory | None) -> ev.Event | None:
            if memory is not None or source.path is None:
                return ev.WorkerMeasured(worker_id, memory, asked_s)
            self.estimate(
                ev.ClientId(b""),  # the host's own question
                effect.model_id,
                source.path,
                source.type,
                lambda found: self._supervisor.emit_later(
                    ev.WorkerMeasured(worker_id, None, asked_s, found if isinstance(found, SizeEstimate) else None)
                ),
            )
            return None

        self._workforce.measure(worker_id, then)

    def _remember(self, effect: fx.RememberSize) -> None:
        spec, memory, now_s = effect.spec, effect.memory, time.time()
        figures = Figures(
            rss_bytes=memory.rss_bytes,
            # With what is swapped out: the next load needs it again.
            uss_bytes=memory.charge_bytes,
            pss_bytes=memory.pss_bytes,
            peak_bytes=memory.peak_bytes,
            load_s=effect.load_s,
            is_minimum=effect.is_minimum,
        )

        def work() -> Steps[None]:
            key = yield from self._finding_key(effect.path, spec)
            self._in_store(self._store.remember, key, figures, now_s)

        def then(outcome: Any) -> None:
            if self._remembering.get(effect.path) is future:
                del self._remembering[effect.path]
            if isinstance(outcome, BaseException):
                _log.debug("a size could not be remembered: %s", outcome)  # its files have gone meanwhile, mostly

        future = self._supervisor.in_thread(self._hasher.of(f"remember {effect.path}"), work, then)
        self._remembering[effect.path] = future


def _places(config: HostConfig) -> list[Path]:
    """Return where sizes may be remembered, the best place first; nowhere if they are to be forgotten."""
    if config.memory.remember == "none":
        return []
    own = config.state_dir / FILE_NAME
    return [own] if config.memory.remember == "host" else [paths.shared_state_dir(config.runtime_dir) / FILE_NAME, own]
