"""Deploys, replacements and undeploys from the command line, into a real host's models directory."""

import functools
import json

from deploy_rig import CODE, await_tidy, entries
from helpers import command as run


def test_a_model_is_deployed_replaced_and_undeployed_from_the_shell(deployer, models, tmp_path):
    command = functools.partial(run, HOSTD_ENDPOINT=deployer.endpoint)
    (tmp_path / "model.py").write_bytes(CODE)
    (tmp_path / "text").write_text("one")
    assert json.loads(command("deploy", "m", str(tmp_path), "--json").stdout)["state"] == "READY"
    refused = command("deploy", "m", str(tmp_path))
    assert refused.returncode == 1
    assert "hint: --replace deploys over it" in refused.stderr
    replaced = command("deploy", "m", str(tmp_path / "model.py"), "--replace", "-o", "text=two")
    assert replaced.returncode == 0, replaced.stderr
    assert deployer.retrieve_model("m").predict() == "two"
    done = command("undeploy", "m", "nobody")
    assert done.returncode == 1
    assert "the files of 1 model are removed: m" in done.stdout
    assert "[NOT_FOUND]" in done.stderr
    await_tidy(models)
    assert entries(models) == []
    assert command("sync").stdout == "nothing has changed\n"
    found = json.loads(command("size", "--estimate", "m", str(tmp_path), "--json").stdout)
    assert found["m"]["bytes"] > 0
