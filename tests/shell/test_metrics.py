"""The Prometheus page: what it shows before, while and after models are loaded, and that no figure is stale (C33)."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import urlopen

import pytest
from helpers import PATIENCE_S, eventually, rss_of_tree
from prometheus_client.parser import text_string_to_metric_families

import hostd
from hostd.records import MemoryInfo, ModelInfo, WorkerInfo
from hostd.shell.control.metrics import Snapshot, families_of

FIGURES = ("rss_bytes", "gpu_bytes", "uss_bytes")


@pytest.fixture
def measured():
    with hostd.Host(metrics={"port": 0}, workers={"drain_timeout_s": 1}, memory={"sample_period_s": 3600}) as host:
        yield host


@pytest.fixture
def client(measured):
    return measured.client()


@pytest.fixture
def page(client):
    """Read the page; its samples by name and labels."""
    port = client.host_info().metrics_port

    def read():
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S) as response:
            text = response.read().decode()
        families = text_string_to_metric_families(text)
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
            if not sample.name.endswith("_created")
        }

    return read


def key(name, **labels):
    return name, tuple(sorted(labels.items()))


def test_c33_gauges_return_to_what_they_were_before_the_load(client, page, model_dir):
    before = page()
    assert not [name for name, _ in before if name.startswith("total_loaded_models")]
    model = client.load_model("team/echo", model_dir(), "my-type")
    loaded = page()
    assert loaded[key("total_loaded_models", model_type="my-type", model_id="team/echo")] == 1
    size_shown = key("total_loaded_models_size", model_type="my-type")
    eventually(lambda: page()[size_shown] == model.size, "the size is that of the record")
    assert model.size == pytest.approx(rss_of_tree(model.info.workers[0].pid), rel=0.05)
    assert loaded[key("load_model_duration_seconds_count", model_type="my-type")] == 1
    assert 0 < loaded[key("load_model_duration_seconds_sum", model_type="my-type")] < PATIENCE_S
    client.unload_model("team/echo")
    after = page()
    gauges = [name for name, labels in after if "total" in name or ("model_id", "team/echo") in labels]
    assert not [name for name in gauges if name.startswith(("total_loaded", "hostd_model"))]
    assert after[key("hostd_unload_seconds_count")] == 1


@pytest.mark.parametrize("is_there", [True, False])
def test_c33_the_embedding_applications_metrics_stay_its_own(tmp_path, monkeypatch, model_dir, is_there):
    theirs = tmp_path / "multiproc"
    if is_there:
        theirs.mkdir()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(theirs))
    with hostd.Host(metrics={"port": 0}) as host:
        client = host.client()
        client.load_model("echo", model_dir())
        with urlopen(f"http://127.0.0.1:{client.host_info().metrics_port}/metrics", timeout=PATIENCE_S) as response:
            assert b"hostd_load_seconds_count 1.0" in response.read()
    assert not is_there or list(theirs.iterdir()) == []


def test_c33_sizes_are_added_up_by_type(client, page, model_dir):
    path = model_dir()
    sizes = [client.load_model(f"a{i}", path, "a").size for i in range(2)]
    client.load_model("b", path, "b")
    shown = page()
    assert shown[key("total_loaded_models_size", model_type="a")] == sum(sizes)
    client.unload_model("a0")
    shown = page()
    assert shown[key("total_loaded_models_size", model_type="a")] == sizes[1]
    assert key("total_loaded_models", model_type="a", model_id="a0") not in shown
    assert key("total_loaded_models", model_type="b", model_id="b") in shown


def test_c33_a_failed_load_is_counted_and_nothing_else(client, page, model_dir, tmp_path):
    for path in (model_dir("def load(path):\n    1 / 0\n"), tmp_path / "absent", model_dir("raise SystemExit(1)\n")):
        with pytest.raises(hostd.HostError):
            client.load_model("broken", path, "my-type")
    shown = page()
    assert shown[key("load_model_exception_count_total", model_type="my-type")] == 3
    assert key("load_model_duration_seconds_count", model_type="my-type") not in shown
    assert not [name for name, _ in shown if name.startswith("total_loaded_models")]


def test_a_load_that_an_unload_overtakes_is_no_failure(client, page, model_dir):
    client.load_model("slow", model_dir("import time\ndef load(path):\n    time.sleep(3600)\n"), "my-type", wait=False)
    client.unload_model("slow")
    assert key("load_model_exception_count_total", model_type="my-type") not in page()


def test_calls_errors_and_deaths_are_counted(client, page, model_dir):
    source = "import os\nclass M:\n    def good(self):\n        return 1\n    def bad(self):\n        1 / 0\n    def fatal(self):\n        os._exit(3)\ndef load(path):\n    return M()\n"
    model = client.load_model("m", model_dir(source))
    for _ in range(3):
        model.good()
    with pytest.raises(hostd.ModelError):
        model.bad()
    shown = page()
    assert shown[key("hostd_model_calls_total", model_id="m")] == 4
    assert shown[key("hostd_model_errors_total", model_id="m")] == 1
    assert shown[key("hostd_model_in_flight", model_id="m")] == 0
    died = key("hostd_worker_deaths_total", model_id="m")
    assert shown[died] == 0, "the first death would be no increase"
    with pytest.raises(hostd.UnavailableError):
        model.fatal()
    eventually(lambda: page()[died] == 1, "the death is counted")
    client.unload_model("m")
    shown = page()
    assert shown[died] == 1, "a death is not undone by an unload"
    assert key("total_loaded_models", model_type="standalone-model", model_id="m") not in shown, "a dead model is shown"


def test_strange_names_do_not_break_the_page(client, page, model_dir):
    client.load_model('team/"quoted"', model_dir(), 'type with\n"odd" \\ characters')
    shown = page()
    labels = {"model_type": 'type with\n"odd" \\ characters', "model_id": 'team/"quoted"'}
    assert shown[key("total_loaded_models", **labels)] == 1


def test_the_page_is_read_while_models_come_and_go(client, page, model_dir):
    path, over = model_dir(), threading.Event()

    def read():
        count = 0
        while not over.is_set():
            page()
            count += 1
        return count

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        for _ in range(5):
            client.load_model("m", path)
            client.unload_model("m")
        over.set()
        assert all(reader.result(PATIENCE_S) > 0 for reader in readers)


def test_what_is_not_known_of_a_model_is_not_on_the_page():
    workers = (WorkerInfo(1, 41, "READY", rss_bytes=5, gpu_bytes=3), WorkerInfo(2, 42, "READY", rss_bytes=7))
    models = [
        ModelInfo("a", "READY", "/a", "t", workers=workers),
        ModelInfo("b", "READY", "/b", "t", workers=workers[1:]),
    ]
    samples = {family.name: family.samples for family in families_of(Snapshot(models, MemoryInfo(), None, [], [], {}))}
    shown = {name: {s.labels["model_id"]: s.value for s in samples[f"hostd_model_{name}"]} for name in FIGURES}
    assert shown == {"rss_bytes": {"a": 12, "b": 7}, "gpu_bytes": {"a": 3}, "uss_bytes": {}}


def test_there_is_no_page_unless_it_is_asked_for(shared):
    assert shared.host_info().metrics_port is None


def test_only_this_machine_is_served(client):
    port = client.host_info().metrics_port
    listening = [
        line.split()[1]
        for file in ("/proc/net/tcp", "/proc/net/tcp6")
        for line in Path(file).read_text("ascii").splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[1].endswith(f":{port:04X}")
    ]
    assert listening == [f"0100007F:{port:04X}"]
