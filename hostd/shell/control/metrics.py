"""The Prometheus page: the customer's names, then ours with the prefix `hostd_`.

Everything that changes is copied on the event loop in one go, so a page is of one moment; it is written down in another
thread. Gauges come from the core's records, so none can be stale. Counts come from transitions (`tally`).
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder

from hostd.core.describing import describe
from hostd.records import SERVING
from hostd.shell.control.tally import Tally, buckets_of
from hostd.version import __version__
from hostd_workers.wire import frames as wire
from hostd_workers.wire.lane.figures import BUCKETS_S
from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hostd.core.bookkeeping.totals import Counts
    from hostd.core.describing import Facts
    from hostd.core.machine import Core
    from hostd.core.queries.queries import CallTimes
    from hostd.core.values import ModelId
    from hostd.records import Event, MemoryInfo, ModelInfo, TemplatesInfo, WorkerInfo

EVICTION_REASONS = ("LOAD", "GROWTH", "IDLE")
"""All of them, so that a counter that has not counted yet reads 0 and is not absent."""


def _of_workers(figure: Callable[[WorkerInfo], int | None]) -> Callable[[ModelInfo], int | None]:
    """Return what sums a figure up over a model's workers; None if it is known of none, as on a system without it."""

    def sum_of(model: ModelInfo) -> int | None:
        known = [value for worker in model.workers if (value := figure(worker)) is not None]
        return sum(known) if known else None

    return sum_of


_GAUGES: dict[str, tuple[str, Callable[[ModelInfo], float | None]]] = {
    "rss_bytes": ("Resident memory of the model's processes", _of_workers(lambda worker: worker.rss_bytes)),
    "uss_bytes": ("Private memory of the model's processes", _of_workers(lambda worker: worker.uss_bytes)),
    "pss_bytes": ("Proportional memory of the model's processes", _of_workers(lambda worker: worker.pss_bytes)),
    "peak_bytes": ("Peak resident memory of the model's processes", _of_workers(lambda worker: worker.peak_bytes)),
    "shared_bytes": ("Shared memory that the model holds", _of_workers(lambda worker: worker.shared_bytes)),
    "gpu_bytes": ("Memory of the model's processes on devices", _of_workers(lambda worker: worker.gpu_bytes)),
    "charge_bytes": ("What the model counts against the budget", lambda m: m.charge_bytes),
    "in_flight": ("Calls in flight", lambda m: sum(w.in_flight for w in m.workers)),
}


_COUNTERS: dict[str, tuple[str, str, float]] = {
    "calls": ("Calls that reached a worker", "calls", 1),
    "successes": ("Calls that ended well", "succeeded", 1),
    "errors": ("Calls that failed", "errors", 1),
    "cancellations": ("Calls that were cancelled, or whose callers have gone", "cancelled", 1),
    "success_seconds": (
        "Time from the arrival of calls to their answers, if these are good",
        "success_ns",
        1e-9,
    ),
    "error_seconds": ("Time from the arrival of calls to their errors", "fail_ns", 1e-9),
    "executions": ("Calls that workers ran", "executions", 1),
    "queue_seconds": ("Time that workers let these calls wait", "queue_ns", 1e-9),
    "compute_seconds": ("Time that workers ran these calls", "compute_ns", 1e-9),
}
"""Since the start of the host, over reloads and evictions: the name, what it says, the count, and the count's unit.

Models that were evicted keep theirs on the page: what they counted since the last look would be lost with them.
"""


class Snapshot(NamedTuple):
    """The host at one moment."""

    models: list[Facts]
    memory: MemoryInfo
    templates: TemplatesInfo
    degraded: str | None
    calls: list[CallTimes]
    counts: list[Any]
    deaths: dict[str, int]
    evicted: list[tuple[ModelId, Counts]]


class Metrics:
    """The metrics of one host. `on_event` and `snapshot` are for the event loop, `page` for any thread."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._tally = Tally()
        self._process = ProcessCollector(namespace="hostd", registry=None)
        self.on_event: Callable[[Event], None] = self._tally.on_event

    def snapshot(self) -> Snapshot:
        """Return a copy of all that changes."""
        queries, tally = self._core.queries, self._tally
        counts, deaths = list(tally.families()), dict(tally.deaths)
        models, memory = list(queries.each_model()), queries.memory()
        templates, times, evicted = queries.templates(), queries.call_times(), queries.evicted_counts()
        return Snapshot(models, memory, templates, queries.degraded, times, counts, deaths, evicted)

    def page(self, snapshot: Snapshot, accept: str) -> tuple[str, bytes]:
        """Return the content type of the page, the best that is accepted, and the page."""
        encode, content_type = choose_encoder(accept)
        return content_type, encode(
            _Collected([*families_of([*map(describe, snapshot.models)], snapshot), *self._process.collect()])
        )


class _Collected(NamedTuple):
    """Families, in the shape in which the library asks for them."""

    families: list[Any]

    def collect(self) -> list[Any]:
        return self.families


def families_of(models: list[ModelInfo], snapshot: Snapshot) -> Iterator[Any]:
    """Yield what is on the page about models and their memory; `models` are the records of those in the snapshot."""
    build = {"version": __version__, "protocol": str(wire.VERSION), "python": platform.python_version()}
    info = GaugeMetricFamily("hostd_build_info", "1, and what this host is", labels=list(build))
    info.add_metric(list(build.values()), 1)
    yield info
    yield GaugeMetricFamily(
        "hostd_models_dir_degraded",
        "1 while the models directory cannot be followed",
        value=float(bool(snapshot.degraded)),
    )
    yield from _of_memory(snapshot.memory)
    yield from _of_templates(snapshot.templates)
    yield from snapshot.counts
    yield from _of_models([model for model in models if model.state in SERVING], snapshot)


def _of_templates(info: TemplatesInfo) -> Iterator[Any]:
    """Yield how many templates there are and what they hold, and how workers came into being."""
    ready = sum(template.state == "READY" for template in info.templates)
    yield GaugeMetricFamily("hostd_templates", "Processes that have imported libraries and fork workers", value=ready)
    held_bytes = sum(template.held_bytes for template in info.templates)
    yield GaugeMetricFamily("hostd_template_bytes", "Memory that templates hold for their workers", value=held_bytes)
    starts = CounterMetricFamily("hostd_worker_starts", "Workers that were started, by how", labels=["how"])
    starts.add_metric(["forked"], info.forks)
    starts.add_metric(["fresh"], info.starts)
    yield starts


def _of_models(loaded: list[ModelInfo], snapshot: Snapshot) -> Iterator[Any]:
    size = GaugeMetricFamily("total_loaded_models_size", "Bytes of all loaded models", labels=["model_type"])
    for model_type in sorted({model.type for model in loaded}):
        size.add_metric([model_type], sum(m.size or 0 for m in loaded if m.type == model_type))
    yield size
    count = GaugeMetricFamily("total_loaded_models", "Loaded models", labels=["model_type", "model_id"])
    for model in loaded:
        count.add_metric([model.type, model.id], 1)
    yield count
    for name, (help_text, value_of) in _GAUGES.items():
        gauge = GaugeMetricFamily(f"hostd_model_{name}", help_text, labels=["model_id"])
        for model in loaded:
            if (value := value_of(model)) is not None:
                gauge.add_metric([model.id], value)
        yield gauge
    for name, (help_text, field, unit) in _COUNTERS.items():
        counter = CounterMetricFamily(f"hostd_model_{name}", help_text, labels=["model_id"])
        for model_id, counts in [*[(model.id, model) for model in loaded], *snapshot.evicted]:
            counter.add_metric([model_id], getattr(counts, field) * unit)
        yield counter
    times = HistogramMetricFamily(
        "hostd_call_duration_seconds",
        "Time from the arrival of a call to its answer, of calls that models answered since they were loaded",
        labels=["model_id", "method"],
    )
    for model_id, method, counts, sum_s in snapshot.calls:
        times.add_metric([model_id, method], buckets_of(BUCKETS_S, counts), sum_s)
    yield times
    deaths = CounterMetricFamily(
        "hostd_worker_deaths",
        "Workers that died without being asked to, since the start of the host",
        labels=["model_id"],
    )
    # Those of loaded models read 0 before they count, or the first death would be no increase.
    for model_id, died in {**dict.fromkeys((model.id for model in loaded), 0), **snapshot.deaths}.items():
        deaths.add_metric([model_id], died)
    yield deaths


def _of_memory(memory: MemoryInfo) -> Iterator[Any]:
    """Yield what all models hold of the budget, and what was done because of it since the start of the host."""
    gauges = {
        "budget_bytes": ("The memory budget of all models; absent without one", memory.budget_bytes),
        "free_bytes": ("What is free of the budget; negative when models have grown over it", memory.free_bytes),
        "measured_bytes": ("Private memory of all models, as measured", memory.measured_bytes),
        "reserved_bytes": ("Set aside for loads, beyond what was measured of them", memory.reserved_bytes),
        "waiting_loads": ("Loads that wait for memory", len(memory.waiting)),
        "paused_loads": ("Loads that are paused until there is memory for more", len(memory.paused)),
        "over_budget": (
            "1 while models have grown over the budget and nobody can yield",
            int(bool(memory.over_budget)),
        ),
    }
    for name, (help_text, value) in gauges.items():
        if value is not None:
            yield GaugeMetricFamily(f"hostd_memory_{name}", help_text, value=value)
    evictions = CounterMetricFamily("hostd_evictions", "Models evicted, by reason", labels=["reason"])
    for reason in EVICTION_REASONS:
        evictions.add_metric([reason], memory.evictions.get(reason, 0))
    yield evictions
    counters = {
        "hostd_freed_bytes": (
            "Private memory of processes that unloads ended, read before each kill",
            memory.freed_bytes,
        ),
        "hostd_unloads": ("Generations of models that were unloaded, evicted or replaced", memory.unloads),
        "hostd_admission_waits": ("Loads that had to wait for memory", memory.waits),
        "hostd_admission_pauses": ("Times that a load was paused for want of memory", memory.pauses),
        "hostd_admission_refusals": ("Loads that were refused for want of memory", memory.refusals),
    }
    for name, (help_text, count) in counters.items():
        yield CounterMetricFamily(name, help_text, value=count)
