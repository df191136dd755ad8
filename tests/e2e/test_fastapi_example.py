"""The FastAPI example as it stands, under uvicorn with two workers."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
from helpers import descendants, eventually, is_there

import hostd
from hostd import paths
from hostd.examples import fastapi_app
from hostd.hosts.listing import running_hosts

LONG_S = 60.0
EXAMPLE = Path(fastapi_app.__file__)


class Web:
    """uvicorn with the example, and what it logs."""

    def __init__(self, log):
        self._log = log
        words = ["-m", "uvicorn", "hostd.examples.fastapi_app:app", "--workers", "2", "--port", "0"]
        with log.open("wb") as errors:
            self.process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=errors)

    def logged(self, pattern, times):
        """Wait until it has logged something so many times."""
        found = re.compile(pattern)

        def look():
            lines = found.findall(self._log.read_text())
            return lines if len(lines) >= times else []

        return eventually(look, f"{times} times {pattern!r} in its log", within_s=LONG_S)

    def get(self, path):
        """Ask over a connection of its own, so that any of its workers may answer."""
        (port,) = set(self.logged(r"running on http://127\.0\.0\.1:(\d+)", 1))
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=LONG_S) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


@pytest.fixture
def web(tmp_path):
    web = Web(tmp_path / "log")
    yield web
    with web.process:
        for pid in (*descendants(web.process.pid), web.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_its_workers_share_one_host_which_outlives_each_and_goes_with_the_last(web):
    assert EXAMPLE.read_text().count("\n") < 60
    web.logged("Application startup complete", 2)
    first, second = map(int, web.logged(r"Started server process \[(\d+)\]", 2))
    assert [host.name for host in running_hosts()] == ["fastapi-app"]
    with hostd.connect("fastapi-app") as client:
        supervisor = client.host_info().pid
        (worker,) = client.get_model("greeter").workers
        assert [web.get("/greet?name=Ada") for _ in range(20)] == [(200, {"greeting": "Hello, Ada!"})] * 20
        for killed in (first, second):
            os.kill(killed, signal.SIGKILL)
            eventually(lambda killed=killed: not is_there(killed), "it is reaped", within_s=LONG_S)
            web.logged("Application startup complete", 3 if killed == first else 4)
            assert web.get("/greet?name=Ada")[0] == 200
        assert client.host_info().pid == supervisor
        assert client.get_model("greeter").workers[0].pid == worker.pid
        client.unload_model("greeter")
        assert web.get("/greet?name=Ada")[0] == 404
    web.process.terminate()
    web.process.wait(LONG_S)
    eventually(lambda: not is_there(supervisor), "the host is gone with the last web worker", within_s=LONG_S)
    assert not paths.runtime_dir("fastapi-app").exists()
