"""The core's tests take a driver that begins with an empty host."""

from __future__ import annotations

import pytest
from driver import Driver


@pytest.fixture
def host() -> Driver:
    return Driver()
