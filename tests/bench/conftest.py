"""The benchmarks are not installed; they are found from the repository."""

import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
if str(REPOSITORY) not in sys.path:
    sys.path.append(str(REPOSITORY))


@pytest.fixture(autouse=True)
def _no_tracker_is_left(no_tracker):
    """Spawned pools start one."""
