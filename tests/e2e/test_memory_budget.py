"""The memory budget, with real processes: who starts, who waits, who goes, who comes back, and what everybody is told."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING
from urllib.request import urlopen

import psutil
import pytest
from helpers import PATIENCE_S, eventually, uss_of_tree
from memory_rig import MIB, Holders
from prometheus_client.parser import text_string_to_metric_families

import hostd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BUDGET_MIB = 200
PROMPT = {"min_residence_s": 0, "admission_timeout_s": PATIENCE_S, "sample_period_s": 0.1}
"""Settings under which nobody waits for longer than a test must."""

RESIDENCE_S = 4.0
"""Longer than a machine stands still between the end of a load and the next question."""

MODEL_MIB = 60
"""Three of them and what an interpreter takes are more than the budget."""


@pytest.fixture
def tight(request: pytest.FixtureRequest) -> Iterator[hostd.Client]:
    with hostd.Host(memory={"budget": f"{BUDGET_MIB}MiB", **PROMPT, **getattr(request, "param", {})}) as host:
        yield host.client()


@pytest.fixture
def holder(model_dir: Callable[..., str]) -> Holders:
    return Holders(model_dir)


def resident(client: hostd.Client) -> list[str]:
    return [model.id for model in client.list_models() if model.state == "READY"]


def test_a_model_makes_way_for_another_and_comes_back_when_it_is_used(tight: hostd.Client, holder: Holders) -> None:
    models = {name: tight.load_model(name, holder(MODEL_MIB)) for name in ("a", "b")}
    pids = {name: model.pid() for name, model in models.items()}
    tight.load_model("c", holder(MODEL_MIB))
    assert "c" in resident(tight)
    (gone,) = {"a", "b"} - {*resident(tight)}
    explained = tight.explain_model(gone)
    assert explained["state"] == "EVICTED"
    assert "evicted for" in explained["reason"]
    assert models[gone].pid() != pids[gone]  # the call itself loads it again
    assert len(resident(tight)) == 2
    assert tight.memory_info().evictions == {"LOAD": 2}


def test_the_workers_never_hold_more_than_the_budget(tight: hostd.Client, holder: Holders) -> None:
    paths = {f"m{i}": holder(20 + 10 * i) for i in range(6)}
    for name, path in paths.items():
        tight.load_model(name, path)
        held = sum(uss_of_tree(worker.pid or 0) for model in tight.list_models() for worker in model.workers)
        assert held <= BUDGET_MIB * MIB
    assert tight.memory_info().measured_bytes <= BUDGET_MIB * MIB


def test_a_plan_says_what_the_load_then_does(tight: hostd.Client, holder: Holders) -> None:
    for name in ("a", "b"):
        tight.load_model(name, holder(MODEL_MIB))
    path = holder(MODEL_MIB + 50)
    plan = tight.plan_load("c", path)
    assert (plan.outcome, plan.fits, plan.need_source) == ("evict", True, "declared")
    assert resident(tight) == ["a", "b"], "a plan changes nothing"
    tight.load_model("c", path)
    assert {*resident(tight)} == {"a", "b", "c"} - {victim.model_id for victim in plan.victims}


def test_the_next_load_is_predicted_by_what_the_last_one_was_measured_to_take(
    tight: hostd.Client, holder: Holders
) -> None:
    path = holder(MODEL_MIB, declared_mib=150)
    measured = tight.load_model("a", path).info.charge_bytes
    tight.unload_model("a")
    plan = eventually(
        lambda: (found := tight.plan_load("a", path)).need_source == "remembered" and found, "it is remembered"
    )
    assert plan.need_bytes == pytest.approx(measured, rel=0.1)


def test_pinned_models_stay_and_what_cannot_fit_beside_them_is_refused_at_once(
    tight: hostd.Client, holder: Holders
) -> None:
    for name in ("a", "b"):
        tight.load_model(name, holder(MODEL_MIB))
        assert tight.pin_model(name).pinned
    assert tight.plan_load("c", holder(MODEL_MIB)).outcome == "refuse"
    with pytest.raises(hostd.ResourceExhaustedError, match="pinned") as caught:
        tight.load_model("c", holder(MODEL_MIB))
    details = caught.value.details
    assert details["reason"] == "BUDGET"
    assert {held["model_id"] for held in details["holders"]} == {"a", "b"}
    assert details["needed_bytes"] > details["free_bytes"]
    tight.unpin_model("a")
    tight.load_model("c", holder(MODEL_MIB))
    assert resident(tight) == ["b", "c"]


def test_a_model_that_says_so_is_not_evicted(tight: hostd.Client, holder: Holders) -> None:
    tight.load_model("kept", holder(MODEL_MIB, settings="evictable: false"))
    tight.load_model("b", holder(MODEL_MIB)).pid()
    tight.load_model("c", holder(MODEL_MIB))
    assert resident(tight) == ["c", "kept"]
    assert tight.explain_model("kept")["eviction"]["why_not"] == "its model.yaml says that it is not evictable"


def test_a_load_that_waits_for_a_model_in_use_starts_when_that_has_answered(
    tight: hostd.Client, holder: Holders, tmp_path: Path
) -> None:
    busy = tight.load_model("busy", holder(MODEL_MIB + 60))
    marker, release = tmp_path / "marker", tmp_path / "release"
    call = busy.submit.work(str(marker), str(release))
    eventually(marker.exists, "the call runs")
    waiting = tight.load_model("next", holder(MODEL_MIB + 60), wait=False)
    eventually(lambda: tight.memory_info().waiting == ("next",), "the load waits")
    release.touch()
    assert call.result() == "finished"
    waiting.wait()
    assert resident(tight) == ["next"]


def test_calls_of_a_model_that_makes_way_wait_and_are_served_by_its_next_load(
    tight: hostd.Client, holder: Holders, tmp_path: Path
) -> None:
    busy = tight.load_model("busy", holder(MODEL_MIB + 60))
    first_pid = busy.pid()
    marker, release = tmp_path / "marker", tmp_path / "release"
    call = busy.submit.work(str(marker), str(release))
    eventually(marker.exists, "the call runs")
    waiting = tight.load_model("next", holder(MODEL_MIB + 60), wait=False)
    eventually(lambda: tight.memory_info().waiting == ("next",), "the load waits")
    late = busy.submit.pid()
    release.touch()
    assert call.result() == "finished"
    waiting.wait()
    assert late.result() != first_pid


@pytest.mark.parametrize("tight", [{"admission_timeout_s": 1}], indirect=True)
def test_a_load_that_waits_in_vain_is_refused_with_who_holds_the_memory(
    tight: hostd.Client, holder: Holders, tmp_path: Path
) -> None:
    busy = tight.load_model("busy", holder(MODEL_MIB + 60))
    marker, release = tmp_path / "marker", tmp_path / "release"
    call = busy.submit.work(str(marker), str(release))
    eventually(marker.exists, "the call runs")
    with pytest.raises(hostd.ResourceExhaustedError, match=r"'busy' .*in use") as caught:
        tight.load_model("next", holder(MODEL_MIB + 60))
    assert caught.value.details["holders"][0]["model_id"] == "busy"
    release.touch()
    assert call.result() == "finished"
    assert busy.pid()  # it serves on
    assert tight.memory_info().refusals == 1


def test_a_model_that_has_just_been_loaded_stays_for_the_minimum_residence(holder: Holders) -> None:
    with hostd.Host(memory={"budget": f"{BUDGET_MIB}MiB", "min_residence_s": RESIDENCE_S}) as host:
        client = host.client()
        client.load_model("a", holder(MODEL_MIB + 60))
        assert client.explain_model("a")["eviction"]["why_not"] == "it has just been loaded"
        client.load_model("b", holder(MODEL_MIB + 60))
        story = client.explain_model("a")["story"]
        ready, evicted = (next(e["time_s"] for e in story if e["cause"] == c) for c in ("LOAD_SUCCEEDED", "EVICT"))
        assert evicted - ready >= RESIDENCE_S


def test_a_model_that_nobody_uses_goes_after_its_time(holder: Holders) -> None:
    with hostd.Host(memory={"budget": "1GiB", "min_residence_s": 0}) as host:
        client = host.client()
        model = client.load_model("a", holder(1, settings="idle_ttl_s: 0.3"))
        client.load_model("b", holder(1))
        eventually(lambda: resident(client) == ["b"], "it is gone")
        assert client.memory_info().evictions == {"IDLE": 1}
        assert model.pid()


def test_many_clients_of_two_models_that_do_not_fit_together_lose_no_call(tight: hostd.Client, holder: Holders) -> None:
    for name in ("a", "b"):
        tight.load_model(name, holder(MODEL_MIB + 60))
    loads_before = tight.memory_info().evictions["LOAD"]
    failed: list[BaseException] = []

    def use(offset: int) -> None:
        with hostd.connect(tight.endpoint) as client:
            for i in range(10):
                try:
                    client.call("ab"[(i + offset) % 2], "pid", (), {}, PATIENCE_S)
                except hostd.HostError as error:
                    failed.append(error)

    threads = [threading.Thread(target=use, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert tight.memory_info().evictions["LOAD"] - loads_before < 40, "half of what one after the other would take"


def test_growth_over_the_budget_makes_others_go(tight: hostd.Client, holder: Holders) -> None:
    grower = tight.load_model("grower", holder(MODEL_MIB, settings="evictable: false"))
    tight.load_model("other", holder(MODEL_MIB))
    grower.grow(80)
    eventually(lambda: resident(tight) == ["grower"], "the other one yields")
    assert "model 'grower' has grown" in tight.explain_model("other")["reason"]


def test_growth_that_nobody_can_make_way_for_is_named(tight: hostd.Client, holder: Holders) -> None:
    grower = tight.load_model("grower", holder(MODEL_MIB, settings="evictable: false"))
    grower.grow(BUDGET_MIB)
    said = eventually(lambda: tight.memory_info().over_budget, "it is named")
    assert "'grower' has grown most" in said
    grower.shrink()
    eventually(lambda: tight.memory_info().over_budget is None, "it is over")


def test_an_unload_forgets_an_evicted_model(tight: hostd.Client, holder: Holders) -> None:
    a = tight.load_model("a", holder(MODEL_MIB + 60))
    tight.load_model("b", holder(MODEL_MIB + 60))
    assert tight.unload_model("a").processes == 0
    with pytest.raises(hostd.NotFoundError):
        a.pid()


def test_without_a_budget_every_load_starts(holder: Holders) -> None:
    with hostd.Host(memory={"budget": "none"}) as host:
        client = host.client()
        assert client.plan_load("a", holder(1)).outcome == "start"
        client.load_model("a", holder(1))
        info = client.memory_info()
        assert (info.budget_bytes, info.free_bytes) == (None, None)
        assert info.measured_bytes > MIB


def test_the_automatic_budget_is_less_than_the_machine_has(client: hostd.Client) -> None:
    info = client.memory_info()
    assert info.budget_bytes is not None
    assert 0 < info.budget_bytes < psutil.virtual_memory().total
    assert info.budget_source


def test_the_metrics_page_shows_the_budget_and_what_was_done_because_of_it(holder: Holders) -> None:
    with hostd.Host(memory={"budget": f"{BUDGET_MIB}MiB", **PROMPT}, metrics={"port": 0}) as host:
        client = host.client()
        for name in ("a", "b"):
            client.load_model(name, holder(MODEL_MIB + 60))
        client.pin_model("b")
        with pytest.raises(hostd.ResourceExhaustedError):
            client.load_model("c", holder(MODEL_MIB + 60))
        url = f"http://127.0.0.1:{client.host_info().metrics_port}/metrics"

        def page() -> dict[tuple[str, ...], float]:
            with urlopen(url, timeout=PATIENCE_S) as answer:
                families = list(text_string_to_metric_families(answer.read().decode()))
            return {(sample.name, *sample.labels.values()): sample.value for f in families for sample in f.samples}

        seen, info = page(), client.memory_info()
        assert seen[("hostd_memory_budget_bytes",)] == BUDGET_MIB * MIB
        measured_bytes = seen[("hostd_memory_measured_bytes",)]
        assert measured_bytes == seen[("hostd_model_charge_bytes", "b")]
        assert seen[("hostd_memory_free_bytes",)] == BUDGET_MIB * MIB - measured_bytes
        shown = ("hostd_memory_measured_bytes",)
        eventually(lambda: page()[shown] == client.memory_info().measured_bytes, "the page says what the host does")
        assert (seen[("hostd_evictions_total", "LOAD")], seen[("hostd_evictions_total", "IDLE")]) == (1, 0)
        assert seen[("hostd_freed_bytes_total",)] == info.freed_bytes > MODEL_MIB * MIB
        assert (seen[("hostd_admission_waits_total",)], seen[("hostd_admission_refusals_total",)]) == (1, 1)
