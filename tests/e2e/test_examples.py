"""The examples as they stand, each a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

from helpers import REPOSITORY

import hostd
from hostd import examples

EXAMPLES = Path(examples.__file__).parent
TIMEOUT_S = 100


def run(name, *arguments):
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", f"hostd.examples.{name}", *arguments],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def output_of(name, *arguments):
    done = run(name, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_script_has_a_host_of_its_own():
    greetings, unloaded = output_of("private_host").split("unloaded: ")
    assert greetings.splitlines() == ["Hello, Ada!", "Hello, Grace!", "Hello, Alan!"]
    assert unloaded.startswith("1 process gave ")


def test_a_loader_of_ones_own_is_named_by_the_models_file():
    assert output_of("custom_loader") == "ada comes 3 times\n"


def test_a_client_needs_nothing_of_ours():
    with hostd.Host() as host:
        host.client().load_model("greeter", EXAMPLES / "greeter")
        assert output_of("raw_client", host.endpoint, "greeter", "greet", "Ada") == "Hello, Ada!\n"
        assert "RuntimeError: NotFoundError: " in run("raw_client", host.endpoint, "nobody", "greet").stderr


def test_an_example_is_short():
    assert [file.name for file in EXAMPLES.glob("*.py") if file.read_text("utf-8").count("\n") >= 60] == []
