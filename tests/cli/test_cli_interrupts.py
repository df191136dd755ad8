"""Ctrl-C in commands that wait: they end at once and say what goes on in the host, which does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from helpers import REPOSITORY, eventually

import hostd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

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
def host(tmp_path: Path) -> Iterator[hostd.Host]:
    """A host with a models directory in which one model, `there`, loads until `release` exists."""
    models = tmp_path / "models"
    (models / "there").mkdir(parents=True)
    (models / "there" / "model.py").write_text(SLOW)
    shutil.copytree(models / "there", tmp_path / "slow")
    with hostd.Host(models={"dir": models, "load_on_start": False, "write_quiet_period_s": 0}) as running:
        yield running


def interrupted(is_waiting: Callable[[], object], *args: str) -> str:
    """Run a command until the host is at it, send what Ctrl-C sends, and return what it said of that."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HOSTD_")}
    with subprocess.Popen(
        [sys.executable, "-m", "hostd", *args],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**environment, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "500"},
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


def test_an_interrupted_load_goes_on_and_says_how_to_end_it(host: hostd.Host, tmp_path: Path) -> None:
    client = host.client()
    said = interrupted(
        lambda: [model.state for model in client.list_models()] == ["LOADING"],
        *("load", "m", str(tmp_path / "slow"), "-o", f"release={tmp_path}/r", "-e", host.endpoint),
    )
    assert said == ("interrupted: the load of m goes on in the host. hostd events m follows it, hostd unload m ends it")
    (tmp_path / "r").touch()
    assert client.retrieve_model("m", timeout_s=PATIENCE_S).loaded


def test_an_interrupted_deploy_goes_on_once_its_files_are_there(host: hostd.Host, tmp_path: Path) -> None:
    client = host.client()
    said = interrupted(
        lambda: [model.state for model in client.list_models()] == ["LOADING"],
        *("deploy", "m", str(tmp_path / "slow"), "-o", f"release={tmp_path}/r", "-e", host.endpoint),
    )
    assert said.startswith(
        "interrupted: the files of m are with the host, and its load goes on. hostd events m follows"
    )
    assert "hostd undeploy m ends it" in said
    (tmp_path / "r").touch()
    assert client.retrieve_model("m", timeout_s=PATIENCE_S).loaded


def test_an_interrupted_sync_goes_on(host: hostd.Host, tmp_path: Path) -> None:
    client = host.client()
    said = interrupted(
        lambda: [model.state for model in client.list_models()] == ["LOADING"], "sync", "-e", host.endpoint
    )
    assert said == "interrupted: the loads and unloads that the sync has begun go on in the host: hostd ls shows them"
    (tmp_path / "models" / "release").touch()
    assert client.retrieve_model("there", timeout_s=PATIENCE_S).loaded


def test_an_interrupted_unload_goes_on_and_an_interrupted_call_may_run_on(host: hostd.Host, tmp_path: Path) -> None:
    client = host.client()
    (tmp_path / "r").touch()
    client.load_model("m", tmp_path / "slow", options={"release": f"{tmp_path}/r"})
    marker = tmp_path / "marker"
    said = interrupted(marker.exists, *("infer", "m", "--method", "work", "--text", str(marker), "-e", host.endpoint))
    assert said.endswith("the call was given up; a plain method runs to its end all the same: hostd explain m shows it")
    eventually(lambda: [call["state"] for call in client.explain_model("m")["calls"]] == ["left"], "the model works on")
    waiting = client.retrieve_model("m").submit.work(str(tmp_path / "other"))
    said = interrupted(lambda: client.get_model("m").state == "UNLOADING", "unload", "m", "-e", host.endpoint)
    assert "the unload that was begun goes on" in said
    assert said.endswith("hostd unload --now m ends them at once")
    assert client.unload_model("m", now=True).processes == 1
    with pytest.raises(hostd.AbortedError):
        waiting.result()
