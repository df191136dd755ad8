"""A front as a process of its host: how it starts, what becomes of it, and who can reach it."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from front_process_rig import HELD, front_of, go_on, has_calls, kill_front, starting, status_of, url_of
from helpers import PATIENCE_S, eventually

import hostd

SECRET = "s3cret-s3cret-s3cret"


@pytest.fixture
def fronted():
    """Start hosts with an HTTP front."""
    with starting(http=0) as start:
        yield start


def role_of(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/me", headers=headers), timeout=PATIENCE_S) as answer:
        return json.load(answer)["role"]


def has_ended(pid):
    try:
        return "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    except (FileNotFoundError, ProcessLookupError):
        return True


# Start


def test_a_host_is_ready_when_its_front_serves_and_says_where(fronted):
    host = fronted()
    url = url_of(host)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
    assert status_of(url) == 200
    status = subprocess.run(
        [sys.executable, "-m", "hostd", "status", "-e", host.endpoint], capture_output=True, text=True, check=True
    )
    assert url in status.stdout
    pid = front_of(host)
    assert os.getpgid(pid) == pid, "a terminal's Ctrl-C is not for it"
    assert os.getsid(pid) == os.getsid(host.pid)
    host.stop()
    assert has_ended(pid)


def test_a_host_without_fronts_has_none(host):
    assert host.client().host_info().fronts == {}
    assert front_of(host) is None


def test_an_address_that_is_taken_ends_the_start(fronted):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(hostd.FailedPreconditionError, match=f"cannot listen at 127.0.0.1:{port}: Address already"):
            fronted(http=port)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"http": "0.0.0.0:0"}, "other machines reach: set fronts.tokens"),
        ({"http": "::1:80"}, "must be HOST:PORT"),
        ({"http": "localhost"}, "must be HOST:PORT"),
        ({"http": 70000}, "must be HOST:PORT"),
        ({"anonymous": "root"}, "fronts.anonymous"),
        ({"max_body_bytes": 8192, "max_bodies_bytes": 4096}, "max_bodies_bytes must be at least"),
    ],
)
def test_settings_that_are_wrong_say_so(fronted, setting, words):
    with pytest.raises(hostd.InvalidArgumentError, match=words):
        fronted(**setting)


def test_tokens_that_cannot_be_read_end_the_start_with_the_fronts_own_words(fronted, tmp_path):
    with pytest.raises(
        hostd.FailedPreconditionError, match=r"http front does not start: the tokens in .* No such file"
    ):
        fronted(tokens=str(tmp_path / "nix"))


@pytest.mark.parametrize(("front", "package"), [("http", "uvicorn"), ("grpc", "hpack"), ("grpc", "google.protobuf")])
def test_a_package_that_is_missing_is_named_with_what_installs_it(tmp_path, front, package):
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules['{package}'] = None\n")  # found by nobody
    run = subprocess.run(
        [sys.executable, "-c", f"import hostd\nwith hostd.Host(fronts={{'{front}': 0}}): pass"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert f"the {front} front needs {package}" in run.stderr
    assert f"[{front}]" in run.stderr


# Its end, and that of its host


def test_no_connection_is_refused_while_a_front_that_was_killed_starts_again(fronted):
    host = fronted()
    url, stop, statuses, refused = url_of(host), threading.Event(), [], []

    def ask():
        while not stop.is_set():
            try:
                statuses.append(status_of(url))
            except urllib.error.URLError as error:  # connecting has failed
                refused.append(error)
            except (OSError, http.client.HTTPException):
                pass  # the one that it was answering just then

    def answers_again():
        count = len(statuses)
        eventually(lambda: len(statuses) > count + 5, "it answers")

    asking = threading.Thread(target=ask)
    asking.start()
    for _ in range(2):
        answers_again()
        kill_front(host)
    answers_again()
    stop.set()
    asking.join()
    assert set(statuses) == {200}
    assert [error for error in refused if isinstance(error.reason, ConnectionRefusedError)] == []
    assert host.client().host_info().degraded == ()


def test_a_front_that_ends_again_and_again_is_a_trouble_of_the_host(fronted):
    host = fronted()

    def kill():
        pid = front_of(host)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        return host.client().host_info().degraded

    (trouble,) = eventually(kill, "it is told")
    assert trouble.startswith("the http front ends again and again: killed by SIGKILL")


@pytest.mark.parametrize("victim", ["supervisor", "front's host, with SIGTERM"])
def test_a_front_ends_with_its_host(fronted, victim):
    host = fronted()
    pid = front_of(host)
    os.kill(host.pid, signal.SIGKILL if victim == "supervisor" else signal.SIGTERM)
    eventually(lambda: has_ended(pid), "the front has ended")


@pytest.mark.parametrize("asked", ["/v2/models/m/infer", "/v1/models/m/call", "a body that has begun"])
def test_what_a_front_that_ends_has_not_answered_is_to_be_asked_again(fronted, model_dir, asked):
    host, path = fronted(), model_dir(HELD)
    host.client().load_model("m", path)
    connection = http.client.HTTPConnection(url_of(host).removeprefix("http://"), timeout=PATIENCE_S)
    tensor = {"name": "x", "datatype": "INT64", "shape": [1], "data": [1]}
    body = json.dumps({"inputs": [tensor]} if "infer" in asked else {"args": [1]})
    if asked.startswith("/"):
        connection.request("POST", asked, body, {"Content-Type": "application/json"})
        has_calls(host)
    else:
        connection.putrequest("POST", "/v2/models/m/infer")
        connection.putheader("Content-Length", "1000")
        connection.endheaders(b"x")
        assert status_of(url_of(host)) == 200, "it has read this, too"
    pid = front_of(host)
    os.kill(pid, signal.SIGTERM)
    answer = connection.getresponse()
    assert (answer.status, json.load(answer)["status"]) == (503, "UNAVAILABLE")
    assert answer.getheader("Retry-After") == "1"
    connection.close()
    go_on(path)
    eventually(lambda: front_of(host) not in (None, pid), "there is another front")


STREAMED = """
import pathlib, time
class Streamed:
    def __init__(self, path):
        self.path = pathlib.Path(path)
    def generate(self, prompt):
        yield "first"
        while not (self.path / "go on").exists():
            time.sleep(0.01)
def load(path):
    return Streamed(path)
"""


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/models/m/generate_stream", {"text_input": "x"}),
        ("/v1/completions", {"model": "m", "prompt": "x", "stream": True}),
        ("/v1/models/m/call/generate?stream=true", {"args": ["x"]}),
    ],
)
def test_a_stream_that_a_front_ends_says_so(fronted, model_dir, path, body):
    host, files = fronted(), model_dir(STREAMED)
    host.client().load_model("m", files)
    request = urllib.request.Request(
        url_of(host) + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        while b"first" not in answer.readline():
            pass
        os.kill(front_of(host), signal.SIGTERM)
        rest = answer.read()
    assert b"this front ends; another one starts: ask again" in rest
    assert b"[DONE]" not in rest
    go_on(files)


def test_models_that_end_do_not_take_the_front_along(fronted, model_dir):
    host = fronted()
    client, pid = host.client(), front_of(host)
    for _ in range(3):
        client.load_model("m", model_dir())
        client.unload_model("m")
    assert front_of(host) == pid
    assert status_of(url_of(host)) == 200


def test_a_front_calls_models_by_their_lanes(fronted, model_dir):
    host = fronted()
    client, url = host.client(), url_of(host)
    client.load_model("m", model_dir())
    tensor = {"name": "x", "datatype": "INT64", "shape": [1], "data": [1]}
    for _ in range(5):
        assert status_of(url, "/v2/models/m/infer", json.dumps({"inputs": [tensor]}).encode()) == 200
    worker = eventually(lambda: [w for w in client.get_model("m").workers if w.direct_clients], "it has a lane")[0]
    assert worker.direct_clients == 1


# Who may


def test_what_is_asked_without_a_token_may_call_and_not_load(fronted, model_dir):
    host = fronted()
    url, path = url_of(host), model_dir()
    load = json.dumps({"path": path}).encode()
    assert status_of(url, "/v1/models/m/load", load, content_type="application/json") == 401
    assert status_of(url, "/v2/repository/models/m/load", b"{}") == 401
    assert status_of(url, "/v1/host/settings") == 401
    for verb in ("plan", "estimate"):  # they look at files that the host's user may read
        assert status_of(url, f"/v1/models/m/{verb}", load, content_type="application/json") == 401
    assert status_of(url, "/v1/models") == 200
    assert status_of(url, host="evil.example") == 403
    assert status_of(url, origin="https://evil.example") == 403


def test_tokens_have_roles(fronted, tmp_path, model_dir):
    (tmp_path / "tokens").write_text(f"load {SECRET}\n")
    (tmp_path / "tokens").chmod(0o600)
    url = url_of(fronted(tokens=str(tmp_path / "tokens"), anonymous="none"))
    load = json.dumps({"path": model_dir()}).encode()
    bearer = {"authorization": f"Bearer {SECRET}", "content_type": "application/json"}
    assert status_of(url, "/v1/models") == 401
    assert status_of(url) == 200, "whoever watches over a host needs no token"
    assert [role_of(url), role_of(url, **bearer)] == ["none", "load"]
    assert status_of(url, "/v1/models/m/load", load, **bearer) == 200
    assert status_of(url, "/v1/models", **bearer) == 200
    assert status_of(url, "/v1/host/settings", **bearer) == 403


def test_a_models_traceback_is_for_those_who_may_load(fronted, tmp_path, model_dir):
    (tmp_path / "tokens").write_text(f"load {SECRET}\n")
    (tmp_path / "tokens").chmod(0o600)
    host = fronted(tokens=str(tmp_path / "tokens"))
    host.client().load_model(
        "m", model_dir("def load(path):\n    def f(x):\n        raise ValueError('no')\n    return f\n")
    )
    for headers, is_told in (({}, False), ({"Authorization": f"Bearer {SECRET}"}, True)):
        body = json.dumps({"args": [1]}).encode()
        request = urllib.request.Request(
            url_of(host) + "/v1/models/m/call", body, {"Content-Type": "application/json", **headers}
        )
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=PATIENCE_S)
        with caught.value as answer:
            told = json.load(answer)
        assert (answer.code, told["error"]) == (500, "ValueError: no")
        assert ("traceback" in told["details"]) == is_told


# Metrics


def test_prometheus_gets_the_hosts_page_in_the_form_that_it_asks_for(fronted, model_dir):
    host = fronted()
    host.client().load_model("m", model_dir())
    for accept, kind, last in (
        ("*/*", "text/plain", b"\n"),
        ("application/openmetrics-text;version=1.0.0", "application/openmetrics-text", b"# EOF\n"),
    ):
        request = urllib.request.Request(url_of(host) + "/metrics", headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            page = answer.read()
        assert answer.headers["Content-Type"].startswith(kind)
        assert page.endswith(last)
        assert b'total_loaded_models{model_id="m"' in page or b'model_id="m"' in page
        assert b"# HELP hostd_model_charge_bytes" in page
    assert status_of(url_of(host), "/metrics", b"") == 405


def test_a_host_that_nobody_asks_for_metrics_counts_none(host):
    with pytest.raises(hostd.FailedPreconditionError, match=r"this host counts no metrics: set metrics\.port"):
        host.client().metrics_page()
