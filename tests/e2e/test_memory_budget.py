"""The memory budget, with real processes: what starts, waits, goes and comes back, and what callers are told."""

import pytest
from helpers import PATIENCE_S, eventually, uss_of_tree
from memory_rig import ALL_FRESH, MIB, Holders
from models_rig import Work, key, samples

import hostd

pytestmark = pytest.mark.usefixtures("way")

BUDGET_MIB = 200
PROMPT = {"min_residence_s": 0, "admission_timeout_s": PATIENCE_S, "sample_period_s": 0.1}
"""Settings under which nobody waits for longer than a test must."""

MODEL_MIB = 60
"""Three of them and what an interpreter takes are more than the budget."""


@pytest.fixture(scope="module")
def tight_host():
    with hostd.Host(workers=ALL_FRESH, memory={"budget": f"{BUDGET_MIB}MiB", **PROMPT}) as host:
        yield host


@pytest.fixture
def tight(tight_host):
    with hostd.connect(tight_host.endpoint) as client:
        yield client
        client.unload_all_models()


@pytest.fixture
def holder(model_dir):
    return Holders(model_dir)


def resident(client):
    return [model.id for model in client.list_models() if model.state == "READY"]


def test_a_model_makes_way_as_planned_and_comes_back_when_it_is_used(tight, holder):
    # Both that it takes longer to load and that it was called last speak for keeping b, however long a step takes here.
    models = {name: tight.load_model(name, holder(MODEL_MIB, load_s=load_s)) for name, load_s in (("a", 0), ("b", 1))}
    pids = {name: model.pid() for name, model in models.items()}
    path = holder(MODEL_MIB + 1)  # of which nothing is remembered
    plan = tight.plan_load("c", path)
    assert (plan.outcome, plan.fits, plan.need_source) == ("evict", True, "declared")
    assert resident(tight) == ["a", "b"], "a plan changes nothing"
    measured_bytes = tight.load_model("c", path).info.charge_bytes
    (gone,) = {"a", "b"} - {*resident(tight)}
    assert [victim.model_id for victim in plan.victims] == [gone] == ["a"]
    explained = tight.explain_model(gone)
    assert explained["state"] == "EVICTED"
    assert "evicted for" in explained["reason"]
    before = tight.memory_info().evictions["LOAD"]
    assert models[gone].pid() != pids[gone]  # the call itself loads it again
    assert len(resident(tight)) == 2
    assert tight.memory_info().evictions["LOAD"] == before + 1
    held = sum(uss_of_tree(worker.pid or 0) for model in tight.list_models() for worker in model.workers)
    assert held <= BUDGET_MIB * MIB
    assert tight.memory_info().measured_bytes <= BUDGET_MIB * MIB
    (gone,) = {"a", "b", "c"} - {*resident(tight)}
    assert tight.unload_model(gone).processes == 0
    with pytest.raises(hostd.NotFoundError):  # an unload forgets an evicted model
        tight.call(gone, "pid", (), {}, PATIENCE_S)
    plan = eventually(
        lambda: (found := tight.plan_load("d", path)).need_source == "remembered" and found, "it is remembered"
    )
    assert plan.need_bytes == pytest.approx(measured_bytes, rel=0.1)


def test_what_is_kept_stays_and_what_cannot_fit_beside_it_is_refused_at_once(tight, holder):
    tight.load_model("a", holder(MODEL_MIB, settings="evictable: false"))
    tight.load_model("b", holder(MODEL_MIB))
    assert tight.pin_model("b").pinned
    assert tight.explain_model("a")["eviction"]["why_not"] == "its model.yaml says that it is not evictable"
    refusals = tight.memory_info().refusals
    assert tight.plan_load("c", holder(MODEL_MIB)).outcome == "refuse"
    with pytest.raises(hostd.ResourceExhaustedError, match="pinned") as caught:
        tight.load_model("c", holder(MODEL_MIB))
    details = caught.value.details
    assert details["reason"] == "BUDGET"
    assert {held["model_id"] for held in details["holders"]} == {"a", "b"}
    assert details["needed_bytes"] > details["free_bytes"]
    assert tight.memory_info().refusals == refusals + 1
    tight.unpin_model("b")
    tight.load_model("c", holder(MODEL_MIB))
    assert resident(tight) == ["a", "c"]


def test_a_load_waits_for_a_model_in_use_and_that_ones_calls_for_its_next_load(tight, holder, tmp_path):
    busy = tight.load_model("busy", holder(MODEL_MIB + 60))
    first_pid, work = busy.pid(), Work(busy, tmp_path)
    waiting = tight.load_model("next", holder(MODEL_MIB + 60), wait=False)
    eventually(lambda: tight.memory_info().waiting == ("next",), "the load waits")
    late = busy.submit.pid()
    work.finish()
    waiting.wait()
    assert late.result(PATIENCE_S) != first_pid


def test_a_load_that_waits_in_vain_is_refused_with_what_holds_the_memory(holder, tmp_path):
    with hostd.Host(
        workers=ALL_FRESH, memory={"budget": f"{BUDGET_MIB}MiB", **PROMPT, "admission_timeout_s": 1}
    ) as host:
        client = host.client()
        busy = client.load_model("busy", holder(MODEL_MIB + 60))
        work = Work(busy, tmp_path)
        with pytest.raises(hostd.ResourceExhaustedError, match=r"'busy' .*in use") as caught:
            client.load_model("next", holder(MODEL_MIB + 60))
        assert caught.value.details["holders"][0]["model_id"] == "busy"
        work.finish()
        assert busy.pid()  # it serves on


def test_a_model_that_is_not_used_goes_after_its_time_and_without_a_budget_no_other(holder):
    with hostd.Host(workers=ALL_FRESH, memory={"budget": "none", "min_residence_s": 0}) as host:
        client = host.client()
        assert client.plan_load("a", holder(1)).outcome == "start"
        model = client.load_model("a", holder(1, settings="idle_ttl_s: 0.3"))
        client.load_model("b", holder(1))
        eventually(lambda: resident(client) == ["b"], "it is gone")
        info = client.memory_info()
        assert info.evictions == {"IDLE": 1}
        assert (info.budget_bytes, info.free_bytes) == (None, None)
        assert info.measured_bytes > MIB
        assert model.pid()


def test_growth_over_the_budget_makes_others_go_and_is_named_where_none_can(tight, holder):
    grower = tight.load_model("grower", holder(MODEL_MIB, settings="evictable: false"))
    tight.load_model("other", holder(MODEL_MIB))
    grower.grow(80)
    eventually(lambda: resident(tight) == ["grower"], "the other one yields")
    assert "model 'grower' has grown" in tight.explain_model("other")["reason"]
    grower.grow(BUDGET_MIB)
    said = eventually(lambda: tight.memory_info().over_budget, "it is named")
    assert "'grower' has grown most" in said
    grower.shrink()
    eventually(lambda: tight.memory_info().over_budget is None, "it is over")


def test_the_metrics_page_shows_the_budget_and_what_was_done_because_of_it(holder):
    with hostd.Host(workers=ALL_FRESH, memory={"budget": f"{BUDGET_MIB}MiB", **PROMPT}, metrics={"port": 0}) as host:
        client = host.client()
        for name in ("a", "b"):
            client.load_model(name, holder(MODEL_MIB + 60))
        client.pin_model("b")
        with pytest.raises(hostd.ResourceExhaustedError):
            client.load_model("c", holder(MODEL_MIB + 60))
        port = client.host_info().metrics_port
        seen, info, measured = samples(port), client.memory_info(), key("hostd_memory_measured_bytes")
        assert seen[key("hostd_memory_budget_bytes")] == BUDGET_MIB * MIB
        assert seen[measured] == seen[key("hostd_model_charge_bytes", model_id="b")]
        assert seen[key("hostd_memory_free_bytes")] == BUDGET_MIB * MIB - seen[measured]
        eventually(lambda: samples(port)[measured] == client.memory_info().measured_bytes, "the page says so, too")
        assert [seen[key("hostd_evictions_total", reason=reason)] for reason in ("LOAD", "IDLE")] == [1, 0]
        assert seen[key("hostd_freed_bytes_total")] == info.freed_bytes > MODEL_MIB * MIB
        assert [seen[key(f"hostd_admission_{what}_total")] for what in ("waits", "refusals")] == [1, 1]
