"""What must hold after every event, and the words for what does not.

Deploys and undeploys know their own books (`Deploying.problems`, `Undeploying.problems`); here are models, workers,
calls and callers that wait.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from hostd.core.lifecycle import ModelState, WorkerState
from hostd.core.models import LoadStep

if TYPE_CHECKING:
    from hostd.core import events as ev
    from hostd.core.calls.routing import Router
    from hostd.core.models import Model
    from hostd.core.registry import Registry
    from hostd.core.unloading import Unloading


def problems_of(registry: Registry, router: Router, unloading: Unloading) -> list[str]:
    """Return what is wrong with the models, workers and calls, and with the callers that wait for them."""
    problems = [problem for model_id, model in registry.models.items() for problem in _problems_of(model_id, model)]
    for model_id, model in registry.successors.items():
        problems += _problems_of(model_id, model)
        if model_id not in registry.models:
            problems.append(f"{model!r} succeeds nobody")
    for worker in registry.workers.values():
        models = (registry.models.get(worker.model.id), registry.successors.get(worker.model.id))
        if worker.state is WorkerState.DEAD:
            problems.append(f"{worker!r} is DEAD but registered")
        elif not any(worker in model.alive() for model in models if model is not None):
            problems.append(f"{worker!r} belongs to no registered model")
    in_flight = {call_id for worker in registry.workers.values() for call_id in worker.calls}
    if in_flight != set(router.calls) or set(router.by_caller.values()) != set(router.calls):
        problems.append("the calls of the workers, of the callers and of the table differ")
    if any(worker.shares.total != len(worker.calls) + len(worker.left) for worker in registry.workers.values()):
        problems.append("the calls of a worker and those of its clients differ")
    problems += _problems_of_bytes(registry, router)
    problems.extend(
        f"{group!r} waits for models that are gone"
        for group in unloading.unload_alls
        if not group.pending or not group.pending <= set(registry.models)
    )
    return problems + registry.waiting.problems() + router.pending.problems()


def _problems_of_bytes(registry: Registry, router: Router) -> list[str]:
    has: Counter[ev.ClientId] = Counter()
    for call in router.calls.values():
        has[call.caller.client] += call.size_bytes
    for event in router.pending.by_caller.values():
        has[event.client] += event.size_bytes
    for left in (left for worker in registry.workers.values() for left in worker.left.values()):
        has[left.caller.client] += left.size_bytes
    found = [
        f"{router.bytes.of(client)} bytes of a client do not add up to {size_bytes}"
        for client, size_bytes in has.items()
        if router.bytes.of(client) != size_bytes
    ]
    return found if router.bytes.total == has.total() else [*found, f"{router.bytes.total} bytes do not add up"]


def _problems_of(model_id: ev.ModelId, model: Model) -> list[str]:
    state = model.state
    ready = [worker.id for worker in model.workers.values() if worker.state is WorkerState.READY]
    is_wrong = {
        f"is registered as {model_id}": model.id != model_id or state is ModelState.UNLOADED,
        "would not route to exactly its READY workers": sorted(worker.id for worker in model.ready) != ready,
        "serves without being READY, or the other way round": (model.is_serving != bool(model.ready)),
        "has a load and is not LOADING, or the other way round": (
            (model.load is not None) != (state is ModelState.LOADING)
        ),
        "has an unload and is not UNLOADING, or the other way round": (
            (model.unload is not None) != (state is ModelState.UNLOADING)
        ),
        "has the error of a load that is not ENDING, or the other way round": (
            model.load is not None and (model.load.error is None) == (model.load.step is LoadStep.ENDING)
        ),
        "waits for nobody": state is ModelState.UNLOADING and not model.alive(),
    }
    return [f"{model!r} {problem}" for problem, is_so in is_wrong.items() if is_so]
