"""Deploys, replacements and undeploys from the command line, into a real host's models directory."""

import json
import os
import subprocess
import sys

from deploy_rig import CODE, PLACES, await_tidy, entries
from helpers import REPOSITORY

import hostd


def test_a_model_is_deployed_replaced_and_undeployed_from_the_shell(rig, tmp_path):
    with hostd.Host(models={**PLACES, "dir": rig.path}) as host:
        check(rig.path, tmp_path, host.client())


def check(models, tmp_path, client):
    def command(*words):
        return subprocess.run(
            [sys.executable, "-m", "hostd", *words, "-e", client.endpoint],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

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
