"""A watch of a host: a view that is built from what it tells is what the host says, whatever happens."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from helpers import PATIENCE_S, Service, eventually

import hostd

if TYPE_CHECKING:
    from collections.abc import Iterator

Serve = Callable[..., Service]
Connect = Callable[..., Any]

ECHO = """
    class Echo:
        def predict(self, x):
            return x

    def load(path):
        return Echo()
"""

FIGURES = {
    **dict.fromkeys(("size", "last_used_s", "latency_p50_s", "latency_p99_s")),
    **dict.fromkeys(("calls", "errors", "cancelled", "succeeded", "executions", "charge_bytes", "reserved_bytes"), 0),
    **dict.fromkeys(("success_ns", "fail_ns", "queue_ns", "compute_ns"), 0),
    "size_source": "",
}


class View:
    """All models as a watch has told of them; it checks that no change is left out."""

    def __init__(self, watch: Iterator[hostd.Change]) -> None:
        self.watch = watch
        self.models: dict[str, hostd.ModelInfo] = {}
        self.told: list[hostd.Change] = []
        self.take()

    def take(self) -> hostd.Change:
        change = next(self.watch)
        if change.kind == "snapshot":
            self.models = {model.id: model for model in change.models}
        elif change.kind != "lost":
            assert (change.epoch, change.number) == (self.told[-1].epoch, self.told[-1].number + 1)
            self.models.pop(change.model_id, None)
            self.models.update({model.id: model for model in change.models})
        self.told.append(change)
        return change

    def until(self, is_so: Callable[[dict[str, hostd.ModelInfo]], bool]) -> None:
        while not is_so(self.models):
            self.take()

    def state(self, model_id: str) -> str | None:
        return self.models[model_id].state if model_id in self.models else None

    def comes_to(self, model_id: str, state: str | None) -> None:
        self.until(lambda _: self.state(model_id) == state)

    def comes_to_what_is_listed(self, client: Any) -> None:
        self.until(lambda _: self.settled() == listed(client))

    def settled(self) -> dict[str, hostd.ModelInfo]:
        """Return the view without figures."""
        return {name: _without_figures(model) for name, model in sorted(self.models.items())}


def _without_figures(model: hostd.ModelInfo) -> hostd.ModelInfo:
    workers = tuple(hostd.WorkerInfo(worker.id, worker.pid, worker.state) for worker in model.workers)
    return replace(model, **FIGURES, workers=workers)


def listed(client: Any) -> dict[str, hostd.ModelInfo]:
    """Return what the host lists, without figures; nothing in these tests is merely in a models directory."""
    return {model.id: _without_figures(model) for model in client.list_models(all=True)}


def test_a_view_of_what_is_watched_is_what_the_host_lists(
    serve: Serve, connect: Connect, model_dir: Callable[..., str]
) -> None:
    client = connect(serve().endpoint)
    path, broken = model_dir(ECHO), model_dir("raise RuntimeError('broken')")
    client.load_model("early", path)
    view = View(client.watch())
    assert view.state("early") == "READY"
    client.load_model("m", path)
    view.comes_to("m", "READY")
    view.comes_to_what_is_listed(client)
    client.pin_model("m")
    view.until(lambda models: models["m"].pinned)
    with pytest.raises(hostd.ModelError):
        client.load_model("broken", broken)
    view.comes_to("broken", "FAILED")
    view.comes_to_what_is_listed(client)
    client.load_model("m", path, reload=True)
    view.until(lambda models: models["m"].generation > 1 and models["m"].state == "READY")
    (worker,) = client.get_model("early").workers
    os.kill(worker.pid, signal.SIGKILL)
    view.comes_to("early", "FAILED")
    view.comes_to_what_is_listed(client)
    client.unload_model("m")
    view.comes_to("m", None)
    view.comes_to_what_is_listed(client)
    assert View(client.watch()).settled() == listed(client), "a second watch begins with the same"


def test_calls_make_no_change(serve: Serve, connect: Connect, model_dir: Callable[..., str]) -> None:
    client = connect(serve().endpoint)
    client.load_model("m", model_dir(ECHO))
    view = View(client.watch())
    for number in range(300):
        assert client.call("m", "predict", (number,), {}, PATIENCE_S) == number
    client.pin_model("m")
    assert view.take().models[0].pinned, "the next that is told"


def test_what_is_evicted_is_told_of_until_it_is_known_no_more(
    serve: Serve, connect: Connect, model_dir: Callable[..., str]
) -> None:
    client = connect(serve(memory={"idle_ttl_s": 0.2}).endpoint)
    view = View(client.watch())
    client.load_model("m", model_dir(ECHO))
    view.comes_to("m", "EVICTED")
    assert list(view.models["m"].methods) == ["predict"]
    summary = client.host_summary().models["m"]
    assert (summary.state, summary.charge_bytes, summary.in_flight) == ("EVICTED", 0, 0)
    assert summary.reload_s > 0
    client.unload_model("m")
    view.comes_to("m", None)


def test_a_watch_goes_on_with_the_next_host(serve: Serve, connect: Connect, model_dir: Callable[..., str]) -> None:
    path, first = model_dir(ECHO), serve()
    client = connect(first.endpoint, connect_timeout_s=0.5)
    client.load_model("m", path)
    view = View(client.watch())
    os.kill(first.pid, signal.SIGKILL)
    first.ended()
    lost = view.take()
    assert lost.kind == "lost"
    assert lost.reason
    second = serve()
    assert second.endpoint == first.endpoint
    snapshot = view.take()
    assert (snapshot.kind, snapshot.models, view.models) == ("snapshot", (), {}), "told once that it is lost"
    assert snapshot.epoch == client.host_info().epoch != view.told[0].epoch
    client.load_model("n", path)
    view.comes_to("n", "READY")


def test_a_host_that_was_never_there_is_an_error(connect: Connect, endpoint: str) -> None:
    with pytest.raises(hostd.UnavailableError):
        next(connect(endpoint, connect_timeout_s=0.2).watch())


def test_a_watch_that_is_closed_is_forgotten(serve: Serve, connect: Connect, model_dir: Callable[..., str]) -> None:
    client = connect(serve().endpoint)
    for _ in range(100):  # a client may have 64 subscriptions
        watch = client.watch()
        assert next(watch).kind == "snapshot"
        watch.close()
    client.load_model("m", model_dir(ECHO))
    assert View(client.watch()).state("m") == "READY"


def test_a_summary_has_what_a_router_decides_by(serve: Serve, connect: Connect, model_dir: Callable[..., str]) -> None:
    client = connect(serve(memory={"budget": "8GB"}).endpoint)
    broken = model_dir("raise RuntimeError('broken')")
    client.load_model("m", model_dir(ECHO))
    client.pin_model("m")
    with pytest.raises(hostd.ModelError):
        client.load_model("broken", broken)
    eventually(lambda: client.host_summary().models["m"].charge_bytes, "it is measured")
    summary, memory, info = client.host_summary(), client.memory_info(), client.host_info()
    assert (summary.epoch, summary.state, summary.budget_bytes) == (info.epoch, "READY", memory.budget_bytes)
    assert {name: (model.state, model.pinned) for name, model in summary.models.items()} == {
        "m": ("READY", True),
        "broken": ("FAILED", False),
    }
    model, broken_model = summary.models["m"], summary.models["broken"]
    assert summary.measured_bytes >= model.charge_bytes > 0
    assert summary.free_bytes < summary.budget_bytes
    assert (model.generation, model.in_flight) == (1, 0)
    assert model.reload_s > 0
    assert (broken_model.charge_bytes, broken_model.reload_s) == (0, None)
