"""SIGKILL of the supervisor, its reaper or the embedding process, at any moment: nothing of the host outlives it.

The models here start daemonised grandchildren, one of which ignores every signal that can be ignored. Moments are drawn
from a seed, so that a failure can be repeated.
"""

import contextlib
import os
import random
import signal
import socket
import subprocess
import threading
from pathlib import Path

import psutil
import pytest
from helpers import (
    FAULTY,
    PATIENCE_S,
    eventually,
    line_of,
    lines_of,
    new_tag,
    program,
    state_of,
    stop,
    tagged,
)

import hostd
from hostd import embed

pytestmark = pytest.mark.usefixtures("way")

OPTIONS = {"stage": "load", "death": "grandchildren"}

WORKLOAD = """
    import sys
    import hostd

    faulty, evidence = sys.argv[1:]
    options = {"stage": "load", "death": "grandchildren", "evidence": evidence}
    host = hostd.Host(workers={"drain_timeout_s": 0.2})
    host.start()
    print("started", host.pid, flush=True)
    try:
        client = host.client()
        while True:
            model = client.load_model("faulty", faulty, options=options)
            print("loaded", flush=True)
            calls = [model.submit.predict(i) for i in range(50)]
            calls.append(model.submit.linger(evidence + ".marker"))
            print("calling", flush=True)
            [call.result() for call in calls[:-1]]
            client.unload_model("faulty")
            print("unloaded", flush=True)
    except hostd.HostError:
        host.stop()
        sys.exit(1)
"""


@pytest.fixture
def evidence(tmp_path):
    return tmp_path / "evidence"


@pytest.fixture
def tag(monkeypatch):
    """A mark that every process of the test's host has in its environment."""
    value = new_tag()
    monkeypatch.setenv("SUDDEN_DEATH", value)
    return value


def everybody(tag, evidence):
    """Return what is alive of the host: by environment, and by what the grandchildren said themselves."""
    known = {int(line) for line in lines_of(Path(f"{evidence}.pids"))}
    return tagged(tag, "SUDDEN_DEATH") | {pid for pid in known if state_of(pid) not in ("", "Z")}


def wait_for(process, seconds):
    """Let a moment pass that ends at once if the process does."""
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(seconds)


def check_nothing_is_left(tag, evidence):
    eventually(lambda: not everybody(tag, evidence), "everything of the host is gone")
    base = Path(os.environ["XDG_RUNTIME_DIR"], "hostd")
    eventually(lambda: not base.exists() or not os.listdir(base), "the runtime directory is removed")


def kill(embedder, supervisor, victim):
    """Kill one of a host's processes; then the program that embeds it gets an error, and ends."""
    if victim == "embedder":
        stop(embedder)
        return
    os.kill(supervisor if victim == "supervisor" else psutil.Process(supervisor).ppid(), signal.SIGKILL)
    with embedder:
        assert embedder.wait(PATIENCE_S) == 1, "the embedding program gets an error, not silence"


@pytest.mark.heavy
@pytest.mark.parametrize("victim", ["embedder that starts one", "embedder", "supervisor", "reaper"])
def test_nothing_outlives_a_kill_at_any_moment(tag, evidence, victim):
    embedder = program(WORKLOAD, FAULTY, evidence)
    supervisor = None if "starts" in victim else int(line_of(embedder).split()[1])
    wait_for(embedder, random.Random(victim).uniform(0, 0.4))
    kill(embedder, supervisor, victim.partition(" ")[0])
    check_nothing_is_left(tag, evidence)


@pytest.mark.parametrize("moment", ["loading", "loaded", "calling", "unloading"])
@pytest.mark.parametrize("victim", ["supervisor", "reaper", "embedder"])
def test_nothing_outlives_a_kill_in_a_given_stage(tag, evidence, victim, moment):
    embedder = program(WORKLOAD, FAULTY, evidence)
    supervisor = int(line_of(embedder).split()[1])
    if moment == "loading":
        eventually(lambda: lines_of(Path(f"{evidence}.pids")), "the load has come to its first grandchild")
    else:
        while line_of(embedder) != {"unloading": "calling"}.get(moment, moment):
            pass
    if moment == "unloading":
        eventually(Path(f"{evidence}.marker").exists, "the call that delays the unload has begun")
    kill(embedder, supervisor, victim)
    check_nothing_is_left(tag, evidence)


@pytest.mark.parametrize("delay_s", [0.0, 0.1, 0.2, 0.3])
def test_nothing_outlives_a_reaper_that_is_killed_while_the_host_starts(tag, evidence, pool, delay_s):
    host = hostd.Host()
    starting = pool.submit(host.start)
    reaper = eventually(lambda: tagged(tag, "SUDDEN_DEATH"), "the reaper is there")
    threading.Event().wait(delay_s)
    for pid in reaper:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    error = starting.exception(PATIENCE_S)
    assert error is None or isinstance(error, hostd.UnavailableError)
    host.stop()
    check_nothing_is_left(tag, evidence)
    with host:  # it can be started again
        assert host.client().list_models() == []


@pytest.mark.parametrize("log", ["closed", "full"])
def test_nothing_outlives_a_reaper_that_is_killed_with_what_reads_what_the_host_says(tag, evidence, log, serve):
    service = serve()
    with hostd.connect(service.endpoint) as client:
        client.load_model("faulty", FAULTY, options={**OPTIONS, "evidence": str(evidence)})
    if log == "closed":
        service.reaper.stderr.close()
    else:
        full = os.open(f"/proc/{service.pid}/fd/2", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with contextlib.suppress(BlockingIOError):
            while os.write(full, b"x" * 4096):
                pass
        os.close(full)
    service.reaper.kill()
    eventually(lambda: not everybody(tag, evidence), "everything of the host is gone")


@pytest.mark.parametrize("reaper_too", [False, True], ids=["supervisor", "and its reaper is killed"])
def test_a_supervisor_that_hangs_is_ended_by_stop(tag, evidence, monkeypatch, reaper_too):
    monkeypatch.setattr(embed, "STOP_TIMEOUT_S", 0.3)
    host = hostd.Host()
    host.start()
    host.client().load_model("faulty", FAULTY, options={**OPTIONS, "evidence": str(evidence)})
    pid, reaper = host.pid, psutil.Process(host.pid).ppid()
    os.kill(pid, signal.SIGSTOP)
    if reaper_too:
        os.kill(reaper, signal.SIGKILL)
    host.stop()
    assert state_of(pid) in ("", "Z")
    left = everybody(tag, evidence)
    assert reaper_too or not left  # with the reaper gone nothing adopts what a frozen supervisor leaves
    for stray in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(stray, signal.SIGKILL)
    check_nothing_is_left(tag, evidence)


def test_a_host_that_cannot_start_leaves_nothing(tag, evidence):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(hostd.FailedPreconditionError, match="in use"):
            hostd.Host(metrics={"port": taken.getsockname()[1]}).start()
    check_nothing_is_left(tag, evidence)
