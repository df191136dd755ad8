"""A bare environment, and the command line against a host that answers from memory or against a real one."""

import functools
import json
import os

import pytest
from cli_rig import FakeClient, fake_session, invoke


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("HOSTD_", "_HOSTD"))]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("TERM", "dumb")


@pytest.fixture
def client():
    return FakeClient()


@pytest.fixture
def run(client):
    """Run a command line against the fake host."""
    return functools.partial(invoke, session=functools.partial(fake_session, client))


@pytest.fixture
def on_host(host):
    """Run a command line against the real host of the file."""

    def run(*args, **how):
        return invoke(*args, "-e", host.endpoint, **how)

    return run


@pytest.fixture
def told(on_host):
    """Run a command line that must succeed against the real host, and return its JSON output."""

    def succeed(*args, **how):
        done = on_host(*args, "--json", **how)
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)

    return succeed
