"""The README is true: its set-up commands are there, its tour runs as it stands, its reference is complete."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

import hostd
from hostd.config.settings import HostConfig

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

    rows = re.findall(r"^\| (`[^|]+`) \|", table, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`([\w.]+)`", row)} == settings


@pytest.fixture
def runtime():
    """A short directory: the path of a socket may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="hostd-r-") as directory:
        yield Path(directory)


@contextlib.contextmanager
def a_host_as_the_readme_says(tmp_path, runtime, *arguments):
    environment = {
        **os.environ,
        "HOSTD_RUNTIME_DIR": str(runtime / "run"),
        "HOSTD_STATE_DIR": str(tmp_path / "state"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "hostd", "serve", *arguments],
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


@pytest.fixture
def serving(tmp_path, runtime):
    """A host in a directory of its own."""
    with a_host_as_the_readme_says(tmp_path, runtime) as environment:
        yield environment


@pytest.fixture
def serving_models(tmp_path, runtime):
    """A host with a models directory."""
    (tmp_path / "models").mkdir()
    (line,) = [line for line in shell_block_with("--models-dir").splitlines() if line.startswith("hostd serve ")]
    arguments = line.replace("/srv/models", str(tmp_path / "models")).split()[2:]
    with a_host_as_the_readme_says(tmp_path, runtime, *arguments) as environment:
        yield environment


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


def file_of(name: str) -> str:
    (code,) = [code for _, code in BLOCKS if code.startswith(f"# {name}\n")]
    return code


def test_the_tutorial_of_plugins_is_short_and_runs_as_it_stands(tmp_path, monkeypatch):
    for name in ("my_plugins.py", "words.py", "hostd.yaml"):
        (tmp_path / name).write_text(file_of(name))
        assert file_of(name).count("\n") < 30
    model = tmp_path / "greetings"
    model.mkdir()
    (model / "words.txt").write_text("Hello Welcome ")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    sections = yaml.safe_load(file_of("hostd.yaml"))

    with hostd.Host(**sections) as host:
        client = host.client()
        assert client.estimate_model_size("greetings", model) == hostd.SizeEstimate(14 // 6 * 120, "estimated")
        words = client.load_model("greetings", model)
        assert (words.knows("hello"), words.knows("Hello")) == (True, False)
        assert words.info.loader == "words:load"


def test_the_deploys_of_the_readme_run_as_they_stand(serving_models, tmp_path):
    (tmp_path / "greeter").mkdir()
    (tmp_path / "greeter" / "model.py").write_text(
        "class Greeter:\n    def greet(self): ...\n\ndef load(path):\n    return Greeter()\n"
    )
    commands = shell_block_with("hostd deploy").replace("/tmp/greeter", str(tmp_path / "greeter"))
    for _ in range(2):  # what is undeployed can be deployed again
        run = subprocess.run(
            ["bash", "-e"], input=commands, env=serving_models, text=True, capture_output=True, check=False
        )
        assert run.returncode == 0, run.stdout + run.stderr
