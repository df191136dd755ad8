"""What a real host says to probes: alive, ready, or not ready yet, or not any more; and what is no page at all."""

import contextlib
import json
import shutil
import subprocess
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from helpers import PATIENCE_S, eventually
from models_rig import AT_ONCE, FOLLOWED, GATED, Work, key, page_text, samples

import hostd
from hostd import paths
from hostd.config.loading import load_config
from hostd.hosts.launch import AT_ONCE as KILL_ALL
from hostd.hosts.launch import reaper_command, supervisor_environment


def get(client, path, method="GET"):
    """Return the status and the body of a page."""
    port = client.host_info().metrics_port
    request = Request(f"http://127.0.0.1:{port}{path}", method=method)
    try:
        with urlopen(request, timeout=PATIENCE_S) as response:
            return response.status, response.read()
    except HTTPError as error:
        with error:
            return error.code, error.read()


def ready(client):
    status, body = get(client, "/readyz")
    return status, json.loads(body)


@contextlib.contextmanager
def starting(tmp_path, **settings):
    """Start a host, and connect to it before it says that it is ready."""
    runtime_dir = paths.runtime_dir("probed")
    places = {"name": "probed", "runtime_dir": runtime_dir, "state_dir": tmp_path / "s"}
    config = load_config({**places, "metrics": {"port": 0}, **settings})
    with subprocess.Popen(
        reaper_command(),
        env=supervisor_environment(config),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as reaper:
        try:
            with hostd.connect(config.endpoint, wait_s=PATIENCE_S) as client:
                yield reaper, client
        finally:
            reaper.send_signal(KILL_ALL)
    shutil.rmtree(runtime_dir)


GATED_FINDER = """
    import time
    from pathlib import Path
    from hostd.finders import ModelSpec

    class Finder:
        looks_for = "anything, when it may"

        def __init__(self, base):
            self.asked, self.gate = Path(base, "asked"), Path(base, "gate")

        def find(self, model_id, path):
            self.asked.touch()
            while not self.gate.exists():
                time.sleep(0.002)
            return ModelSpec(loader="python")
"""


def test_before_the_directory_was_read_a_model_is_not_there_yet(rig, tmp_path, install):
    install(gated_finder=GATED_FINDER)
    rig.add("m")
    models = {**AT_ONCE, "dir": rig.path, "load_on_start": True}
    finders = {"default": {"type": "gated_finder:Finder", "config": {"base": str(tmp_path)}}}
    with starting(tmp_path, models=models, finders=finders) as (_, client):
        eventually((tmp_path / "asked").exists, "the directory is being read")
        with pytest.raises(hostd.UnavailableError, match="not loaded yet"):
            client.retrieve_model("m")
        (tmp_path / "gate").touch()
        eventually(lambda: client.host_info().state == "READY", "the directory has been read")
        assert client.retrieve_model("m").id == "m"


def test_a_host_is_ready_after_its_initial_loads_and_until_it_ends(rig, tmp_path):
    rig.add("m", GATED)
    models = {**FOLLOWED, "dir": rig.path, "load_on_start": True, "wait_for_initial_loads": True}
    with starting(tmp_path, models=models) as (reaper, client):
        eventually(lambda: rig.loads("m"), "the initial load is under way")
        assert ready(client) == (503, {"status": "starting", "name": "probed", "degraded": []})
        assert get(client, "/healthz") == (200, b'{"status": "alive"}\n')
        assert client.host_info().state == "STARTING"
        rig.let_go("m")
        eventually(lambda: ready(client)[0] == 200, "the host is ready")
        model = client.retrieve_model("m")
        work = Work(model, tmp_path)
        reaper.terminate()
        eventually(lambda: ready(client)[0] == 503, "the host is not ready any more")
        assert ready(client)[1]["status"] == "stopping"
        assert get(client, "/healthz")[0] == 200
        work.finish()
        assert reaper.wait(PATIENCE_S) == 0


def test_a_host_that_is_degraded_is_ready_and_says_why(serve, rig, tmp_path):
    service = serve(models={**AT_ONCE, "dir": rig.path}, metrics={"port": 0})
    with hostd.connect(service.endpoint) as client:
        assert ready(client) == (200, {"status": "ready", "name": "default", "degraded": []})
        rig.path.rename(tmp_path / "away")
        client.sync_local_models(wait=True)
        status, said = ready(client)
        assert (status, said["status"]) == (200, "ready")
        assert str(rig.path) in said["degraded"][0]


MANY = """
    class Many:
        def __getattr__(self, name):
            raise AttributeError(name)

    for number in range(20):
        setattr(Many, f"m{number:02}", lambda self, x=0: x)
    Many.fails = lambda self: 1 / 0

    def load(path):
        return Many()
"""


def test_the_page_says_how_long_calls_took_and_what_the_host_is(serve, model_dir):
    with hostd.connect(serve(metrics={"port": 0}).endpoint, direct=False) as client:
        port = client.host_info().metrics_port
        assert [get(client, path)[0] for path in ("/", "/metric", "/metrics/", "/favicon.ico", "/api")] == [404] * 5
        for path in ("/metrics", "/healthz", "/readyz"):
            assert get(client, path)[0] == 200
            assert get(client, path, "POST")[0] == get(client, path, "HEAD")[0] == 405
        model = client.load_model("team/m", model_dir(MANY))
        for number in range(20):
            model.call(f"m{number:02}", number)
        model.m00(1)
        with pytest.raises(hostd.ModelError):
            model.fails()
        shown = samples(port)

        def count(method, le="+Inf"):
            return shown[key("hostd_call_duration_seconds_bucket", model_id="team/m", method=method, le=le)]

        assert (count("m00"), count("m01"), count("(other)")) == (2, 1, 5)
        assert 0 <= count("m00", "0.0005") <= count("m00", "1.0") <= 2
        counted = {labels: v for (name, labels), v in shown.items() if name == "hostd_call_duration_seconds_count"}
        assert len(counted) == 17
        assert sum(counted.values()) == shown[key("hostd_model_calls_total", model_id="team/m")] == 22
        assert 0 < shown[key("hostd_call_duration_seconds_sum", model_id="team/m", method="m00")] < PATIENCE_S
        (build,) = [dict(labels) for name, labels in shown if name == "hostd_build_info"]
        assert (build["version"], build["protocol"]) == (hostd.__version__, "1")
        assert set(build) == {"version", "protocol", "python"}
        resident = shown[key("hostd_process_resident_memory_bytes")]
        assert resident == pytest.approx(client.host_info().rss_bytes, rel=0.2)
        client.unload_model("team/m")
        assert "team/m" not in page_text(port)
