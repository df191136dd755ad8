"""A supervisor for tests that start real workers."""

import shutil
import tempfile
from pathlib import Path

import pytest
from supervisor_rig import Supervisor


@pytest.fixture
def supervisor():
    directory = Path(tempfile.mkdtemp(prefix="hostd-w-"))  # a socket's path must be short
    made = Supervisor(directory)
    yield made
    made.close()
    shutil.rmtree(directory)
