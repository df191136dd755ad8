"""Hosts by their names: wherever one is meant, where none is there, and the list of those that run."""

import asyncio
import json
import os
import secrets
import shutil
import signal
import threading

import pytest
from helpers import SOON_S, at_most, command, eventually, state_of

import hostd
from hostd import paths


@pytest.fixture
def name():
    return f"host-{secrets.token_hex(4)}"


@pytest.fixture
def served(name, serve):
    """A host that is found by its name, as `hostd serve --name` makes it."""
    yield serve(name=name, runtime_dir=paths.runtime_dir(name))
    shutil.rmtree(paths.runtime_dir(name))


def test_a_name_works_wherever_a_host_is_meant(name, served, monkeypatch):
    async def ask():
        async with hostd.AsyncClient(name) as client:
            return (await client.host_info()).pid

    with hostd.connect(name) as client:
        assert client.endpoint == served.endpoint
        assert client.host_info().name == name
    assert asyncio.run(ask()) == served.pid
    for words in (("-e", name, "ps"), ("ps", "-e", name)):
        done = command(*words)
        assert f"host pid {served.pid} " in done.stderr, done.stderr
    monkeypatch.setenv("HOSTD_ENDPOINT", name)
    with hostd.connect() as client:
        assert client.host_info().pid == served.pid
    assert f"host pid {served.pid} " in command("ps", HOSTD_ENDPOINT=name).stderr


def test_where_no_host_is_there_it_is_said_at_once_with_those_that_run(name, served):
    with at_most(SOON_S, "to say so"), pytest.raises(hostd.UnavailableError) as caught:
        hostd.connect(name[:-1] + "_", connect_timeout_s=3600)
    message = caught.value.message
    assert f"no host called '{name[:-1]}_' runs (there is no socket at" in message
    assert f"did you mean {name!r}?" in message
    assert f"hostd serve --name {name[:-1]}_" in message
    assert f"  {name}  {served.endpoint}  process {served.pid}" in message
    listed = {"name": name, "endpoint": served.endpoint, "pid": served.pid, "trouble": None}
    assert listed in caught.value.details["hosts"]
    with pytest.raises(hostd.InvalidArgumentError, match="neither the name of a host"):
        hostd.connect("./two")
    os.kill(served.pid, signal.SIGKILL)
    served.ended()
    with at_most(SOON_S, "to say so"), pytest.raises(hostd.UnavailableError, match=f"called {name!r} runs") as caught:
        hostd.connect(name, connect_timeout_s=3600)
    assert "is stale: the host that made it is gone" in caught.value.message
    done = command("hosts")
    assert f"{name} does not run" in done.stderr
    assert name not in done.stdout


def test_a_host_can_be_waited_for(name, serve):
    found = []

    def look():
        with hostd.connect(name, wait_s=60) as client:
            found.append(client.host_info().pid)

    waiting = threading.Thread(target=look)
    waiting.start()
    service = serve(name=name, runtime_dir=paths.runtime_dir(name))
    waiting.join(60)
    assert found == [service.pid]
    done = command("-e", name, "--wait", "shutdown")
    assert done.returncode == 0, done.stderr
    shutil.rmtree(paths.runtime_dir(name))


def test_hosts_lists_those_that_run_and_whose_they_are(name, served):
    with hostd.Host() as private, hostd.Host(f"{name}-shared", shared=True) as shared:
        os.kill(served.pid, signal.SIGSTOP)
        try:
            eventually(lambda: state_of(served.pid) == "T", "the host is stopped")
            busy = {host["name"]: host for host in json.loads(command("hosts", "--json").stdout)}[name]
        finally:
            os.kill(served.pid, signal.SIGCONT)
        assert busy == {"name": name, "pid": served.pid, "endpoint": served.endpoint, "answers": False}
        found = {host["endpoint"]: host for host in json.loads(command("hosts", "--json").stdout)}
        for host, kind in ((served, "serve"), (private, "embedded"), (shared, "shared")):
            assert (found[host.endpoint]["kind"], found[host.endpoint]["pid"]) == (kind, host.pid)
        for host in found.values():
            with hostd.connect(host["name"]) as client:
                assert client.host_info().endpoint == host["endpoint"]
        rows = [line.split() for line in command("hosts").stdout.splitlines()]
        assert rows[0] == ["NAME", "KIND", "PID", "MODELS", "UP", "ENDPOINT"]
        assert [f"{name}-shared", "shared", str(shared.pid), "0"] in [row[:4] for row in rows]
