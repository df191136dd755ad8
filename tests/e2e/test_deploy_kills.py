"""A supervisor that is killed at any step of a deploy, a replacement or an undeploy.

Seeded samples of the kills; `python -m benchmarks.kills` does all of them. A system that fails at any step is in
`tests/shell/test_staging_kills.py`.
"""

import os
import random
import signal
import sys

import pytest
from helpers import REPOSITORY

sys.path.append(str(REPOSITORY))

from benchmarks.kills import CONFIRMING, SCENARIOS, After, Host, calls_of, files_of, kill_at, points_of

SAMPLE = 2
"""Kills per scenario, besides those at the confirming write: each takes a start of a host."""


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    host = Host(tmp_path_factory.mktemp("kills"))
    yield host
    host.stop()


@pytest.fixture(autouse=True)
def _started_before(faulty, _nothing_is_left):
    """Every test begins without a host, and ends without one."""
    yield
    faulty.disarm()
    faulty.stop()


@pytest.mark.parametrize("name", SCENARIOS)
def test_c30_a_kill_at_any_step_leaves_a_model_wholly_there_or_wholly_absent(faulty, name):
    scenario = SCENARIOS[name]
    calls = calls_of(faulty, scenario)
    points = random.Random(name).sample(points_of(calls), SAMPLE)
    confirming = [number for number, call in enumerate(calls, 1) if call.startswith(CONFIRMING)]
    points += [(number + after, "KILL") for number in confirming for after in (0, 1)]
    for call, fault in points:
        found = kill_at(faulty, scenario, call, fault)
        assert found is not None, f"a kill at call {call} of {len(calls)} never came"
        if confirming:
            assert found is (After.NEW if call > confirming[0] else After.OLD)


def test_c30_the_kills_cover_each_step_of_a_deploy(faulty):
    """So that what is counted above is what happens: from the journal's first byte to the removal of the staging area."""
    steps = [call.split()[0] for call in calls_of(faulty, SCENARIOS["replace"])]
    assert steps[-1] == "rmdir"
    for step in ("mkdir", "pwrite", "fsync", "fsync_directory", "renameat2", "unlink"):
        assert step in steps
    assert len(steps) > 50


def test_c30_what_was_answered_survives_a_kill_at_once(faulty):
    """The other side: the client kills the host the moment that it has its answer."""

    def kill():
        os.kill(client.host_info().pid, signal.SIGKILL)
        faulty.stop()
        return faulty.start()

    faulty.put(None)
    client = faulty.client or faulty.start()
    for _ in range(2):
        client.deploy_model("mine", files_of("mine"))
        client = kill()
        assert client.retrieve_model("mine").predict() == "mine"
        assert not faulty.has_staging()
        client.undeploy_model("mine")
        client = kill()
        assert [model.id for model in client.list_models()] == ["neighbour"]
        assert faulty.content() == faulty.expected(None)
