"""The command line as a person uses it: a real host, real models, and processes where a command is one that goes on."""

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_rig import rows
from helpers import REPOSITORY, eventually

import hostd
from hostd import paths

PATIENCE_S = 60.0
MODEL = """
import sys

class Model:
    def __init__(self, factor):
        self.factor = factor
        print("made with", factor, flush=True)

    def predict(self, x):
        print("called", file=sys.stderr, flush=True)
        return [value * self.factor for value in x]

    def double(self, array):
        return array * 2

    def boom(self, x):
        raise ValueError("no such digit")

    def count(self, n):
        for i in range(n):
            yield {"i": i}

    def slowly(self):
        import time
        yield "first"
        time.sleep(3600)

def load(path, *, factor=10):
    if factor == 0:
        raise RuntimeError("factor must not be zero")
    return Model(factor)
"""


@pytest.fixture(scope="module")
def host():
    with hostd.Host() as running:
        yield running


@pytest.fixture
def path(host, tmp_path):
    """The path of a python model; what was loaded is unloaded afterwards."""
    (tmp_path / "times").mkdir()
    (tmp_path / "times" / "model.py").write_text(MODEL, "utf-8")
    yield str(tmp_path / "times")
    host.client().unload_all_models()


@pytest.fixture
def model(told, path):
    """The same, loaded as `times`."""
    told("load", "times", path)
    return path


def environment(**more):
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1", **more}


def command(*args):
    return [sys.executable, "-m", "hostd", *args]


def hostd_command(*args, **more):
    how = {"capture_output": True, "text": True, "env": environment(**more), "timeout": 100}
    return subprocess.run(command(*args), check=False, **how)


class Running:
    """A command that goes on: its lines as they come, and its end."""

    def __init__(self, *args, cwd=None, **more):
        self.args = args
        how = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "env": environment(**more), "cwd": cwd}
        self.process = subprocess.Popen(command(*args), **how)
        self._read = b""

    def has_output(self, within_s=PATIENCE_S):
        return bool(self._read) or bool(select.select([self.process.stdout], [], [], within_s)[0])

    def line(self):
        """Return the next line, or fail loudly."""
        while b"\n" not in self._read:
            assert select.select([self.process.stdout], [], [], PATIENCE_S)[0], "no line came in time"
            more = os.read(self.process.stdout.fileno(), 65536)
            assert more, f"it ended with {self.process.wait(PATIENCE_S)} before it said another line"
            self._read += more
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()

    def interrupt(self):
        """Send what Ctrl-C sends, and return the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.ended()

    def ended(self):
        return self.process.wait(PATIENCE_S)


@pytest.fixture
def start():
    """Start commands that go on; what still runs at the end of the test is killed."""
    started = []

    def begin(*args, **how):
        started.append(Running(*args, **how))
        return started[-1]

    yield begin
    for running in started:
        with running.process as process:
            process.kill()


def test_a_model_is_loaded_called_measured_and_unloaded_from_the_shell(told, on_host, path):
    loaded = told("load", "times", path, "--option", "factor=3")
    assert (loaded["state"], loaded["loader"]) == ("READY", "python")
    assert told("infer", "times", "[1, 2]")["result"] == [3, 6]
    (shown,) = told("ps")
    (worker,) = shown["workers"]
    assert Path(f"/proc/{worker['pid']}").exists()
    assert shown["calls"] == 1
    assert told("size")["times"]["bytes"] > 2**20
    assert told("explain", "times")["state"] == "READY"
    people = on_host("ps", COLUMNS="80")
    head, row = rows(people.stdout)[:2]
    assert head == "MODEL STATE PID LOADER RSS USS BUDGET UP CALLS USED"
    assert row.startswith("times READY")
    assert "1 model" in people.stderr
    (report,) = told("unload", "times")
    assert report["processes"] >= 1
    assert report["freed_bytes"] > 2**20
    assert not Path(f"/proc/{worker['pid']}").exists()
    assert told("ps") == []


def test_arrays_go_in_and_come_back_and_items_are_printed_when_they_come(told, on_host, start, host, model, tmp_path):
    array = np.arange(12, dtype="float32").reshape(3, 4)
    np.save(tmp_path / "in.npy", array)
    told("infer", "times", str(tmp_path / "in.npy"), "-m", "double", "--output", str(tmp_path / "out.npy"))
    back = np.load(tmp_path / "out.npy")
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, array * 2)
    assert told("infer", "times", "[1, 2]", "--array", "-m", "double")["result"] == [2, 4]
    done = on_host("infer", "times", "3", "-m", "count")
    assert done.stdout.splitlines() == ['{"i": 0}', '{"i": 1}', '{"i": 2}']
    streaming = start("infer", "times", "-m", "slowly", "-e", host.endpoint)
    assert streaming.line() == '"first"'
    assert streaming.interrupt() == 130
    assert host.client().get_model("times").state == "READY"


def test_what_goes_wrong_says_why(on_host, model, path, tmp_path):
    done = on_host("infer", "times", "1", "-m", "boom")
    assert (done.exit_code, done.stdout) == (1, "")
    for words in ('raise ValueError("no such digit")', "error: ", "[UNKNOWN]", "hostd logs times"):
        assert words in done.stderr
    done = on_host("infer", "times", "1", "-m", "predikt", "--json")
    error = json.loads(done.stderr)["error"]
    assert (done.exit_code, error["status"], "predict" in error["message"]) == (1, "UNIMPLEMENTED", True)
    done = on_host("load", "other", path, "-o", "factor=0")
    assert done.exit_code == 1
    assert "RuntimeError: factor must not be zero" in done.stderr
    done = on_host("logs", "nobody", "-f", COLUMNS="200")
    assert done.exit_code == 1
    assert "no model of this id was ever loaded here" in done.stderr


def test_where_no_host_is_there_the_error_says_how_to_start_one(tmp_path):
    done = hostd_command("ps", "-e", f"ipc://{tmp_path}/client.ipc")
    assert done.returncode == 1
    said = "".join(done.stderr.split())  # lines are folded anywhere in a path
    assert "waited" not in said
    assert f"hostdserve--runtime-dir{tmp_path}" in said
    assert "[UNAVAILABLE]" in said


def test_logs_are_kept_and_followed_over_a_reload_and_a_crash(told, on_host, start, host, model):
    told("infer", "times", "[1]")
    following = start("logs", "times", "-f", "-n", "1", "-e", host.endpoint)
    assert "  called" in following.line()
    told("unload", "times")
    said = on_host("logs", "times").stdout
    assert "made with 10" in said
    assert told("logs", "times", "-n", "1")["lines"][0]["text"] in said.splitlines()[-1]
    assert on_host("logs", "times", "--raw").stdout.endswith("made with 10\ncalled\n")
    (worker,) = told("load", "times", model, "--option", "factor=3")["workers"]
    os.kill(worker["pid"], signal.SIGKILL)
    seen = [following.line().partition("  ")[2] for _ in range(4)]
    assert "ended: unload requested --" in seen[0]
    assert f"pid {worker['pid']}, started: load of {model} requested --" in seen[1]
    assert seen[2] == "made with 3"
    assert f"pid {worker['pid']}, ended: killed by SIGKILL" in seen[3]
    assert following.interrupt() == 130


def test_events_are_followed_until_ctrl_c(start, host, path):
    following = start("events", "times", "--json", "-e", host.endpoint)
    client = host.client()

    def is_seen():
        """Nothing tells when the subscription holds, so something happens until it is seen."""
        client.load_model("times", path)
        client.unload_model("times")
        return following.has_output(within_s=0.05)

    eventually(is_seen, "an event came", within_s=PATIENCE_S)
    client.load_model("times", path)
    event = {"new": ""}
    while event["new"] != "READY":
        event = json.loads(following.line())
        assert event["model_id"] == "times"
    assert following.interrupt() == 130


def test_bench_measures_a_real_model_and_its_id_completes_in_a_shell(told, host, model):
    found = told("bench", "times", "-d", "[1]", "-t", "0.5", "-c", "4")
    assert (found["calls"] >= 4, found["errors"]) == (True, {})
    assert 0 < found["p50_s"] <= found["p99_s"]
    streamed = told("bench", "times", "-d", "3", "-m", "count", "-t", "0.3")
    assert streamed["items"] == 3 * streamed["calls"] > 0
    words = {"COMP_WORDS": "hostd infer ti", "COMP_CWORD": "2", "_HOSTD_COMPLETE": "bash_complete"}
    assert hostd_command(**words, HOSTD_ENDPOINT=host.endpoint).stdout.split() == ["plain,times"]


def test_doctor_finds_the_running_host_and_starts_a_worker_and_calls_it(told, on_host, tmp_path):
    checks = {check["name"]: check["verdict"] for check in told("doctor")["checks"]}
    assert (checks["host"], checks["worker"]) == ("ok", "ok")
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no pyzmq here >&2\nexit 1\n", "ascii")
    python.chmod(0o700)
    done = on_host("doctor", "--json", HOSTD_WORKERS__PYTHON=str(python))
    assert done.exit_code == 1
    (worker,) = (check for check in json.loads(done.stdout)["checks"] if check["name"] == "worker")
    assert worker["verdict"] == "fail"
    assert "no pyzmq here" in worker["found"]


@pytest.fixture
def served(start, tmp_path):
    """A host that `hostd serve` started and that has said it is ready."""
    places = ("--state-dir", str(tmp_path / "state"), "--runtime-dir", str(tmp_path / "run"))
    running = start("serve", *places, cwd=tmp_path)
    assert "ready" in running.line()
    return running


def test_serve_runs_until_shutdown_and_leaves_no_socket_and_a_second_one_is_refused(served, tmp_path):
    socket = Path(paths.client_endpoint(tmp_path / "run").removeprefix("ipc://"))
    assert socket.exists()
    second = hostd_command(*served.args)
    assert second.returncode == 1
    assert "already running" in second.stderr
    assert served.process.poll() is None
    assert hostd_command("shutdown", HOSTD_RUNTIME_DIR=str(tmp_path / "run")).returncode == 0
    assert served.ended() == 0
    assert not socket.exists()


def test_serve_ends_on_ctrl_c_with_its_models(served, tmp_path):
    (tmp_path / "model.py").write_text(MODEL, "utf-8")
    with hostd.connect(paths.client_endpoint(tmp_path / "run")) as client:
        (worker,) = client.load_model("times", tmp_path / "model.py").info.workers
    assert Path(f"/proc/{worker.pid}").exists()
    assert served.interrupt() == 0
    assert not Path(f"/proc/{worker.pid}").exists()


def test_the_demo_holds_what_it_claims_and_leaves_nothing_behind(tmp_path):
    done = hostd_command("demo", "--json", TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    story = json.loads(done.stdout)
    assert story["problems"] == []
    assert {found["model"] for found in story["comparisons"]} >= {"regression", "forest"}
    for found in story["comparisons"]:
        assert found["accuracy"] == found["accuracy_in_process"] > 0.9
    sizes = {model["id"]: model["size"] for model in story["models"]}
    assert sizes["babbler"] >= 300 * 2**20
    assert all(report["freed_bytes"] > 0 for report in story["unloads"])
    assert story["total_s"] < 45
    assert list(tmp_path.iterdir()) == []


def test_a_demo_that_is_interrupted_ends_at_once_and_leaves_nothing_behind(start, tmp_path):
    demo = start("demo", TMPDIR=str(tmp_path))
    while "answered after" not in demo.line():
        pass
    assert demo.interrupt() == 130
    assert list(tmp_path.iterdir()) == []
