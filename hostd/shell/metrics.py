"""The Prometheus page: the customer's names, then ours with the prefix `hostd_`.

Gauges are read from the core's records when the page is asked for, so none can be stale; the page's thread asks the
event loop for them. What happened in between is counted from the transitions.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Histogram, Summary, start_http_server, values
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hostd.records import Event, MemoryInfo, ModelInfo, WorkerInfo

EVICTION_REASONS = ("LOAD", "GROWTH", "IDLE")
"""All of them, so that a counter that has not counted yet reads 0 and is not absent."""

# With PROMETHEUS_MULTIPROC_DIR in the environment, values would be files in that directory. It is the embedding
# application's, for its own metrics: our figures would be among them, and without the directory there would be no host.
values.ValueClass = values.MutexValue

_SCRAPE_TIMEOUT_S = 5.0
_LOAD_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


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
    "gpu_bytes": ("Memory of the model's processes on devices", _of_workers(lambda worker: worker.gpu_bytes)),
    "charge_bytes": ("What the model counts against the budget", lambda m: m.charge_bytes),
    "in_flight": ("Calls in flight", lambda m: sum(w.in_flight for w in m.workers)),
}


class Metrics:
    """The registry of metrics of one host. `list_models`, `memory` and `degraded` are called on the loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        list_models: Callable[[], list[ModelInfo]],
        memory: Callable[[], MemoryInfo],
        degraded: Callable[[], str | None],
    ) -> None:
        self._loop = loop
        self._list_models = list_models
        self._memory = memory
        self._degraded = degraded
        self.registry = CollectorRegistry()
        self._failures = Counter(
            "load_model_exception_count", "Loads that failed", ["model_type"], registry=self.registry
        )
        self._load_s = Summary(
            "load_model_duration_seconds", "Duration of successful loads", ["model_type"], registry=self.registry
        )
        self._loads = Histogram(
            "hostd_load_seconds", "Duration of successful loads", buckets=_LOAD_BUCKETS, registry=self.registry
        )
        self._unloads = Histogram(
            "hostd_unload_seconds",
            "Time from the request to the proof that every process is gone",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
            registry=self.registry,
        )
        self._deaths = Counter(
            "hostd_worker_deaths", "Workers that died without being asked to", registry=self.registry
        )
        self._retries = Counter("hostd_load_retries", "Tries of loads that were tried again", registry=self.registry)
        self._began_s: dict[str, float] = {}
        self._types: dict[str, str] = {}
        self.registry.register(self)

    def serve(self, port: int, host: str) -> int:
        """Serve the page in a thread of its own and return its port. Raises OSError if the port is taken."""
        server, _thread = start_http_server(port, host, self.registry)
        return int(server.server_address[1])

    def on_event(self, event: Event) -> None:
        """Count a transition."""
        if event.subject == "worker":
            if event.cause == "EXITED":
                self._deaths.inc()
            return
        if event.old == event.new:
            if event.cause == "RETRY":
                self._retries.inc()
            return
        key = f"{event.model_id}#{event.generation}"
        if event.new == "LOADING":
            self._began_s[key] = event.time_s
        elif event.old == "LOADING" and event.new == "READY":
            duration_s = event.time_s - self._began_s.pop(key, event.time_s)
            self._load_s.labels(event.model_type).observe(duration_s)
            self._loads.observe(duration_s)
        elif event.old == "LOADING":
            self._began_s.pop(key, None)
            if event.new == "FAILED":
                self._failures.labels(event.model_type).inc()
        if event.new == "UNLOADING":
            self._began_s[key] = event.time_s
        elif event.new == "UNLOADED":
            self._unloads.observe(event.time_s - self._began_s.pop(key, event.time_s))

    def collect(self) -> Iterator[Any]:
        """Yield the gauges of this moment (called by the page's thread)."""
        models, memory, degraded = asyncio.run_coroutine_threadsafe(self._snapshot(), self._loop).result(
            _SCRAPE_TIMEOUT_S
        )
        yield GaugeMetricFamily(
            "hostd_models_dir_degraded", "1 while the models directory cannot be followed", value=float(bool(degraded))
        )
        yield from _of_memory(memory)
        loaded = [model for model in models if model.state in ("READY", "DEGRADED")]
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
        calls = CounterMetricFamily("hostd_model_calls", "Calls since the model was loaded", labels=["model_id"])
        errors = CounterMetricFamily("hostd_model_errors", "Failed calls since it was loaded", labels=["model_id"])
        for model in loaded:
            calls.add_metric([model.id], model.calls)
            errors.add_metric([model.id], model.errors)
        yield calls
        yield errors

    def describe(self) -> list[Any]:
        """Return nothing: registering must not ask the loop, which is the one that registers."""
        return []

    async def _snapshot(self) -> tuple[list[ModelInfo], MemoryInfo, str | None]:
        return self._list_models(), self._memory(), self._degraded()


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
            "1 while models have grown over the budget and nobody can make way",
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
        "hostd_unloads": ("Unloads, evictions among them", memory.unloads),
        "hostd_admission_waits": ("Loads that had to wait for memory", memory.waits),
        "hostd_admission_pauses": ("Times that a load was paused for want of memory", memory.pauses),
        "hostd_admission_refusals": ("Loads that were refused for want of memory", memory.refusals),
    }
    for name, (help_text, count) in counters.items():
        yield CounterMetricFamily(name, help_text, value=count)
