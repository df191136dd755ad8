"""The benchmarks are not installed; they are found from the repository."""

import sys
from multiprocessing import resource_tracker
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
if str(REPOSITORY) not in sys.path:
    sys.path.append(str(REPOSITORY))


@pytest.fixture(autouse=True)
def _no_tracker_is_left():
    """End the process that multiprocessing starts for spawned pools, which other tests would take for a worker's."""
    yield
    resource_tracker._resource_tracker._stop()
