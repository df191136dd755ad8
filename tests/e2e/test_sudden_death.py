"""SIGKILL of the supervisor, its reaper or the embedding process, at any moment: nothing of the host outlives it.

The models here start daemonised grandchildren, one of which ignores every signal that can be ignored. Moments are drawn
from a seed, so that a failure can be repeated.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers import (
    FAULTY,
    PATIENCE_S,
    Service,
    eventually,
    is_there,
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

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GONE_WITHIN_S = 10.0
"""One second is promised; a busy machine with two cores gets nine more, and the record shows what it was."""

WORKLOAD = """
    import sys
    import hostd

    faulty, evidence = sys.argv[1:]
    options = {"stage": "load", "death": "grandchildren", "evidence": evidence}
    host = hostd.Host(workers={"drain_timeout_s": 0.2})
    host.start()
    print("started", host.pid, flush=True)
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
"""


@pytest.fixture
def evidence(tmp_path: Path) -> Path:
    return tmp_path / "evidence"


@pytest.fixture
def tag(monkeypatch: pytest.MonkeyPatch) -> str:
    """A mark that every process of the test's host has in its environment."""
    value = new_tag()
    monkeypatch.setenv("SUDDEN_DEATH", value)
    return value


def everybody(tag: str, evidence: Path) -> set[int]:
    """Return what is alive of the host: by environment, and by what the grandchildren said themselves."""
    known = {int(line) for line in lines_of(Path(f"{evidence}.pids"))}
    return tagged(tag, "SUDDEN_DEATH") | {pid for pid in known if state_of(pid) not in ("", "Z")}


def runtime_dirs() -> list[str]:
    base = Path(os.environ["XDG_RUNTIME_DIR"], "hostd")
    return sorted(entry.name for entry in base.iterdir()) if base.exists() else []


def wait_for(process: subprocess.Popen, seconds: float) -> None:
    """Let a moment pass that ends at once if the process does."""
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(seconds)


def check_nothing_is_left(tag: str, evidence: Path, record: Callable[[str, object], None]) -> None:
    began_s = time.monotonic()
    eventually(lambda: not everybody(tag, evidence), "everything of the host is gone", within_s=GONE_WITHIN_S)
    record("gone_after_s", round(time.monotonic() - began_s, 3))


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(6))
def test_nothing_outlives_an_embedding_process_that_is_killed(
    tag: str, evidence: Path, seed: int, record_property: Callable[[str, object], None]
) -> None:
    chance = random.Random(seed)
    embedder = program(WORKLOAD, FAULTY, evidence)
    if seed:  # the first is killed while it starts
        line_of(embedder)
    wait_for(embedder, chance.uniform(0, 0.6 if seed else 0.3))
    stop(embedder)
    check_nothing_is_left(tag, evidence, record_property)
    eventually(lambda: runtime_dirs() == [], "the runtime directory is removed", within_s=GONE_WITHIN_S)


@pytest.mark.parametrize("moment", ["loading", "loaded", "calling", "unloading"])
@pytest.mark.parametrize("victim", ["supervisor", "embedder"])
def test_nothing_outlives_a_kill_in_a_given_stage(
    tag: str, evidence: Path, victim: str, moment: str, record_property: Callable[[str, object], None]
) -> None:
    embedder = program(WORKLOAD, FAULTY, evidence)
    pid = int(line_of(embedder).split()[1])
    if moment == "loading":
        eventually(lambda: lines_of(Path(f"{evidence}.pids")), "the load has come to its first grandchild")
    else:
        while line_of(embedder) != {"unloading": "calling"}.get(moment, moment):
            pass
    if moment == "unloading":
        eventually(Path(f"{evidence}.marker").exists, "the call that delays the unload has begun")
    os.kill(pid if victim == "supervisor" else embedder.pid, signal.SIGKILL)
    if victim == "supervisor":
        with embedder:
            assert embedder.wait(PATIENCE_S) == 1, "the embedding program gets an error, not silence"
    else:
        stop(embedder)
    check_nothing_is_left(tag, evidence, record_property)
    eventually(lambda: runtime_dirs() == [], "the runtime directory is removed", within_s=GONE_WITHIN_S)


def work_for_ever(host: hostd.Host, evidence: Path) -> None:
    """Load, call and unload until the host is gone."""
    options = {"stage": "load", "death": "grandchildren", "evidence": str(evidence)}
    try:
        client = host.client(connect_timeout_s=0.2)
        while True:
            model = client.load_model("faulty", FAULTY, options=options, timeout_s=PATIENCE_S)
            model.predict(1)
            client.unload_model("faulty")
    except hostd.HostError:
        return


@pytest.fixture
def busy(tag: str, evidence: Path) -> Iterator[hostd.Host]:
    """A host that loads and unloads all the time."""
    host = hostd.Host(workers={"drain_timeout_s": 0.2})
    host.start()
    worker = threading.Thread(target=work_for_ever, args=(host, evidence))
    worker.start()
    yield host
    host.stop()
    worker.join(PATIENCE_S)
    assert not worker.is_alive(), "a call got no answer"


@pytest.mark.heavy
@pytest.mark.parametrize("victim", ["supervisor", "reaper"])
@pytest.mark.parametrize("seed", range(5))
def test_nothing_outlives_a_supervisor_or_reaper_that_is_killed(
    busy: hostd.Host,
    tag: str,
    evidence: Path,
    victim: str,
    seed: int,
    record_property: Callable[[str, object], None],
) -> None:
    reaper = busy._process
    assert reaper is not None
    wait_for(reaper, random.Random(seed).uniform(0, 0.4))
    os.kill(busy.pid if victim == "supervisor" else reaper.pid, signal.SIGKILL)
    check_nothing_is_left(tag, evidence, record_property)
    busy.stop()
    assert runtime_dirs() == []


@pytest.mark.parametrize("delay_s", [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3])
def test_nothing_outlives_a_reaper_that_is_killed_while_the_host_starts(
    tag: str, evidence: Path, delay_s: float, record_property: Callable[[str, object], None]
) -> None:
    host = hostd.Host()
    outcome: list[object] = []

    def start() -> None:
        try:
            host.start()
            outcome.append("started")
        except hostd.UnavailableError as error:
            outcome.append(error)

    starting = threading.Thread(target=start)
    starting.start()
    reaper = eventually(lambda: host._process, "the reaper is there")
    try:
        reaper.wait(delay_s)
    except subprocess.TimeoutExpired:
        reaper.send_signal(signal.SIGKILL)
    starting.join(PATIENCE_S)
    assert outcome, "the start neither succeeded nor failed"
    check_nothing_is_left(tag, evidence, record_property)
    host.stop()
    assert runtime_dirs() == []


@pytest.mark.parametrize("log", ["closed", "full"])
def test_nothing_outlives_a_reaper_that_is_killed_with_whoever_reads_what_the_host_says(
    tag: str,
    evidence: Path,
    log: str,
    serve: Callable[..., Service],
    record_property: Callable[[str, object], None],
) -> None:
    service = serve()
    options = {"stage": "load", "death": "grandchildren", "evidence": str(evidence)}
    with hostd.connect(service.endpoint) as client:
        client.load_model("faulty", FAULTY, options=options)
    if log == "closed":
        service.reaper.stderr.close()
    else:
        full = os.open(f"/proc/{service.pid}/fd/2", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with contextlib.suppress(BlockingIOError):
            while os.write(full, b"x" * 4096):
                pass
        os.close(full)
    service.reaper.kill()
    check_nothing_is_left(tag, evidence, record_property)


@pytest.mark.parametrize("reaper_too", [False, True], ids=["supervisor", "and its reaper is killed"])
def test_a_supervisor_that_hangs_is_ended_by_stop(
    tag: str, evidence: Path, monkeypatch: pytest.MonkeyPatch, reaper_too: bool
) -> None:
    monkeypatch.setattr(embed, "STOP_TIMEOUT_S", 0.3)
    host = hostd.Host()
    host.start()
    options = {"stage": "load", "death": "grandchildren", "evidence": str(evidence)}
    host.client().load_model("faulty", FAULTY, options=options)
    os.kill(host.pid, signal.SIGSTOP)
    pid = host.pid
    if reaper_too:
        host._process.kill()
    host.stop()
    assert not is_there(pid) or state_of(pid) == "Z"
    if not reaper_too:  # with the reaper gone nobody adopts what a frozen supervisor leaves
        assert not everybody(tag, evidence)
    for stray in everybody(tag, evidence):
        with contextlib.suppress(ProcessLookupError):
            os.kill(stray, signal.SIGKILL)
    assert runtime_dirs() == []


def test_a_host_that_cannot_start_leaves_nothing(tag: str, evidence: Path, host: hostd.Host) -> None:
    before = everybody(tag, evidence)
    directories = runtime_dirs()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(hostd.FailedPreconditionError, match="in use"):
            hostd.Host(metrics={"port": taken.getsockname()[1]}).start()
    assert everybody(tag, evidence) == before
    assert runtime_dirs() == directories


def test_a_host_that_was_killed_can_be_started_again(tag: str, evidence: Path) -> None:
    host = hostd.Host()
    host.start()
    os.kill(host.pid, signal.SIGKILL)
    eventually(lambda: not everybody(tag, evidence), "everything of the host is gone", within_s=GONE_WITHIN_S)
    host.stop()
    with host:
        assert host.client().list_models() == []
