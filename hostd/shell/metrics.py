"""The Prometheus page: the customer's names, then ours with the prefix `hostd_`.

Gauges are read from the core's records when the page is asked for, so none can be stale; the page's thread asks the
event loop for them. What happened in between is counted from the transitions.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Histogram, Summary, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hostd.records import Event, ModelInfo

_SCRAPE_TIMEOUT_S = 5.0
_LOAD_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_GAUGES: dict[str, tuple[str, Callable[[ModelInfo], float]]] = {
    "rss_bytes": ("Resident memory of the model's processes", lambda m: sum(w.rss_bytes or 0 for w in m.workers)),
    "uss_bytes": ("Private memory of the model's processes", lambda m: sum(w.uss_bytes or 0 for w in m.workers)),
    "pss_bytes": ("Proportional memory of the model's processes", lambda m: sum(w.pss_bytes or 0 for w in m.workers)),
    "peak_bytes": (
        "Peak resident memory of the model's processes",
        lambda m: sum(w.peak_bytes or 0 for w in m.workers),
    ),
    "in_flight": ("Calls in flight", lambda m: sum(w.in_flight for w in m.workers)),
}


class Metrics:
    """The registry of metrics of one host. `list_models` and `degraded` are called on the loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        list_models: Callable[[], list[ModelInfo]],
        degraded: Callable[[], str | None],
    ) -> None:
        self._loop = loop
        self._list_models = list_models
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
        models, degraded = asyncio.run_coroutine_threadsafe(self._snapshot(), self._loop).result(_SCRAPE_TIMEOUT_S)
        yield GaugeMetricFamily(
            "hostd_models_dir_degraded", "1 while the models directory cannot be followed", value=float(bool(degraded))
        )
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
                gauge.add_metric([model.id], value_of(model))
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

    async def _snapshot(self) -> tuple[list[ModelInfo], str | None]:
        return self._list_models(), self._degraded()
