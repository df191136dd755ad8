"""The host's own log, and all else that people read: JSON where it is asked for, and never "None" or "1 processes"."""

import json
import os
import re
import signal
import subprocess
import sys
from datetime import datetime, timedelta, timezone

import pytest
from helpers import PATIENCE_S, command, eventually

import hostd
from hostd.config.loading import load_config
from hostd.hosts.launch import reaper_command, supervisor_environment

MODEL = """
    import os

    class M:
        def one(self):
            return 1
        def die(self):
            os._exit(3)

    def load(path, fails=False):
        print("hello")
        if fails:
            raise ValueError("not today")
        return M()
"""
SILENT = r"None|\b1 (process|model|worker|call|error|file|item|eviction|unload|load)e?s\b|\b1 (\w+ )?are\b|\(\)"
"""What no text for people may have."""


def lives(client, path):
    """Let happen what can happen to a model."""
    client.load_model("m", path).one()
    client.unload_model("m")
    for options in ({"fails": True}, {"fails": 1}):
        with pytest.raises(hostd.ModelError):
            client.load_model("m", path, options=options, retries=1)
    with pytest.raises(hostd.NotFoundError):
        client.load_model("m", f"{path}/absent")
    with pytest.raises(hostd.UnavailableError):
        client.load_model("m", path).die()
    eventually(lambda: client.get_model("m").state == "FAILED", "the death is noticed")
    with pytest.raises(hostd.HostError):
        client.load_model("without-path", None)


def log_of(service):
    service.reaper.terminate()
    _, log = service.reaper.communicate(timeout=PATIENCE_S)
    return log


def test_no_text_for_people_says_none_or_counts_one_as_many(serve, model_dir):
    path = model_dir(MODEL)
    service = serve(log_level="debug", workers={"retry_backoff_s": 0.001})
    with hostd.connect(service.endpoint) as client:
        lives(client, path)
        client.load_model("other", path)

    asked = ["explain m", "logs m", "logs nobody", "ps", "ps --tree", "size", "top --once", f"plan x {path}"]
    told = [command(*words.split(), "-e", service.endpoint) for words in (*asked, "unload other", "unload m", "ps")]
    shown = [done.stdout + done.stderr for done in told]
    assert "loaded in" in shown[0]
    shown.append(log_of(service))
    assert "model=m worker=1 pid=" in shown[-1]
    found = [line for text in shown for line in text.splitlines() if re.search(SILENT, line)]
    assert found == []


def test_the_log_may_be_json_one_object_a_line(serve, model_dir):
    service = serve(log_format="json", log_level="debug")
    with hostd.connect(service.endpoint) as client:
        pid = client.load_model("team/ü", model_dir(MODEL)).info.workers[0].pid
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: client.get_model("team/ü").state == "FAILED", "the death is noticed")
    told = [json.loads(line) for line in log_of(service).splitlines()]
    assert all({"time", "level", "logger", "message"} <= set(record) for record in told)
    assert all(value is not None for record in told for value in record.values())
    (ready,) = [record for record in told if record["message"].startswith("worker: LOADING -> READY")]
    now = datetime.now(timezone.utc)
    assert now - timedelta(seconds=60) < datetime.fromisoformat(ready["time"].replace("Z", "+00:00")) <= now
    rest = {name: value for name, value in ready.items() if name not in ("time", "message")}
    assert rest == {"level": "INFO", "logger": "hostd.shell.supervisor", "model": "team/ü", "worker": 1, "pid": pid}
    (failed,) = [record for record in told if "READY -> FAILED" in record["message"]]
    assert "killed by SIGKILL" in failed["message"]
    assert "worker" not in failed


def test_a_start_that_fails_and_a_reaper_that_is_killed_are_told_as_json_too(serve, tmp_path):
    running = serve(log_format="json")
    places = {"runtime_dir": running.runtime_dir, "state_dir": tmp_path / "other"}
    environment = supervisor_environment(load_config({**places, "log_format": "json"}))
    refused = subprocess.run(reaper_command(), env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    (last,) = [json.loads(line) for line in refused.stderr.splitlines()][-1:]
    assert "already running" in last["message"]
    assert last["level"] == "CRITICAL"
    os.kill(running.reaper.pid, signal.SIGKILL)
    _, log = running.reaper.communicate(timeout=PATIENCE_S)
    assert "was killed" in [json.loads(line) for line in log.splitlines()][-1]["message"]


def test_warnings_and_errors_that_nobody_handles_are_records(tmp_path):
    source = (
        "import threading, warnings\nfrom hostd.shell import own_log\nown_log.configure('info', 'json')\n"
        "warnings.warn('take care')\n"
        "thread = threading.Thread(target=lambda: 1 / 0)\nthread.start(); thread.join()\n"
        "[][0]\n"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False, cwd=tmp_path)
    warned, thread, main = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.returncode == 1
    assert (warned["level"], "take care" in warned["message"]) == ("WARNING", True)
    assert "ZeroDivisionError" in thread["exception"]
    assert "IndexError" in main["exception"]
