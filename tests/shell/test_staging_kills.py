"""Deploys, replacements and undeploys that are killed at every system call, and recoveries that are killed too.

What is checked after each kill is in `kill_points`, which runs as a program of its own.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from helpers import REPOSITORY
from kernels import KERNELS
from kill_points import SCENARIOS

PROGRAM = Path(__file__).with_name("kill_points.py")
FAST = "/dev/shm"
"""Where an fsync costs nothing: order is what is tested here, and thousands of them are made."""

TIMEOUT_S = 300


@pytest.fixture
def place(tmp_path):
    if not os.access(FAST, os.W_OK):
        yield tmp_path
        return
    directory = tempfile.mkdtemp(prefix="hostd-t-", dir=FAST)
    yield Path(directory)
    subprocess.run(["chmod", "-R", "u+rwx", directory], check=True)
    shutil.rmtree(directory)


def kill_points(place, scenario, kernel, *options):
    done = subprocess.run(
        [sys.executable, str(PROGRAM), scenario, kernel, str(place), *options],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_c30_c31_killed_at_any_call_it_is_done_wholly_or_not_at_all(place, scenario, kernel):
    assert kill_points(place, scenario, kernel) >= 30


@pytest.mark.heavy
@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize(
    ("scenario", "kernel"),
    [("deploy", "new"), ("undeploy", "new"), ("replace a closed model", "old"), ("replace, rolled back", "new")],
)
def test_c30_c31_a_recovery_may_be_killed_at_any_call_too(place, scenario, kernel):
    """At one of three calls, each kill before at others; all of them are `kill_points.py SCENARIO KERNEL DIR --recovery`."""
    assert kill_points(place, scenario, kernel, "--recovery", "3") >= 40
