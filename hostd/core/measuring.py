"""What samples of memory mean: sizes, loads that are done, limits that are broken, growth.

Rules
1. A sample of a tree that is being killed says nothing about its model.
2. What a worker says of its own memory is not used: the baseline is measured, and known for its interpreter alone.
3. Samples are read by several threads. One that was asked for before the last one that counts is of an earlier moment,
   perhaps, and says nothing any more.
4. A model is READY with the first sample that was asked for after its load, not before; what was reserved for it counts
   until such a sample could be read.
5. A model over its own limit is killed, alone, and its callers are told the figure and the limit. It is not tried
   again: it would do the same.
6. A load that holds more than is reserved for it goes on, or is paused: `Growing` sees to that at the next look, which
   every sample of it causes that is not as the last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hostd.core.lifecycle import WorkerInput, WorkerState
from hostd.core.refusals import limit_error
from hostd.core.values import Size

if TYPE_CHECKING:
    from hostd.core.events import BaselineMeasured, WorkerMeasured
    from hostd.core.loading import Loading
    from hostd.core.losing import Losing
    from hostd.core.memory.admission import Admission
    from hostd.core.models import Model, Worker
    from hostd.core.registry import Registry


_WITH_MODEL: Final = (
    WorkerState.LOADING,
    WorkerState.PAUSED,
    WorkerState.READY,
    WorkerState.DRAINING,
    WorkerState.CLOSING,
)


class Measuring:
    """The decisions about samples."""

    def __init__(self, registry: Registry, loading: Loading, admission: Admission, losing: Losing) -> None:
        """Take what goes on with a load, what minds the budget, and what ends the calls of a worker that is lost."""
        self._registry = registry
        self._loading = loading
        self._admission = admission
        self._losing = losing

    def baseline_measured(self, event: BaselineMeasured) -> None:
        """Take what a worker holds before its load; that of a forked one is its template's."""
        worker = self._registry.workers.get(event.worker_id)
        if worker is not None and worker.model.spec is not None and worker.template is None:
            worker.baseline_bytes = event.baseline_bytes
            self._registry.baselines.note(worker.model.spec.python, event.baseline_bytes)

    def measured(self, event: WorkerMeasured) -> None:
        """Take a sample of a worker."""
        registry = self._registry
        worker = registry.workers.get(event.worker_id)
        if worker is None:
            return
        model, before = worker.model, (worker.measured_bytes, worker.reserved_bytes)
        is_of_loaded = worker.loaded_s is not None and event.asked_s >= worker.loaded_s
        if event.memory is not None and worker.sampled_s is not None and event.asked_s < worker.sampled_s:
            return
        if event.memory is not None and worker.state is not WorkerState.KILLING:
            worker.sampled(event.memory, event.asked_s)
            worker.reserved_bytes = 0 if is_of_loaded else worker.reserved_bytes
            sizes = [w.size_bytes for w in model.workers.values()]
            model.size = Size(sum(sizes), "measured")
            if self._has_broken_limit(worker, model):
                return
        elif event.estimate is not None and model.size.bytes is None:
            model.size = Size(event.estimate.bytes, event.estimate.source)
        is_done = is_of_loaded and not worker.disconnected and registry.accepts(worker, WorkerInput.MEASURED)
        too_large = self._admission.growing.done(worker) if is_done else None
        if too_large is not None:
            self._loading.fail(worker, too_large.error)
        elif is_done:
            registry.move_worker(worker, WorkerInput.MEASURED, "loaded and measured")
            self._loading.load_succeeded(worker, is_measured=event.memory is not None)
        # Most samples are of workers that idle, and a look at all workers for each of those is quadratic.
        if (worker.measured_bytes, worker.reserved_bytes) != before:
            self._admission.measured(worker)

    def _has_broken_limit(self, worker: Worker, model: Model) -> bool:
        limit_bytes = model.spec.memory.limit_bytes if model.spec else None
        measured_bytes = sum(
            w.measured_bytes - min(w.measured_bytes, w.inherited_bytes) for w in model.workers.values()
        )
        if limit_bytes is None or measured_bytes <= limit_bytes or not _has_model(worker):
            return False
        error = limit_error(model, limit_bytes, measured_bytes)
        self._loading.fail(worker, error)
        self._losing.lose(worker, error)
        return True


def _has_model(worker: Worker) -> bool:
    return worker.state in _WITH_MODEL
