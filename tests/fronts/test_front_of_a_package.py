"""Fronts of other packages, by entry points and import paths: the page's own example, and those that do not work."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from front_process_rig import front_of, starting
from helpers import PATIENCE_S, eventually

import hostd

PAGE = Path(hostd.__file__).parent / "docs" / "plugins.md"
EXAMPLE = re.search(r"as `words_front.py`:\n\n```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)[1]
ENTRY_POINTS = """
[hostd.fronts]
words = words_front:serve
broken = broken_front:serve
nothing = words_front:nothing
"""

NOTING = """
import os, pathlib
pathlib.Path(__file__).with_name(f"imported by {os.getpid()}").touch()
"""
STARTED = """
from fastapi import FastAPI
from contextlib import asynccontextmanager
from hostd.fronts.http_server import serve_app

def app(client):
    @asynccontextmanager
    async def lifespan(_):
        __import__("no_such_module") if %s else None
        made.state.client = client
        yield

    made = FastAPI(lifespan=lifespan)

    @made.get("/")
    async def state():
        return (await made.state.client.host_info()).state

    return made

def serve(order, words):
    serve_app(order, words, app)
"""


@pytest.fixture
def fronted(tmp_path, monkeypatch):
    """Start hosts that find a package with fronts."""
    site = tmp_path / "site"
    metadata = site / "words-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: words\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    (site / "words_front.py").write_text(EXAMPLE + NOTING)
    (site / "broken_front.py").write_text("raise RuntimeError('not today')\n")
    monkeypatch.setenv("PYTHONPATH", str(site))
    with starting() as start:
        yield start


def asked(host, name, text="some words", **headers):
    """Return status and JSON of an answer."""
    url = host.client().host_info().fronts[name].replace("tcp://", "http://")
    request = urllib.request.Request(url, text.encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.mark.parametrize("name", ["words", "words_front:serve"])
def test_the_example_of_the_page_serves_and_comes_back(fronted, model_dir, name):
    host = fronted(others={name: 0})
    assert asked(host, name)[0] == 404
    host.client().load_model("words", model_dir())
    assert asked(host, name) == (200, "some words")
    pid = front_of(host)
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: front_of(host) not in (None, pid), "there is another one")
    assert asked(host, name) == (200, "some words")


def test_who_may_is_said_by_the_same_tokens(fronted, model_dir, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("call secret-secret-secret\n")
    tokens.chmod(0o600)
    host = fronted(others={"words": 0}, tokens=str(tokens), anonymous="none")
    host.client().load_model("words", model_dir())
    assert asked(host, "words")[0] == 401
    assert asked(host, "words", Authorization="Bearer secret-secret-secret")[0] == 200


@pytest.mark.parametrize(
    ("others", "error", "words"),
    [
        (
            {"wrods": 0},
            hostd.InvalidArgumentError,
            r"fronts.others.wrods: there is no front 'wrods'; known are .*words",
        ),
        ({"http": 0}, hostd.InvalidArgumentError, "fronts.others.http is none of another package: set fronts.http"),
        ({"words": "0.0.0.0:0"}, hostd.InvalidArgumentError, "which other machines reach: set fronts.tokens"),
        ({"broken": 0}, hostd.FailedPreconditionError, "the broken front does not start: .*not today"),
        ({"nothing": 0}, hostd.FailedPreconditionError, "the nothing front does not start: .*nothing"),
        ({"no_such_module:serve": 0}, hostd.FailedPreconditionError, "does not start: .*no_such_module"),
    ],
)
def test_what_cannot_be_served_says_why(fronted, others, error, words):
    with pytest.raises(error, match=words):
        fronted(others=others)


def test_the_front_alone_imports_it(fronted, tmp_path):
    host = fronted(others={"words": 0})
    assert [found.name for found in (tmp_path / "site").glob("imported by *")] == [f"imported by {front_of(host)}"]


@pytest.mark.parametrize("fails", [False, True])
def test_an_application_may_have_a_beginning_of_its_own(fronted, tmp_path, fails):
    (tmp_path / "site" / "started_front.py").write_text(STARTED % fails)
    if fails:
        with pytest.raises(hostd.FailedPreconditionError, match="its application does not start"):
            fronted(others={"started_front:serve": 0})
        return
    url = fronted(others={"started_front:serve": 0}).client().host_info().fronts["started_front:serve"]
    with urllib.request.urlopen(url.replace("tcp://", "http://"), timeout=PATIENCE_S) as answer:
        assert json.load(answer) == "READY"


def test_one_that_ends_again_and_again_is_a_trouble_of_the_host(fronted):
    host = fronted(others={"words": 0})

    def kill():
        pid = front_of(host)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        return host.client().host_info().degraded

    (trouble,) = eventually(kill, "it is told")
    assert trouble.startswith("the words front ends again and again: killed by SIGKILL")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("x", "HOSTD_FRONTS__OTHERS: is a section, so its value must be JSON; set .* HOSTD_FRONTS__OTHERS__NAME="),
        ('{"words": []}', r"fronts.others.words \(from HOSTD_FRONTS__OTHERS\)"),
        ("5", r"HOSTD_FRONTS__OTHERS"),
    ],
)
def test_a_variable_that_is_wrong_says_how_it_is_written(value, words):
    command = [sys.executable, "-m", "hostd", "config", "show"]
    environment = {**os.environ, "HOSTD_FRONTS__OTHERS": value}
    run = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, env=environment)
    assert re.search(words, run.stderr), run.stderr
    assert "Traceback" not in run.stderr


def test_the_command_line_has_an_option_for_it():
    command = [sys.executable, "-m", "hostd", "config", "show", "--json", "--front", "words_front:serve=9000"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert run.returncode == 0, run.stderr
    assert "words_front:serve" in run.stdout
    wrong = subprocess.run([*command[:-1], "words"], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert "'words' is not NAME=ADDRESS, such as myfront=127.0.0.1:9000" in wrong.stderr
