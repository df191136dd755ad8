"""The metrics page of a real host before, during and after everything that can happen to a model (C33).

What single figures mean is in `tests/shell/test_service.py`; here is what comes back to its value, and what never shows.
"""

import os
import signal

import pytest
from helpers import PATIENCE_S, eventually
from models_rig import AT_ONCE, FAILS, FAILS_TWICE, GATED, key, page_text, samples, states
from prometheus_client.parser import text_string_to_metric_families

import hostd

pytestmark = pytest.mark.usefixtures("way")

THEIRS = {
    "total_loaded_models_size": ("gauge", {"model_type"}),
    "total_loaded_models": ("gauge", {"model_type", "model_id"}),
    "load_model_exception_count": ("counter", {"model_type"}),
    "load_model_duration_seconds": ("summary", {"model_type"}),
}
"""The names of the customer's system, with their types and labels."""


@pytest.fixture
def client(rig):
    models = {**AT_ONCE, "dir": rig.path, "lazy_load": True, "poll_period_s": None}
    workers = {"drain_timeout_s": 5, "retry_backoff_s": 0.001}
    with hostd.Host(models=models, workers=workers, metrics={"port": 0}) as host:
        yield host.client()


@pytest.fixture
def port(client):
    return client.host_info().metrics_port


def gauges(port):
    """Return what of the page is about models that are loaded now; the budget counts those on their way in and out, too.

    Deaths are counted under their model's id, and stay.
    """
    return {
        key(sample.name, **sample.labels): sample.value
        for family in text_string_to_metric_families(page_text(port))
        for sample in family.samples
        if (family.type == "gauge" or "model_id" in sample.labels) and not sample.name.endswith("_created")
        if not sample.name.startswith(("hostd_memory_", "hostd_worker_deaths", "hostd_process_", "hostd_template"))
    }


def test_c33_before_during_and_after_a_load_and_an_unload(client, port, rig, tmp_path, pool):
    before = gauges(port)
    assert not [name for name, _ in before if name.startswith("total_loaded")]
    load = pool.submit(client.load_model, "m", rig.make(GATED), "my-type")
    eventually(lambda: rig.loads("../workshop/0"), "it is being loaded")
    assert gauges(port) == before, "a model that is being loaded is not loaded"
    rig.let_go("../workshop/0")
    model = load.result(PATIENCE_S)
    during = samples(port)
    assert during[key("total_loaded_models", model_type="my-type", model_id="m")] == 1
    size_shown = key("total_loaded_models_size", model_type="my-type")
    eventually(lambda: samples(port)[size_shown] == model.size, "the size is that of the record")
    assert during[key("load_model_duration_seconds_count", model_type="my-type")] == 1
    took_s = during[key("load_model_duration_seconds_sum", model_type="my-type")]
    assert took_s == pytest.approx(model.info.load_duration_s, abs=0.01)
    assert key("load_model_exception_count_total", model_type="my-type") not in during

    call = model.submit.work(str(tmp_path / "begun"), str(tmp_path / "release"))
    eventually((tmp_path / "begun").exists, "the call has begun")
    assert samples(port)[key("hostd_model_in_flight", model_id="m")] == 1
    unload = pool.submit(client.unload_model, "m")
    eventually(lambda: states(client) == {"m": "UNLOADING"}, "it drains")
    assert gauges(port) == before, "a model that takes no calls is not loaded"
    (tmp_path / "release").touch()
    call.result(PATIENCE_S)
    unload.result(PATIENCE_S)
    assert gauges(port) == before
    after = samples(port)
    assert after[key("load_model_duration_seconds_count", model_type="my-type")] == 1
    assert after[key("load_model_duration_seconds_sum", model_type="my-type")] == took_s


def fails(client, rig):
    with pytest.raises(hostd.ModelError):
        client.load_model("m", rig.make(FAILS), "my-type")


def is_overtaken(client, rig):
    client.load_model("m", rig.make(GATED), "my-type", wait=False)
    client.unload_model("m")


def crashes(client, rig):
    (worker,) = client.load_model("m", rig.make(), "my-type").info.workers
    os.kill(worker.pid or 0, signal.SIGKILL)
    eventually(lambda: states(client)["m"] == "FAILED", "the death is noticed")


def is_lazy(client, rig):
    rig.add("team/m")
    client.retrieve_model("team/m")
    client.unload_model("team/m")


def is_synced(client, rig):
    rig.add("m")
    client.sync_local_models(wait=True)
    rig.remove("m")
    client.sync_local_models(wait=True)


def is_deployed(client, rig):
    client.deploy_model("m", rig.make(), "old-type")
    client.deploy_model("m", rig.make(), "new-type", replace=True)
    shown = samples(client.host_info().metrics_port)
    types = {dict(labels)["model_type"] for name, labels in shown if name.startswith("total_loaded_models")}
    assert types == {"new-type", "other-type"}, "a replaced model is shown once, under its new type"
    with pytest.raises(hostd.ModelError):
        client.deploy_model("m", rig.make(FAILS), "new-type", replace=True)
    client.undeploy_model("m")


def is_unloaded_with_all(client, rig):
    for number in range(3):
        client.load_model(f"m{number}", rig.make(), f"type{number % 2}")
    path = client.get_model("stays").path
    client.unload_all_models()
    client.load_model("stays", path, "other-type")


HAPPENINGS = (fails, is_overtaken, crashes, is_lazy, is_synced, is_deployed, is_unloaded_with_all)


def test_c33_the_page_returns_to_what_it_was_whatever_happens_to_a_model(client, port, rig):
    stays = client.load_model("stays", rig.make(), "other-type")
    for happens in HAPPENINGS:
        before = {sample: value for sample, value in gauges(port).items() if not sample[0].endswith("_bytes")}
        happens(client, rig)
        after = {sample: value for sample, value in gauges(port).items() if not sample[0].endswith("_bytes")}
        client.unload_model("m")  # of which a crash leaves a record
        sizes = [sample for sample, _ in gauges(port).items() if sample[0] == "total_loaded_models_size"]
        assert sizes == [key("total_loaded_models_size", model_type="other-type")]
        assert before.pop(sizes[0]) == pytest.approx(after.pop(sizes[0]), abs=1 << 20)
        assert after == before, happens.__name__
        shown = samples(port)
        assert shown[key("hostd_unloads_total")] == shown[key("hostd_unload_seconds_count")]
    eventually(lambda: gauges(port)[sizes[0]] == stays.size, "the size is that of the record")


def test_c33_every_name_has_its_type_and_labels_and_a_load_counts_once_however_often_it_is_tried(client, port, rig):
    client.load_model("good", rig.make(FAILS_TWICE), "my-type", retries=2)
    shown = samples(port)
    assert key("load_model_exception_count_total", model_type="my-type") not in shown
    with pytest.raises(hostd.ModelError):
        client.load_model("bad", rig.make(FAILS), "my-type", retries=3)
    shown = samples(port)
    assert shown[key("load_model_exception_count_total", model_type="my-type")] == 1
    assert shown[key("load_model_duration_seconds_count", model_type="my-type")] == 1
    assert shown[key("hostd_load_retries_total")] == 5
    # prometheus-client tells when each series began, in families of their own.
    told = text_string_to_metric_families(page_text(port))
    families = {family.name: family for family in told if not family.name.endswith("_created")}
    for name, (kind, labels) in THEIRS.items():
        family = families[name]
        assert family.type == kind
        assert family.documentation
        assert family.samples
        assert all(set(sample.labels) == labels for sample in family.samples)
    ours = set(families) - set(THEIRS)
    assert ours
    assert [name for name in ours if not name.startswith("hostd_")] == []
