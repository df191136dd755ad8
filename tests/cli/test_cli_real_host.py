"""The command line as a person uses it: a subprocess, a real host, real models."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import hostd
from hostd import paths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPOSITORY = Path(__file__).parents[2]
PATIENCE_S = 30.0
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
def host() -> Iterator[hostd.Host]:
    with hostd.Host() as running:
        yield running


@pytest.fixture
def model(host: hostd.Host, tmp_path: Path) -> Iterator[str]:
    """The path of a python model; what was loaded is unloaded afterwards."""
    (tmp_path / "times").mkdir()
    (tmp_path / "times" / "model.py").write_text(MODEL, "utf-8")
    yield str(tmp_path / "times")
    host.client().unload_all_models()


def environment(**more: str) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HOSTD_")}
    return {**clean, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1", **more}


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "hostd", *args]


def hostd_command(*args: str, stdin: bytes | None = None, **more: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command(*args), input=stdin, capture_output=True, env=environment(**more), timeout=60, check=False
    )


@pytest.fixture
def run(host: hostd.Host) -> Callable[..., Any]:
    """Run a command that must succeed, and return its JSON output."""

    def succeed(*args: str, stdin: bytes | None = None) -> Any:
        done = hostd_command(*args, "--json", "-e", host.endpoint, stdin=stdin)
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)

    return succeed


class Running:
    """A command that goes on: its lines as they come, and its end."""

    def __init__(self, *args: str, cwd: Path | None = None, **more: str) -> None:
        self.args = args
        self.process = subprocess.Popen(
            command(*args), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment(**more), cwd=cwd
        )
        self._read = b""

    def has_output(self, within_s: float) -> bool:
        return bool(self._read) or bool(select.select([self.process.stdout], [], [], within_s)[0])

    def line(self) -> str:
        """Return the next line, or fail loudly."""
        assert self.process.stdout is not None
        while b"\n" not in self._read:
            assert select.select([self.process.stdout], [], [], PATIENCE_S)[0], "no line came in time"
            more = os.read(self.process.stdout.fileno(), 65536)
            assert more, f"it ended with {self.process.wait(PATIENCE_S)} before it said another line"
            self._read += more
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()

    def interrupt(self) -> int:
        """Send what Ctrl-C sends, and return the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.ended()

    def ended(self) -> int:
        return self.process.wait(PATIENCE_S)


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    """Start commands that go on; what still runs at the end of the test is killed."""
    started: list[Running] = []

    def begin(*args: str, cwd: Path | None = None, **more: str) -> Running:
        started.append(Running(*args, cwd=cwd, **more))
        return started[-1]

    yield begin
    for running in started:
        with running.process as process:
            process.kill()


def test_a_model_is_loaded_called_measured_and_unloaded_from_the_shell(run, host, model: str) -> None:
    loaded = run("load", "times", model, "--option", "factor=3")
    assert (loaded["state"], loaded["loader"]) == ("READY", "python")
    assert run("infer", "times", "[1, 2]")["result"] == [3, 6]
    (shown,) = run("ps")
    (worker,) = shown["workers"]
    assert Path(f"/proc/{worker['pid']}").exists()
    assert shown["calls"] == 1
    assert run("size")["times"]["bytes"] > 2**20
    assert run("explain", "times")["state"] == "READY"
    (report,) = run("unload", "times")
    assert report["processes"] >= 1
    assert report["freed_bytes"] > 2**20
    assert not Path(f"/proc/{worker['pid']}").exists()
    assert run("ps") == []


def test_people_see_a_table(run, host, model: str) -> None:
    run("load", "times", model)
    done = hostd_command("ps", "-e", host.endpoint, COLUMNS="80")
    head, row, *_ = done.stdout.decode().splitlines()
    assert head.split() == ["MODEL", "STATE", "PID", "LOADER", "RSS", "USS", "BUDGET", "UP", "CALLS", "USED"]
    assert row.split()[:2] == ["times", "READY"]
    assert "1 model" in done.stderr.decode()


def test_arrays_go_in_and_come_back_as_npy(run, host, model: str, tmp_path: Path) -> None:
    run("load", "times", model)
    array = np.arange(12, dtype="float32").reshape(3, 4)
    np.save(tmp_path / "in.npy", array)
    out = tmp_path / "out.npy"
    run("infer", "times", str(tmp_path / "in.npy"), "-m", "double", "--output", str(out))
    back = np.load(out)
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, array * 2)
    assert run("infer", "times", "[1, 2]", "--array", "-m", "double")["result"] == [2, 4]
    assert run("infer", "times", "-", "-m", "double", stdin=(tmp_path / "in.npy").read_bytes())["result"][0][1] == 2


def test_a_generator_is_streamed(run, host, model: str) -> None:
    run("load", "times", model)
    done = hostd_command("infer", "times", "3", "-m", "count", "-e", host.endpoint)
    assert done.stdout.decode().splitlines() == ['{"i": 0}', '{"i": 1}', '{"i": 2}']


def test_items_are_printed_when_they_come_and_ctrl_c_ends_the_stream(run, start, host, model: str) -> None:
    run("load", "times", model)
    streaming = start("infer", "times", "-m", "slowly", "-e", host.endpoint)
    assert streaming.line() == '"first"'
    assert streaming.interrupt() == 130
    assert host.client().get_model("times").state == "READY"


def test_an_error_of_the_models_code_comes_with_its_traceback(run, host, model: str) -> None:
    run("load", "times", model)
    done = hostd_command("infer", "times", "1", "-m", "boom", "-e", host.endpoint)
    said = done.stderr.decode()
    assert done.returncode == 1
    assert done.stdout == b""
    assert 'raise ValueError("no such digit")' in said
    assert "error: " in said
    assert "[UNKNOWN]" in said
    assert "hostd logs times" in said


def test_a_load_that_fails_says_why(host, model: str) -> None:
    done = hostd_command("load", "times", model, "-o", "factor=0", "-e", host.endpoint)
    assert done.returncode == 1
    assert "RuntimeError: factor must not be zero" in done.stderr.decode()


def test_an_unknown_method_lists_the_known_ones(run, host, model: str) -> None:
    run("load", "times", model)
    done = hostd_command("infer", "times", "1", "-m", "predikt", "--json", "-e", host.endpoint)
    assert done.returncode == 1
    error = json.loads(done.stderr)["error"]
    assert error["status"] == "UNIMPLEMENTED"
    assert "predict" in error["message"]


def test_logs_hold_what_the_model_printed(run, host, model: str) -> None:
    run("load", "times", model)
    run("infer", "times", "[1]")
    run("unload", "times")
    done = hostd_command("logs", "times", "-e", host.endpoint)
    assert "made with 10" in done.stdout.decode()
    assert "called" in done.stdout.decode()
    assert run("logs", "times", "-n", "1")["lines"][0]["text"] in done.stdout.decode().splitlines()[-1]
    assert hostd_command("logs", "times", "--raw", "-e", host.endpoint).stdout.endswith(b"made with 10\ncalled\n")


def test_logs_are_followed_over_a_reload_and_a_crash(run, start, host, model: str) -> None:
    run("load", "times", model)
    following = start("logs", "times", "-f", "-n", "1", "-e", host.endpoint)
    assert "  made with 10" in following.line()
    run("unload", "times")
    loaded = run("load", "times", model, "--option", "factor=3")
    os.kill(loaded["workers"][0]["pid"], signal.SIGKILL)
    seen = [following.line().partition("  ")[2] for _ in range(4)]
    assert "ended: unload requested --" in seen[0]
    assert seen[2] == "made with 3"
    assert f"pid {loaded['workers'][0]['pid']}, started: load of {model} requested --" in seen[1]
    assert f"pid {loaded['workers'][0]['pid']}, ended: killed by SIGKILL" in seen[3]
    assert following.interrupt() == 130


def test_logs_of_an_unknown_model_fail_and_say_so(host) -> None:
    done = hostd_command("logs", "nobody", "-f", "-e", host.endpoint, COLUMNS="200")
    assert done.returncode == 1
    assert "no model of this id was ever loaded here" in done.stderr.decode()


def test_events_are_followed_until_ctrl_c(run, start, host, model: str) -> None:
    following = start("events", "times", "--json", "-e", host.endpoint)
    client = host.client()
    deadline_s = time.monotonic() + PATIENCE_S
    # Nothing tells when the subscription holds, so something happens until it is seen.
    while not following.has_output(within_s=0.05):
        assert time.monotonic() < deadline_s, "no event came in time"
        client.load_model("times", model)
        client.unload_model("times")
    client.load_model("times", model)
    event = {"new": ""}
    while event["new"] != "READY":
        event = json.loads(following.line())
        assert event["model_id"] == "times"
    assert following.interrupt() == 130


def test_bench_measures_a_real_model(run, host, model: str) -> None:
    run("load", "times", model)
    found = run("bench", "times", "-d", "[1]", "-t", "0.5", "-c", "4")
    assert found["calls"] >= 4
    assert found["errors"] == {}
    assert 0 < found["p50_s"] <= found["p99_s"]
    streamed = run("bench", "times", "-d", "3", "-m", "count", "-t", "0.3")
    assert streamed["items"] == 3 * streamed["calls"] > 0


def test_model_ids_complete_in_a_shell(run, host, model: str) -> None:
    run("load", "times", model)
    words = {"COMP_WORDS": "hostd infer ti", "COMP_CWORD": "2", "_HOSTD_COMPLETE": "bash_complete"}
    done = hostd_command(**words, HOSTD_ENDPOINT=host.endpoint)
    assert done.stdout.decode().split() == ["plain,times"]


def test_where_no_host_is_there_the_error_says_how_to_start_one(tmp_path: Path) -> None:
    done = hostd_command("ps", "-e", f"ipc://{tmp_path}/client.ipc")
    assert done.returncode == 1
    said = "".join(done.stderr.decode().split())  # lines are folded anywhere in a path
    assert "waited" not in said
    assert f"hostdserve--runtime-dir{tmp_path}" in said
    assert "[UNAVAILABLE]" in said


def test_doctor_finds_the_running_host(run) -> None:
    assert run("doctor")["checks"][-1]["verdict"] == "ok"


def test_doctor_starts_a_worker_and_calls_it(tmp_path: Path) -> None:
    good = json.loads(hostd_command("doctor", "--json").stdout)
    assert [check["verdict"] for check in good["checks"] if check["name"] == "worker"] == ["ok"]
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no pyzmq here >&2\nexit 1\n", "ascii")
    python.chmod(0o700)
    done = hostd_command("doctor", "--json", HOSTD_WORKERS__PYTHON=str(python))
    assert done.returncode == 1
    (worker,) = (check for check in json.loads(done.stdout)["checks"] if check["name"] == "worker")
    assert worker["verdict"] == "fail"
    assert "no pyzmq here" in worker["found"]


@pytest.fixture
def served(start, tmp_path: Path) -> Running:
    """A host that `hostd serve` started and that has said it is ready."""
    running = start(
        "serve", "--state-dir", str(tmp_path / "state"), "--runtime-dir", str(tmp_path / "run"), cwd=tmp_path
    )
    assert "ready" in running.line()
    return running


def test_serve_runs_until_shutdown_and_leaves_no_socket(served: Running, tmp_path: Path) -> None:
    socket = Path(paths.client_endpoint(tmp_path / "run").removeprefix("ipc://"))
    assert socket.exists()
    assert hostd_command("shutdown", HOSTD_RUNTIME_DIR=str(tmp_path / "run")).returncode == 0
    assert served.ended() == 0
    assert not socket.exists()


def test_serve_ends_on_ctrl_c_with_its_models(served: Running, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(MODEL, "utf-8")
    endpoint = paths.client_endpoint(tmp_path / "run")
    done = hostd_command("load", "times", str(tmp_path / "model.py"), "--json", "-e", endpoint)
    (worker,) = json.loads(done.stdout)["workers"]
    assert Path(f"/proc/{worker['pid']}").exists()
    assert served.interrupt() == 0
    assert not Path(f"/proc/{worker['pid']}").exists()


def test_a_second_serve_in_the_same_directory_is_refused(served: Running) -> None:
    done = hostd_command(*served.args)
    assert done.returncode == 1
    assert "already running" in done.stderr.decode()
    assert served.process.poll() is None


def test_the_demo_holds_what_it_claims_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = hostd_command("demo", "--json", TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
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


def test_a_demo_that_is_interrupted_ends_at_once_and_leaves_nothing_behind(start, tmp_path: Path) -> None:
    demo = start("demo", TMPDIR=str(tmp_path))
    while "answered after" not in demo.line():
        pass
    assert demo.interrupt() == 130
    assert list(tmp_path.iterdir()) == []
