"""Sizes before anything is loaded: remembered, declared or estimated, and never without saying which.

One thread does all of it, because the ledger belongs to one, and because hashing several models at once would only make
a disk seek.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.records import SizeEstimate
from hostd.shell.ledger import Figures, Ledger, key_of
from hostd.shell.supervisor import as_host_error
from workers.wire.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hostd.plugins import Plugins
    from hostd.shell.ledger import SizeKey
    from hostd.shell.supervisor import Supervisor

_log = logging.getLogger(__name__)

THREAD_NAME = "hostd-sizes"

CLOSE_S = 2.0
"""What is to be remembered is written in milliseconds; a hash of a huge model is not worth a later end."""


class Sizes:
    """Measures, remembers and estimates what models use."""

    def __init__(self, supervisor: Supervisor, plugins: Plugins, state_dir: Path, python: str | None) -> None:
        self._supervisor = supervisor
        self._plugins = plugins
        self._python = python
        self._thread = ThreadPoolExecutor(1, THREAD_NAME)
        self._ledger = Ledger(state_dir / "sizes.sqlite")

    def handlers(self) -> dict[type, Callable[[Any], object]]:
        """Return who carries out which effect."""
        return {fx.MeasureWorker: self._measure, fx.RememberSize: self._remember}

    def open(self) -> None:
        """Open the ledger, in its thread."""
        self._thread.submit(self._ledger.__enter__).result()

    def close(self) -> None:
        """Write what is to be remembered, and end the thread; one that hangs in a sizer or on a disk is left alone."""
        closed = self._thread.submit(self._ledger.__exit__, None, None, None)
        wait([closed], CLOSE_S)
        self._thread.shutdown(wait=False)

    def estimate(
        self, model_id: str, path: str, model_type: str, then: Callable[[SizeEstimate | HostError], None]
    ) -> None:
        """Find out in a thread what a model may need, and call `then` on the loop with it, or with what is wrong."""

        def finished(found: Any) -> None:
            is_failed = isinstance(found, BaseException)
            then(as_host_error(found, "the sizer failed") if is_failed else found)

        self._supervisor.in_thread(self._thread, lambda: self._estimate(model_id, path, model_type), finished)

    def _estimate(self, model_id: str, path: str, model_type: str) -> SizeEstimate:
        estimate = self._plugins.estimate(model_id, path, model_type)  # says so if nothing is at the path
        key = self._key_of(model_id, path)
        remembered = None if key is None else self._ledger.recall(key)
        return estimate if remembered is None else SizeEstimate(remembered.rss_bytes, "remembered")

    def _key_of(self, model_id: str, path: str) -> SizeKey | None:
        try:
            spec = self._plugins.find(model_id, path)
        except HostError:
            return None  # what cannot be loaded was never measured; its size can be estimated all the same
        initializer = None if spec.initializer is None else (spec.initializer, spec.initializer_config)
        return key_of(path, spec.loader, initializer, spec.options, spec.python or self._python)

    def _measure(self, effect: fx.MeasureWorker) -> None:
        """Measure a worker that has loaded; what cannot be measured is estimated."""
        worker_id, source = effect.worker_id, effect.source

        def then(memory: ev.Memory | None) -> ev.Event | None:
            if memory is not None or source.path is None:
                return ev.WorkerMeasured(worker_id, memory)
            self.estimate(
                effect.model_id,
                source.path,
                source.type,
                lambda found: self._supervisor.emit_later(
                    ev.WorkerMeasured(worker_id, None, found if isinstance(found, SizeEstimate) else None)
                ),
            )
            return None

        self._supervisor.measure(worker_id, then)

    def _remember(self, effect: fx.RememberSize) -> None:
        spec, memory, now_s = effect.spec, effect.memory, time.time()
        figures = Figures(
            rss_bytes=memory.rss_bytes,
            uss_bytes=memory.uss_bytes,
            pss_bytes=memory.pss_bytes,
            peak_bytes=memory.peak_bytes,
            load_s=effect.load_s,
        )

        def work() -> None:
            key = key_of(effect.path, spec.loader, spec.initializer, spec.options, spec.python or self._python)
            self._ledger.remember(key, figures, now_s)

        def then(outcome: Any) -> None:
            if isinstance(outcome, BaseException):
                _log.debug("a size could not be remembered: %s", outcome)  # its files have gone meanwhile, mostly

        self._supervisor.in_thread(self._thread, work, then)
