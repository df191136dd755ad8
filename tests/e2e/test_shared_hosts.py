"""`hostd.Host(name, shared=True)`: one host for several processes, gone with the last of them, however each ends."""

import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from helpers import descendants, eventually, is_there, line_of, state_of
from models_rig import Work

import hostd
from hostd import paths
from hostd.hosts import lock as runtime_lock

LONG_S = 60.0
"""For what waits for interpreters to start, on a machine where everybody starts some."""

MEMBER = """
    import json, os, sys, time
    import hostd

    {before}

    def do(words):
        if words == "start":
            host.start()
            return host.pid
        if words == "stop":
            host.stop()
            return "stopped"
        if words == "fork":
            child = os.fork()
            if child == 0:
                time.sleep(3600)
            return child
        if words == "exit":
            sys.exit()
        return host.client().load_model("echo", words).info.workers[0].pid

    host = hostd.Host(sys.argv[1], shared=True, **json.loads(sys.argv[2]))
    print("up")
    for line in sys.stdin:
        try:
            print(do(line.rstrip()))
        except hostd.HostError as error:
            print(type(error).__name__, error)
"""


class Member:
    """A process that uses a shared host and does what it is told; `said` is one line of its output."""

    def __init__(self, name, before="", **settings):
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-uc",
                textwrap.dedent(MEMBER).format(before=textwrap.dedent(before)),
                name,
                json.dumps(settings),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid

    def tell(self, words):
        print(words, file=self.process.stdin, flush=True)

    def said(self):
        return line_of(self.process)

    def does(self, words):
        self.tell(words)
        return self.said()

    def end(self, how):
        """Leave in words, end without a word, or be killed."""
        if how == "stop":
            assert self.does("stop") == "stopped"
            return
        if how == "exit":
            self.tell("exit")
        else:
            self.process.kill()
        self.process.wait(LONG_S)


@pytest.fixture
def name():
    name = f"shared-{secrets.token_hex(4)}"
    yield name
    # A lock file is all that may be there, after a starter was killed before it started anything.
    runtime_lock.remove_if_free(paths.runtime_dir(name))


@pytest.fixture
def member(name):
    """Start members of one host, which are up, or have been told to start it, too."""
    members = []

    def start(before="", **settings):
        members.append(Member(name, before, **settings))
        assert members[-1].said() == "up"
        return members[-1]

    yield start
    for one in members:
        with one.process:
            one.process.kill()


def reaper_of(supervisor):
    return int(Path(f"/proc/{supervisor}/stat").read_text().rpartition(")")[2].split()[1])


def is_gone(name, *pids):
    return not paths.runtime_dir(name).exists() and not any(is_there(pid) for pid in pids)


@pytest.mark.parametrize("ways", [("kill", "exit", "stop"), ("stop", "exit", "kill"), ("exit",) * 3])
def test_processes_that_start_at_once_get_one_host_which_goes_with_the_last_of_them(name, member, model_dir, ways):
    members = [member() for _ in ways]
    for one in members:
        one.tell("start")
    (pid,) = {int(one.said()) for one in members}
    path = model_dir()
    (worker,) = {int(one.does(path)) for one in members}
    assert [descendants(one.pid) for one in members] == [[]] * 3, "a member has a child to reap"
    for one, how in zip(members[:-1], ways, strict=False):
        one.end(how)
        with hostd.connect(paths.client_endpoint(paths.runtime_dir(name))) as client:
            assert client.retrieve_model("echo").predict(1) == 1
            assert client.host_info().pid == pid
    members[-1].end(ways[-1])
    if ways[-1] == "stop":
        assert is_gone(name, pid, worker), "stop returns when nothing is left"
    eventually(lambda: is_gone(name, pid, worker), "the host goes with the last process that uses it", within_s=LONG_S)


STOP = "lambda *_, **__: os.kill(os.getpid(), signal.SIGSTOP)"
BEFORE_THE_REAPER = f"import os, signal, hostd.sharing; hostd.sharing.subprocess.run = {STOP}"
BEFORE_IT_HEARS = f"import os, signal, hostd.sharing; hostd.sharing._sit_down = {STOP}"


@pytest.mark.parametrize("where", [BEFORE_THE_REAPER, BEFORE_IT_HEARS], ids=["before the reaper", "before it hears"])
def test_a_starter_that_is_killed_in_the_middle_leaves_nothing_in_the_way(name, member, where):
    starter, other = member(where), member()
    starter.tell("start")
    eventually(lambda: state_of(starter.pid) == "T", "the starter has the lock", within_s=LONG_S)
    other.tell("start")
    starter.end("kill")
    pid = int(other.said())
    with hostd.connect(paths.client_endpoint(paths.runtime_dir(name))) as client:
        assert client.host_info().pid == pid
    other.end("stop")
    assert is_gone(name, pid)
    alone = member(BEFORE_IT_HEARS)
    alone.tell("start")
    eventually(lambda: state_of(alone.pid) == "T", "the reaper is there", within_s=LONG_S)
    alone.end("kill")
    eventually(lambda: is_gone(name), "the reaper ends what nobody uses", within_s=LONG_S)


SAYS_THAT_IT_WAITS = """
    import types, hostd.sharing
    sleep = lambda seconds: (print("waits"), time.sleep(seconds))
    hostd.sharing.time = types.SimpleNamespace(sleep=sleep, monotonic=time.monotonic)
"""


def test_a_member_that_comes_while_the_host_ends_gets_a_new_one_and_one_that_dies_does_not_keep_it(
    name, member, rig, tmp_path
):
    settings = {"workers": {"drain_timeout_s": 3600}}
    first, second = member(**settings), member(SAYS_THAT_IT_WAITS, **settings)
    pid, door = int(first.does("start")), paths.runtime_dir(name) / paths.DOOR_SOCKET
    with hostd.connect(paths.client_endpoint(paths.runtime_dir(name))) as client:
        work = Work(client.load_model("slow", rig.make()).options(timeout_s=None), tmp_path)
        first.tell("stop")
        eventually(lambda: not door.exists(), "the door is closed")
        second.tell("start")
        assert second.said() == "waits"
        work.finish()  # it ends in good order
    assert first.said() == "stopped"
    assert not is_there(pid)
    while (said := second.said()) == "waits":
        pass
    other_pid = int(said)
    assert other_pid != pid
    with hostd.connect(paths.client_endpoint(paths.runtime_dir(name))) as client:
        Work(client.load_model("slow", rig.make()).options(timeout_s=None), tmp_path)
        second.tell("stop")
        eventually(lambda: not door.exists(), "the door is closed")
        second.end("kill")
        eventually(lambda: is_gone(name, other_pid), "nothing waits for it any more", within_s=LONG_S)


def test_a_host_goes_with_its_processes_whatever_their_children_do_or_hold(name, member):
    starter = member()
    pid, child = int(starter.does("start")), int(starter.does("fork"))
    other = member()
    assert int(other.does("start")) == pid
    starter.end("kill")
    os.kill(child, signal.SIGKILL)
    assert starter.process.stdout.read() == "", "the shared host holds a pipe of its starter"
    child = int(other.does("fork"))
    other.end("kill")
    try:
        eventually(lambda: is_gone(name, pid), "the host goes with its process", within_s=LONG_S)
        assert is_there(child)
    finally:
        os.kill(child, signal.SIGKILL)
    first, second = member(), member()
    old = int(first.does("start"))
    shutil.rmtree(paths.runtime_dir(name))  # as what tidies up /tmp does
    new = int(second.does("start"))
    first.end("kill")
    eventually(lambda: not is_there(old), "the first is gone", within_s=LONG_S)
    with hostd.connect(paths.client_endpoint(paths.runtime_dir(name))) as client:
        assert client.host_info().pid == new, "it has removed its successor's directory"
    served = hostd.Host(name, shared=True)
    with served, hostd.Host(name, shared=True) as again:  # several seats of one process
        assert (served.pid, again.pid) == (new, new)
        assert "shared" in again.client().host_info().kind
    second.end("stop")
    assert is_gone(name, new)


def test_settings_that_differ_from_those_of_the_host_are_named(name, member, monkeypatch):
    first = member(workers={"drain_timeout_s": 7}, memory={"budget": "1GB"})
    pid = int(first.does("start"))
    agrees = member(workers={"drain_timeout_s": 7.0}, memory={"budget": 10**9})
    assert int(agrees.does("start")) == pid
    monkeypatch.setenv("HOSTD_MEMORY__MIN_RESIDENCE_S", "3")
    differs = member(workers={"drain_timeout_s": 8, "load_retries": 0}).does("start")
    assert differs.startswith("FailedPreconditionError")
    assert f"process {pid}" in differs
    assert "workers.drain_timeout_s is 7.0 there and 8.0 here (an argument)" in differs
    assert "memory.min_residence_s is 1.0 there and 3.0 here (HOSTD_MEMORY__MIN_RESIDENCE_S)" in differs
    assert "load_retries" not in differs
    assert "budget" not in differs
    first.end("stop")
    agrees.end("stop")
    assert is_gone(name, pid)


def test_a_host_that_somebody_serves_is_used_and_not_ended(name, member, serve):
    service = serve(name=name, runtime_dir=paths.runtime_dir(name))
    for how in ("stop", "kill"):
        guest = member()
        assert int(guest.does("start")) == service.pid
        guest.end(how)
    other = member(workers={"drain_timeout_s": 8})
    assert "workers.drain_timeout_s" in other.does("start")
    with hostd.connect(service.endpoint) as client:
        assert client.host_info().kind == "serve"
        client.shutdown()
    assert service.ended() == 0
    shutil.rmtree(paths.runtime_dir(name))
    one = member()
    pid = int(one.does("start"))
    refused = serve(name=name, runtime_dir=paths.runtime_dir(name))
    assert f"process {pid}" in refused.said["error"]
    assert refused.ended() == 1
    one.end("stop")
    assert is_gone(name, pid)


def test_a_start_that_fails_is_told_to_all_that_wait_for_it(name, member, tmp_path, monkeypatch):
    members = [member(models={"lazy_load": True}) for _ in range(3)]
    for one in members:
        one.tell("start")
    for one in members:
        assert "FailedPreconditionError the host did not start: models.lazy_load needs" in one.said()
    eventually(lambda: is_gone(name), "nothing is left", within_s=LONG_S)
    with pytest.raises(hostd.InvalidArgumentError, match="needs the name"):
        hostd.Host(shared=True)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOSTD_STATE_DIR", str(tmp_path / "file" / "state"))
    with pytest.raises(hostd.FailedPreconditionError, match=rf"{tmp_path}/file.*HOSTD_STATE_DIR"):
        hostd.Host(name, shared=True).start()
    assert is_gone(name)


@pytest.mark.parametrize("victim", ["supervisor", "reaper"])
def test_a_host_that_is_killed_is_gone_for_all_and_can_be_started_again(name, member, model_dir, victim):
    members = [member() for _ in range(2)]
    pid, _ = [int(one.does("start")) for one in members]
    worker = int(members[0].does(model_dir()))
    supervisor_fd = os.pidfd_open(pid)
    os.kill(pid if victim == "supervisor" else reaper_of(pid), signal.SIGKILL)
    assert select.select([supervisor_fd], [], [], LONG_S)[0], "the supervisor ends"
    os.close(supervisor_fd)
    eventually(lambda: state_of(worker) in ("", "Z"), "its worker ends", within_s=LONG_S)
    members[0].end("stop")
    again = int(members[0].does("start"))
    assert again != pid
    members[1].end("stop")
    assert is_there(again), "a seat in the old one ends the new one"
    members[0].end("stop")
    assert is_gone(name, again)
