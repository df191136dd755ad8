"""The core's tests take a driver that begins with an empty host."""

from __future__ import annotations

import pytest
from driver import LAZY, Driver
from memory_driver import LAZY_BUDGETED, MemoryDriver


@pytest.fixture
def host() -> Driver:
    return Driver()


@pytest.fixture
def ready(host: Driver) -> Driver:
    """A host with one READY model, `m`."""
    host.up_to("READY")
    return host


@pytest.fixture
def lazy() -> Driver:
    """An empty host with lazy loading."""
    return Driver(LAZY)


@pytest.fixture
def tight() -> MemoryDriver:
    """An empty host with a memory budget of 10,000 bytes."""
    return MemoryDriver()


@pytest.fixture
def lazy_tight() -> MemoryDriver:
    """The same with lazy loading."""
    return MemoryDriver(LAZY_BUDGETED)


@pytest.fixture
def taught(host):
    """A host with templates that has loaded a model which imports `lib`, by template 1, the bare one."""
    host.learn("lib")
    return host
