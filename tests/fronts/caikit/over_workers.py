"""A plugin for pytest that has caikit's own tests load every model in a process of a host: `pytest -p over_workers`.

Before anything is collected, because caikit's tests make the runtime's manager of models when they are imported.
"""

import os
import sys

import caikit
import pytest

ended = []


def pytest_configure():
    loader = {"type": "HOSTD", "import_class": "hostd.fronts.caikit.loader.Loader"}
    caikit.configure(config_dict={"model_management": {"loaders": {"default": loader}}})


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(exitstatus):
    ended.append(int(exitstatus))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure():
    # A test of theirs that fails leaves a thread behind that keeps the interpreter from ending.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ended[-1] if ended else 1)
