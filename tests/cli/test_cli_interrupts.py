"""Ctrl-C in commands that wait: they end at once and say what goes on in the host, which does."""

import os
import shutil
import signal
import subprocess
import sys

import pytest
from helpers import REPOSITORY, eventually

import hostd

PATIENCE_S = 60.0
SLOW = """
import time
from pathlib import Path

class Model:
    def work(self, marker):
        Path(marker).touch()
        while not Path(marker).with_suffix(".release").exists():
            time.sleep(0.01)

def load(path, release=None):
    while not Path(release or f"{path}/../release").exists():
        time.sleep(0.01)
    return Model()
"""


@pytest.fixture
def host(tmp_path):
    """A host with a models directory in which one model, `there`, loads until `release` exists."""
    models = tmp_path / "models"
    (models / "there").mkdir(parents=True)
    (models / "there" / "model.py").write_text(SLOW)
    shutil.copytree(models / "there", tmp_path / "slow")
    with hostd.Host(models={"dir": models, "load_on_start": False, "write_quiet_period_s": 0}) as running:
        yield running


@pytest.fixture
def interrupted(host):
    def interrupt(is_waiting, *args):
        """Run a command until the host is at it, send what Ctrl-C sends, and return what it said of that."""
        with subprocess.Popen(
            [sys.executable, "-m", "hostd", *args, "-e", host.endpoint],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "500"},
            text=True,
        ) as process:
            try:
                eventually(is_waiting, "the host is at it", within_s=PATIENCE_S)
                process.send_signal(signal.SIGINT)
                _, said = process.communicate(timeout=PATIENCE_S)
            finally:
                process.kill()
        assert process.returncode == 130
        return said.strip()

    return interrupt


@pytest.mark.parametrize(
    ("verb", "says"),
    [
        ("load", "the load of m goes on in the host. hostd events m follows it, hostd unload m ends it"),
        ("deploy", "the files of m are with the host, and its load goes on. hostd events m follows"),
        ("sync", "the loads and unloads that the sync has begun go on in the host: hostd ls shows them"),
    ],
)
def test_an_interrupted_command_says_what_goes_on_which_does(host, interrupted, tmp_path, verb, says):
    client = host.client()
    args = ("sync",) if verb == "sync" else (verb, "m", str(tmp_path / "slow"), "-o", f"release={tmp_path}/r")
    said = interrupted(lambda: [model.state for model in client.list_models()] == ["LOADING"], *args)
    assert said.startswith(f"interrupted: {says}")
    assert said.endswith(says) or "hostd undeploy m ends it" in said
    (tmp_path / "models" / "release" if verb == "sync" else tmp_path / "r").touch()
    assert client.retrieve_model("there" if verb == "sync" else "m", timeout_s=PATIENCE_S).loaded


def test_an_interrupted_load_that_ends_with_its_caller_says_so_and_ends(host, interrupted, tmp_path):
    client = host.client()
    args = ("load", "m", str(tmp_path / "slow"), "-o", f"release={tmp_path}/r", "--cancel-on-timeout")
    said = interrupted(lambda: [model.state for model in client.list_models()] == ["LOADING"], *args)
    assert said == "interrupted: the load of m ends, unless others wait for it"
    eventually(lambda: client.list_models() == [], "the load has ended")


def test_an_interrupted_unload_goes_on_and_an_interrupted_call_may_run_on(host, interrupted, tmp_path):
    client = host.client()
    (tmp_path / "r").touch()
    client.load_model("m", tmp_path / "slow", options={"release": f"{tmp_path}/r"})
    marker = tmp_path / "marker"
    said = interrupted(marker.exists, "infer", "m", "--method", "work", "--text", str(marker))
    assert said.endswith("the call was given up; a plain method runs to its end all the same: hostd explain m shows it")
    eventually(lambda: [call["state"] for call in client.explain_model("m")["calls"]] == ["left"], "the model works on")
    waiting = client.retrieve_model("m").submit.work(str(tmp_path / "other"))
    said = interrupted(lambda: client.get_model("m").state == "UNLOADING", "unload", "m")
    assert "the unload that was begun goes on" in said
    assert said.endswith("hostd unload --now m ends them at once")
    assert client.unload_model("m", now=True).processes == 1
    with pytest.raises(hostd.AbortedError):
        waiting.result()
