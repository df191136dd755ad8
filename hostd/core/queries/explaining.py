"""What `explain_model` says of a model beyond its record: its settings with their origins, its calls, its memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hostd.core.lifecycle import WorkerState
from hostd.core.models import LoadStep
from hostd.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hostd.core.calls.routing import Router
    from hostd.core.config import CoreConfig
    from hostd.core.events import Caller
    from hostd.core.memory.charges import Charges
    from hostd.core.models import Model
    from hostd.core.registry import Registry

DEFAULT = "default"
"""The origin of a setting that nobody gave."""

_LOAD = "the load"

_STEPS = {WorkerState.SPAWNING: "starts", WorkerState.IDLE: "starts", WorkerState.LOADING: "loads it"}


def reason_of(model: Model, now: float) -> str:
    """Return why a model is as it is; of one that loads, the step that it is in, and what was noted of it before."""
    obstacles = [worker.obstacle for worker in model.alive() if worker.obstacle]
    if obstacles:
        return f"it is not gone: {'; '.join(obstacles)}"
    load = model.load
    if load is None:
        return model.reason
    for worker in model.workers.values():
        if load.error is not None:
            return f"its load has failed, and its worker is ended: {load.error.message}"
        if worker.state in _STEPS:
            pid = "" if worker.pid is None else f", pid {worker.pid}"
            step = f"its worker {_STEPS[worker.state]} (spawned {format_duration(now - worker.started_s)} ago{pid})"
            return f"{step}; before that: {model.reason}" if model.reason else step
    if load.step is LoadStep.FINDING and not model.reason:
        return "its finder is asked how to load it"
    return model.reason or "what it needs is looked up, before it gets memory of the budget"


def settings_of(model: Model, registry: Registry) -> list[dict[str, Any]]:
    """Return the settings in force as maps of `name`, `value` and `origin`; none before a finder has answered."""
    return [{"name": name, "value": value, "origin": origin} for name, value, origin in _settings(model, registry)]


def _settings(model: Model, registry: Registry) -> Iterator[tuple[str, Any, str]]:
    spec, source, config = model.spec, model.source, registry.config
    if spec is None:
        return

    def of(name: str, fallback: str = DEFAULT) -> str:
        return spec.origins.get(name, fallback)

    yield "loader", spec.loader, of("loader", "recognised by its files")
    for name, value in spec.options.items():
        yield f"options.{name}", value, of(f"options.{name}", "its finder")
    yield "finder", source.finder or DEFAULT, _LOAD if source.finder else DEFAULT
    yield "initializer", spec.initializer[0] if spec.initializer else DEFAULT, of("initializer")
    python = "workers.python" if config.python else "the host's own"
    yield "python", interpreter_of(model, config), of("python", python)
    for name, text in spec.env.items():
        yield f"env.{name}", text, of("env")
    yield "methods", list(spec.methods) if spec.methods else None, of("methods", "all that are public")
    yield "default_method", model.interface.default_method, of("default_method")
    yield "memory_limit", spec.memory.limit_bytes, of("memory_limit")
    yield "evictable", spec.memory.is_evictable, of("evictable")
    yield "idle_ttl_s", registry.idle_ttl_s(model) or None, of("idle_ttl_s", "memory.idle_ttl_s")
    share = "workers.cpu_threads" if config.cpu_threads else f"its share of {config.cores} cores when it was loaded"
    yield "cpu_threads", model.cpu_threads, of("cpu_threads", share)


def interpreter_of(model: Model, config: CoreConfig) -> str:
    """Return the interpreter of a model's workers."""
    return (model.spec.python if model.spec else None) or config.python or config.own_python or "the host's own"


def calls_of(model: Model, router: Router, now: float) -> list[dict[str, Any]]:
    """Return the calls that a model has or will get, the oldest first, as maps with their `caller`.

    `state` is "sent" (its worker has it, running or in line), "held" (until the model serves) or "left": the worker has
    it still and nobody waits for it, `why` says since what.
    """
    calls = sorted(_calls(model, router), key=lambda call: call[2])
    return [
        {"caller": caller, "method": method, "age_s": now - since_s, "state": state, "why": why}
        for caller, method, since_s, state, why in calls
    ]


def _calls(model: Model, router: Router) -> Iterator[tuple[Caller, str, float, str, str]]:
    for worker in model.workers.values():
        for call in map(router.calls.__getitem__, worker.calls):
            yield call.caller, call.method, call.began_s, "sent", ""
        for left in worker.left.values():
            yield left.caller, left.method, left.began_s, "left", left.left
    for caller, method, since_s in router.pending.of(model.id):
        yield caller, method, since_s, "held", "waits until the model serves"


def direct_of(model: Model) -> dict[str, int]:
    """Return how many clients call a model without the host, how many calls came so, and how many are in flight."""
    figures = model.figures().values()
    return {
        "clients": sum(lane.connections for lane in figures),
        "calls": sum(lane.begun for lane in figures),
        "in_flight": sum(lane.in_flight for lane in figures),
    }


def origins_of(model: Model) -> list[dict[str, Any]]:
    """Return how each worker came into being: the template with its libraries that it was forked from, or why not."""
    return [
        {
            "pid": worker.pid,
            "template": None if worker.template is None else worker.template.id,
            "libraries": [] if worker.template is None else list(worker.template.libraries),
            "why_fresh": worker.why_fresh,
        }
        for worker in model.workers.values()
    ]


def size_of(model: Model, now: float) -> dict[str, Any]:
    """Return what a model takes, how that is known, and how old that is."""
    sampled = [worker for worker in model.workers.values() if worker.memory is not None]
    sampled_s = [worker.sampled_s for worker in sampled if worker.sampled_s is not None]
    peaks = [worker.memory.peak_bytes for worker in sampled if worker.memory and worker.memory.peak_bytes]
    shared = [worker.memory.shared_bytes for worker in sampled if worker.memory and worker.memory.shared_bytes]
    baselines = [worker.baseline_bytes for worker in sampled if worker.baseline_bytes is not None]
    return {
        "bytes": model.size.bytes,
        "source": model.size.source,
        "age_s": now - min(sampled_s) if sampled_s else None,
        "charge_bytes": model.charge_bytes,
        "reserved_bytes": sum(worker.unmeasured_bytes for worker in model.workers.values()),
        "shared_bytes": sum(shared) or None,
        "need_bytes": model.need.bytes or None,
        "need_source": model.need.source,
        "peak_bytes": sum(peaks) or None,
        "baseline_bytes": sum(baselines) or None,
    }


def eviction_of(model: Model, charges: Charges) -> dict[str, Any] | None:
    """Return what an eviction would do, and when its turn comes; None for a model that holds nothing."""
    if not model.charge_bytes:
        return None
    kept = charges.kept(model)
    took_s = model.loaded and model.loaded.took_s
    took = format_duration(took_s or 0.0)
    return {
        "would_free_bytes": model.charge_bytes,
        "idle_s": charges.idle_s(model),
        "reload_s": took_s,
        "why_not": "" if kept is None else kept.value,
        "rank": charges.rank(model),
        "returns": f"the next call or retrieve_model loads it again, which took {took} the last time; calls wait",
    }
