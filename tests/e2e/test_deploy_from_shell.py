"""Deploys, replacements and undeploys from the command line, into a real host's models directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from deploy_rig import CODE, PLACES, await_tidy, emptied, entries
from helpers import REPOSITORY

import hostd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def host(models: Path) -> Iterator[hostd.Host]:
    with hostd.Host(models={**PLACES, "dir": models}) as running:
        yield running


@pytest.fixture
def client(host: hostd.Host, models: Path) -> Iterator[hostd.Client]:
    with emptied(host, models) as made:
        yield made


@pytest.fixture
def command(host: hostd.Host) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*args: str) -> Any:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("HOSTD_")}
        return subprocess.run(
            [sys.executable, "-m", "hostd", *args, "-e", host.endpoint],
            env={**clean, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def test_a_model_is_deployed_replaced_and_undeployed_from_the_shell(
    client: hostd.Client, command: Callable[..., Any], models: Path, tmp_path: Path
) -> None:
    (tmp_path / "model.py").write_bytes(CODE)
    (tmp_path / "text").write_text("one")
    assert json.loads(command("deploy", "m", str(tmp_path), "--json").stdout)["state"] == "READY"
    refused = command("deploy", "m", str(tmp_path))
    assert refused.returncode == 1
    assert "hint: --replace deploys over it" in refused.stderr
    replaced = command("deploy", "m", str(tmp_path / "model.py"), "--replace", "-o", "text=two")
    assert replaced.returncode == 0, replaced.stderr
    assert client.retrieve_model("m").predict() == "two"
    done = command("undeploy", "m", "nobody")
    assert done.returncode == 1
    assert "the files of 1 model are removed: m" in done.stdout
    assert "[NOT_FOUND]" in done.stderr
    await_tidy(models)
    assert entries(models) == []
    assert command("sync").stdout == "nothing has changed\n"
    found = json.loads(command("size", "--estimate", "m", str(tmp_path), "--json").stdout)
    assert found["m"]["bytes"] > 0


def test_a_host_without_a_models_directory_says_how_to_get_one() -> None:
    with hostd.Host() as bare, pytest.raises(hostd.FailedPreconditionError, match="models directory"):
        bare.client().deploy_model("m", {"model.py": CODE})
