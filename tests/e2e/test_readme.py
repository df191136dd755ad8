"""The README is true: its set-up commands are there, its tour runs as it stands, its reference is complete."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from hostd.config import HostConfig

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)


def shell_block_with(words: str) -> str:
    (block,) = [code for language, code in BLOCKS if language == "sh" and words in code]
    return block


def test_it_opens_with_exactly_two_set_up_commands():
    commands = [
        line for language, code in BLOCKS if language == "sh" for line in code.splitlines() if "-m venv" in line
    ]

    assert [("hostd demo" in line, "pytest" in line) for line in commands] == [(True, False), (False, True)]


def test_the_configuration_reference_names_every_setting_and_no_other():
    settings = set()
    for name, field in HostConfig.model_fields.items():
        section = getattr(field.annotation, "model_fields", None)
        settings |= {f"{name}.{key}" for key in section} if section else {name}

    table = README[README.index("## Configuration") : README.index("## Speed")]

    assert set(re.findall(r"^\| `([\w.]+)` \|", table, re.MULTILINE)) == settings


@pytest.fixture
def runtime():
    """A short directory: the path of a socket may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="hostd-r-") as directory:
        yield Path(directory)


@pytest.fixture
def serving(tmp_path, runtime):
    """A host that was started as the README says, in a directory of its own."""
    environment = {
        **os.environ,
        "HOSTD_RUNTIME_DIR": str(runtime / "run"),
        "HOSTD_STATE_DIR": str(tmp_path / "state"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "hostd", "serve"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=tmp_path,
    ) as host:
        assert "is ready at" in host.stdout.readline()
        yield environment
        host.terminate()
        host.wait(30)


def test_the_tour_runs_as_it_stands(serving, tmp_path):
    tour = shell_block_with("cat > /tmp/greeter/model.py").replace("/tmp/greeter", str(tmp_path / "greeter"))
    tour = tour.replace(". .venv/bin/activate\n", "set -e\n")
    before, unload = tour.rsplit("hostd unload", 1)
    (python,) = [code for language, code in BLOCKS if language == "python" and "hostd.connect()" in code]
    python = python.replace("/tmp/greeter", str(tmp_path / "greeter"))

    shell = subprocess.run(["bash", "-c", before], env=serving, capture_output=True, text=True, check=False)
    assert shell.returncode == 0, shell.stderr
    assert "Welcome, Ada!" in shell.stdout
    done = subprocess.run(
        ["bash", "-c", "hostd unload" + unload], env=serving, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    script = subprocess.run([sys.executable, "-c", python], env=serving, capture_output=True, text=True, check=False)

    assert script.returncode == 0, script.stderr
