"""The long runs of `tests/endurance`, for some seconds each."""

import json
import subprocess
import sys

import pytest
from helpers import REPOSITORY

SEED = 7
RUNS = {
    "chaos": ("--seconds", "10", "--seed", str(SEED)),
    "kills": ("--count", "6", "--seed", str(SEED)),
    "mutations": ("--count", "3000", "--seed", str(SEED)),
    "storm": ("--count", "2000", "--seed", str(SEED)),
    "templates": ("--count", "60", "--seed", str(SEED)),
    "histories": ("--seeds", "60:64"),
}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", RUNS)
def test_a_host_endures(name):
    command = [sys.executable, str(REPOSITORY / "tests" / "endurance"), name, *RUNS[name]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report.get("faults", 0) == 0 if name == "histories" else report["seed"] == SEED
