"""A supervisor for tests that start real workers."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from supervisor_rig import Supervisor

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    directory = Path(tempfile.mkdtemp(prefix="hostd-w-"))  # a socket's path must be short
    made = Supervisor(directory)
    yield made
    made.close()
    shutil.rmtree(directory)
