"""The long runs of `tests/endurance`, for some seconds each."""

import json
import subprocess
import sys

import pytest
from helpers import REPOSITORY

SEED = 7


@pytest.mark.parametrize(
    "command",
    [("chaos", "--seconds", "10"), ("kills", "--count", "6"), ("mutations", "--count", "3000")],
    ids=lambda command: command[0],
)
def test_a_host_endures(command):
    run = [sys.executable, str(REPOSITORY / "tests" / "endurance"), *command, "--seed", str(SEED)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=600, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["seed"] == SEED


def test_other_histories_break_no_rule_either():
    run = [sys.executable, str(REPOSITORY / "tests" / "endurance"), "histories", "--seeds", "60:64"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=600, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["faults"] == 0
