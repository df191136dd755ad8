"""What a host says and does when somebody removes its runtime directory, its lock or its sockets, and what may come then."""

import contextlib
import os
import re
import shutil
from pathlib import Path

import pytest
from helpers import PATIENCE_S, eventually

import hostd
from hostd import paths
from hostd.hosts.launch import AT_ONCE


@pytest.fixture
def served(serve):
    """A host, and a client that was there before anything was taken away."""
    service = serve()
    with hostd.connect(service.endpoint) as client:
        yield service, client


TAKEN = {
    "hostd.lock": "the lock file .*hostd.lock was removed",
    "client.ipc": "the socket .*client.ipc was removed: no new client",
    "workers.ipc": "the socket .*workers.ipc was removed: no new worker",
    "": "the runtime directory .* was removed: no new client finds this host, and no worker",
}


def test_it_notices_and_says_what_to_do(served):
    service, client = served
    assert client.host_info().degraded == ()
    kept, told = service.runtime_dir.with_name("kept"), []
    for what in (*TAKEN, ""):
        (service.runtime_dir / what).rename(kept)
        told += eventually(lambda: client.host_info().degraded, "it is degraded")
        kept.rename(service.runtime_dir / what)
        eventually(lambda: client.host_info().degraded == (), "it is well again")
    for said, words in zip(told, TAKEN.values(), strict=False):
        assert re.match(words, said)
        assert said.endswith(f"Start the host again (kill {service.pid} ends this one)")
    service.reaper.send_signal(AT_ONCE)
    printed = service.reaper.communicate(timeout=PATIENCE_S)[1]
    assert [printed.count(said) for said in told] == [1, 1, 1, 2, 2], "once for each time"
    assert printed.count("is as it should be again") == 5


def test_no_second_host_comes_where_one_listens_that_has_lost_its_lock(served, serve, model_dir, tmp_path):
    service, client = served
    for replace in (False, True):
        (service.runtime_dir / "hostd.lock").unlink()
        if replace:
            (service.runtime_dir / "hostd.lock").touch(0o600)
        second = serve(state_dir=tmp_path / "another")
        assert f"a host (process {service.pid}) is already running in {service.runtime_dir}" in second.said["error"]
        assert second.ended() == 1
    client.load_model("m", model_dir())
    with hostd.connect(service.endpoint) as another:
        assert another.retrieve_model("m").predict(1) == 1


def test_no_second_host_writes_to_the_state_of_one_whose_directory_was_removed(served, serve, tmp_path):
    service, client = served
    shutil.rmtree(service.runtime_dir)
    second = serve()
    assert f"another host (process {service.pid}) keeps its state in {tmp_path / 'state'}" in second.said["error"]
    assert f"kill {service.pid}" in second.said["error"]
    assert second.ended() == 1
    assert client.list_models() == []
    service.reaper.terminate()
    assert service.ended() == 0
    third = serve()
    with hostd.connect(third.endpoint):
        pass


def test_a_shared_host_starts_beside_one_that_has_lost_its_directory_and_says_so(tmp_path):
    name = f"lost-{os.getpid()}"
    directory = paths.runtime_dir(name)
    with contextlib.ExitStack() as first_ends:
        first = first_ends.enter_context(hostd.Host(name, shared=True, log_level="warning"))
        state = Path(first.client().host_info().state_dir)
        first_pid, words = first.pid, f"another host \\(process {first.pid}\\) keeps its state in {state}"
        shutil.rmtree(directory)
        eventually(lambda: "was removed" in (state / "host.log").read_text(), "the first says so")
        with hostd.Host(name, shared=True) as second:
            client = second.client()
            assert second.pid != first_pid
            eventually(lambda: client.host_info().degraded, "the second says that it shares the state")
            assert re.match(words, client.host_info().degraded[0])
            assert "was removed" in (state / "host.log").read_text(), "the log of the first was begun anew"
            first_ends.close()
            eventually(lambda: client.host_info().degraded == (), "it has the state alone")
            with hostd.connect(name) as another:
                assert another.host_info().pid == second.pid, "the first's end took its socket away"
            with hostd.Host(name, shared=True) as third:
                assert third.pid == second.pid, "the first's end took the door away"
