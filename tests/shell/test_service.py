"""The supervisor's process: how it starts and ends, what its workers see, and its Prometheus page (C33)."""

import os
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import urlopen

import pytest
from helpers import PATIENCE_S, eventually, never
from prometheus_client.parser import text_string_to_metric_families

import hostd
from hostd.config.loading import load_config
from hostd.hosts.launch import reaper_command, supervisor_environment
from hostd.records import MemoryInfo, ModelInfo, TemplatesInfo, WorkerInfo
from hostd.shell.control.metrics import Snapshot, families_of

SLOW = """
    import pathlib, time

    class Slow:
        def work(self, marker, release):
            pathlib.Path(marker).touch()
            while not pathlib.Path(release).exists():
                time.sleep(0.002)
            return "finished"

    def load(path):
        return Slow()
"""


@pytest.mark.parametrize("output", ["open", "full", "closed"])
def test_it_prints_where_it_is_and_serves_also_if_it_cannot(tmp_path, output):
    config = load_config({"runtime_dir": tmp_path / "r", "state_dir": tmp_path / "s"})
    read, write = os.pipe()
    if output == "closed":
        os.close(read)
    with open(write, "wb") as pipe, open("/dev/full", "wb") as full:
        host = subprocess.Popen(
            reaper_command(),
            env=supervisor_environment(config),
            stdout=full if output == "full" else pipe,
            stderr=subprocess.PIPE,
            text=True,
        )
    with host:
        if output == "open":
            with open(read, encoding="utf-8") as said:
                words = said.readline()
            assert re.fullmatch(r"hostd \S+ is ready at ipc://\S+ \(process \d+\)\n", words)
        else:
            while "it is ready" not in (line := host.stderr.readline()):
                assert line, "it has ended"
        with hostd.connect(config.endpoint) as client:
            assert client.host_info().state == "READY"
        host.terminate()
        host.communicate(timeout=PATIENCE_S)
        assert host.returncode == 0
    if output == "full":
        os.close(read)


def test_of_many_that_start_together_one_wins(serve):
    with ThreadPoolExecutor(3) as pool:
        services = [future.result() for future in [pool.submit(serve) for _ in range(3)]]
    (winner,) = [service for service in services if "ready" in service.said]
    with hostd.connect(winner.endpoint) as client:
        assert client.host_info().pid == winner.pid


def test_a_hang_up_that_is_ignored_ends_nothing(serve):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup(1) does
    try:
        service = serve()
    finally:
        signal.signal(signal.SIGHUP, before)
    for pid in (service.reaper.pid, service.pid):
        ignored = re.search(r"^SigIgn:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        assert int(ignored[1], 16) >> signal.SIGHUP - 1 & 1
    service.reaper.terminate()
    assert service.ended() == 0


def test_a_port_or_a_directory_that_cannot_be_had_stops_the_start_with_the_reason(serve, tmp_path):
    def refusal(**settings):
        refused = serve(**settings)
        assert refused.ended() == 1
        return refused.said["error"]

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = refusal(metrics={"port": port})
    assert f"cannot listen at 127.0.0.1:{port}: Address already in use" in words
    assert "another metrics.port (--metrics-port PORT" in words
    words = refusal(metrics={"port": port, "host": "192.0.2.1"})
    assert f"cannot listen at 192.0.2.1:{port}: Cannot assign requested address" in words
    assert "metrics.host" in words
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in refusal(state_dir=tmp_path / "file" / "state")


def test_a_worker_runs_as_is_set_without_our_tokens_and_each_of_its_transitions_is_logged_once(serve, model_dir):
    """A signal to the supervisor itself ends it as one to its reaper does."""
    service = serve(workers={"python": sys.executable})
    source = """
        import os, sys
        def load(path):
            return lambda: [sys.executable, *sorted(name for name in os.environ if name.startswith("HOSTD_"))]
    """
    with hostd.connect(service.endpoint) as client:
        assert client.host_info().pid == service.pid != service.reaper.pid
        model = client.load_model("echo", model_dir(source))
        assert model() == [sys.executable, "HOSTD_CPU_THREADS", "HOSTD_HOST", "HOSTD_MODEL_ID"]
        pid = model.info.workers[0].pid
        client.unload_model("echo")
    os.kill(service.pid, signal.SIGTERM)
    _, log = service.reaper.communicate(timeout=PATIENCE_S)
    for transition in ("LOADING -> READY", "KILLING -> DEAD"):
        assert log.count(f"model=echo worker=1 pid={pid} worker: {transition}") == 1, log
    assert "Traceback" not in log
    assert service.reaper.returncode == 0


def test_a_signal_lets_calls_in_flight_finish(serve, model_dir, tmp_path):
    service = serve(workers={"drain_timeout_s": 20})
    with hostd.connect(service.endpoint) as client:
        model = client.load_model("slow", model_dir(SLOW))
        call = model.submit.work(str(tmp_path / "m"), str(tmp_path / "r"))
        eventually((tmp_path / "m").exists, "the call has begun")
        service.reaper.terminate()
        eventually(lambda: client.get_model("slow").state == "UNLOADING", "the host drains")
        with pytest.raises(hostd.UnavailableError, match="shutting down"):
            client.load_model("other", model_dir())
        never(lambda: service.reaper.poll() is not None, "the host ended with a call in flight", for_s=0.1)
        (tmp_path / "r").touch()
        assert call.result(PATIENCE_S) == "finished"
        assert service.ended() == 0


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


def test_c33_a_failed_load_is_counted_and_not_one_that_an_unload_overtakes(page, model_dir, tmp_path):
    for path in (model_dir("def load(path):\n    1 / 0\n"), tmp_path / "absent", model_dir("raise SystemExit(1)\n")):
        with pytest.raises(hostd.HostError):
            page.client.load_model("broken", path, "my-type")
    slow = model_dir("import time\ndef load(path):\n    time.sleep(3600)\n")
    page.client.load_model("slow", slow, "my-type", wait=False)
    page.client.unload_model("slow")
    shown = page()
    assert shown[key("load_model_exception_count_total", model_type="my-type")] == 3
    assert key("load_model_duration_seconds_count", model_type="my-type") not in shown
    assert not [name for name, _ in shown if name.startswith("total_loaded_models")]


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
    families = families_of(models, Snapshot([], MemoryInfo(), TemplatesInfo(), None, [], [], {}, []))
    samples = {family.name: family.samples for family in families}
    shown = {name: {s.labels["model_id"]: s.value for s in samples[f"hostd_model_{name}"]} for name in FIGURES}
    assert shown == {"rss_bytes": {"a": 12, "b": 7}, "gpu_bytes": {"a": 3}, "uss_bytes": {}}
