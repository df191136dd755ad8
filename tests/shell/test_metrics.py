"""The Prometheus page: what it shows before, while and after models are loaded, and that no figure is stale (C33)."""

from pathlib import Path
from urllib.request import urlopen

import pytest
from helpers import PATIENCE_S, eventually
from prometheus_client.parser import text_string_to_metric_families

import hostd
from hostd.records import MemoryInfo, ModelInfo, WorkerInfo
from hostd.shell.control.metrics import Snapshot, families_of

FIGURES = ("rss_bytes", "gpu_bytes", "uss_bytes")


@pytest.fixture
def page():
    """Load models, and read the page: its samples by name and labels."""
    with hostd.Host(metrics={"port": 0}, workers={"drain_timeout_s": 1}, memory={"sample_period_s": 3600}) as host:
        yield Page(host.client())


class Page:
    """A client of a host, and its page: its samples by name and labels."""

    def __init__(self, client):
        self.client, self.port = client, client.host_info().metrics_port

    def text(self):
        with urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=PATIENCE_S) as response:
            return response.read().decode()

    def __call__(self):
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(self.text())
            for sample in family.samples
            if not sample.name.endswith("_created")
        }


def key(name, **labels):
    return name, tuple(sorted(labels.items()))


@pytest.mark.parametrize("is_there", [True, False])
def test_c33_the_embedding_applications_metrics_stay_its_own(tmp_path, monkeypatch, model_dir, is_there):
    theirs = tmp_path / "multiproc"
    if is_there:
        theirs.mkdir()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(theirs))
    with hostd.Host(metrics={"port": 0}) as host:
        client = host.client()
        client.load_model("echo", model_dir())
        assert "hostd_load_seconds_count 1.0" in Page(client).text()
    assert not is_there or list(theirs.iterdir()) == []


def test_c33_sizes_are_added_up_by_type_and_strange_names_do_not_break_the_page(page, model_dir):
    path, odd = model_dir(), 'type with\n"odd" \\ characters'
    sizes = [page.client.load_model(f"a{i}", path, "a").size for i in range(2)]
    page.client.load_model('team/"quoted"', path, odd)
    assert page()[key("total_loaded_models_size", model_type="a")] == sum(sizes)
    page.client.unload_model("a0")
    shown = page()
    assert shown[key("total_loaded_models_size", model_type="a")] == sizes[1]
    assert key("total_loaded_models", model_type="a", model_id="a0") not in shown
    assert shown[key("total_loaded_models", model_type=odd, model_id='team/"quoted"')] == 1


def test_only_this_machine_is_served(page):
    listening = [
        line.split()[1]
        for file in ("/proc/net/tcp", "/proc/net/tcp6")
        for line in Path(file).read_text("ascii").splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[1].endswith(f":{page.port:04X}")
    ]
    assert listening == [f"0100007F:{page.port:04X}"]


def test_c33_a_failed_load_is_counted_and_nothing_else(page, model_dir, tmp_path):
    for path in (model_dir("def load(path):\n    1 / 0\n"), tmp_path / "absent", model_dir("raise SystemExit(1)\n")):
        with pytest.raises(hostd.HostError):
            page.client.load_model("broken", path, "my-type")
    shown = page()
    assert shown[key("load_model_exception_count_total", model_type="my-type")] == 3
    assert key("load_model_duration_seconds_count", model_type="my-type") not in shown
    assert not [name for name, _ in shown if name.startswith("total_loaded_models")]


def test_a_load_that_an_unload_overtakes_is_no_failure(page, model_dir):
    page.client.load_model(
        "slow", model_dir("import time\ndef load(path):\n    time.sleep(3600)\n"), "my-type", wait=False
    )
    page.client.unload_model("slow")
    assert key("load_model_exception_count_total", model_type="my-type") not in page()


def test_calls_errors_and_deaths_are_counted(page, model_dir):
    source = "import os\nclass M:\n    def good(self):\n        return 1\n    def bad(self):\n        1 / 0\n    def fatal(self):\n        os._exit(3)\ndef load(path):\n    return M()\n"
    model = page.client.load_model("m", model_dir(source))
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
    page.client.unload_model("m")
    shown = page()
    assert shown[died] == 1, "a death is not undone by an unload"
    assert key("total_loaded_models", model_type="standalone-model", model_id="m") not in shown, "a dead model is shown"


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
