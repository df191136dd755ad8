"""Worker processes from spawn to proof, without a supervisor around them."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers import PATIENCE_S, at_most, descendants, eventually, is_there, state_of, tree_of, uss_of_tree

from hostd.core.events import WorkerId
from hostd.shell import process_memory, processes
from hostd.shell.memory import sample_tree
from hostd.shell.processes import Processes, WorkerProcess, describe_exit

PR_SET_CHILD_SUBREAPER = 36
MIB = 1 << 20

Spawn = Callable[..., WorkerProcess]


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> Iterator[Processes]:
    """Processes of this process, which is a subreaper meanwhile as a supervisor is; it must have no other children."""
    assert descendants() == [], "these tests kill every child of this process that they do not know"
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield Processes()
    libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.fixture
def spawn(ours: Processes, tmp_path: Path) -> Iterator[Spawn]:
    """Start a worker whose interpreter runs `source` instead; what was not ended is ended afterwards."""
    started: list[WorkerProcess] = []

    def start(source: str, **environment: str) -> WorkerProcess:
        program = tmp_path / f"python-{len(started)}"
        program.write_text(f"#!{sys.executable} -S\n" + textwrap.dedent(source))
        program.chmod(0o755)
        number = WorkerId(len(started))
        started.append(ours.spawn(number, str(program), {**os.environ, **environment}))
        return started[-1]

    yield start
    for process in started:
        if is_there(process.pid) and process.pid in descendants():
            ours.end(process)
        os.close(process.log_fd)


def output_of(process: WorkerProcess, until: bytes) -> bytes:
    """Return what a worker has printed when it has printed `until`."""
    data = b""
    while until not in data:
        assert select.select([process.log_fd], [], [], PATIENCE_S)[0], f"only {data!r} was printed"
        read = os.read(process.log_fd, 65536)
        assert read, f"the output ended after {data!r}"
        data += read
    return data


READY_AND_SLEEP = """
    import time
    print("up", flush=True)
    time.sleep(3600)
"""


# Spawning


def test_a_worker_leads_a_session_of_its_own_with_its_output_in_a_pipe(spawn: Spawn) -> None:
    process = spawn(READY_AND_SLEEP)
    assert output_of(process, b"up\n") == b"up\n"
    assert os.getsid(process.pid) == process.pid
    assert os.readlink(f"/proc/{process.pid}/fd/0") == "/dev/null"
    assert os.readlink(f"/proc/{process.pid}/fd/1") == os.readlink(f"/proc/{process.pid}/fd/2")


def test_a_worker_inherits_no_descriptor_and_no_signal_setting(spawn: Spawn) -> None:
    read, write = os.pipe()
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    try:
        source = """
            import os, signal
            numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1)
            print([signal.getsignal(n) for n in numbers] == [signal.SIG_DFL] * 4)
            print(signal.pthread_sigmask(signal.SIG_BLOCK, []), "end", flush=True)
            signal.pause()
        """
        process = spawn(source)
        assert output_of(process, b"end").decode().splitlines() == ["True", "set() end"]
        opened = {os.readlink(entry) for entry in Path(f"/proc/{process.pid}/fd").iterdir()}
        assert os.readlink(f"/proc/self/fd/{write}") not in opened
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGUSR1})
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(read)
        os.close(write)


def test_prints_of_a_worker_wait_when_the_log_is_behind(spawn: Spawn) -> None:
    process = spawn("import os\nfor _ in range(64):\n    os.write(1, b'x' * 8192)\nos.write(1, b'end')\n")
    assert len(output_of(process, b"end")) == 64 * 8192 + 3


@pytest.mark.parametrize("python", ["/no/such/python", "/etc/passwd", "/"])
def test_what_cannot_be_run_is_an_error_and_leaves_no_descriptor(ours: Processes, python: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match=python):
        ours.spawn(WorkerId(1), python, dict(os.environ))
    assert len(os.listdir("/proc/self/fd")) == before
    assert descendants() == []


@pytest.mark.parametrize("environment", [{"A": "\ud800x"}, {"A": "a\0b"}], ids=["surrogate", "null"])
def test_an_environment_that_cannot_be_is_an_error_and_leaves_no_descriptor(
    ours: Processes, environment: dict[str, str]
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises((OSError, ValueError)):
        ours.spawn(WorkerId(1), sys.executable, environment)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_worker_that_ends_at_once_can_still_be_ended(ours: Processes, spawn: Spawn) -> None:
    process = spawn("raise SystemExit(4)\n")
    eventually(lambda: state_of(process.pid) == "Z", "the worker has ended")
    assert describe_exit(process.pidfd) == "exit code 4"
    assert ours.end(process) == (0, 1)
    assert not is_there(process.pid)


# How it ended


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("pass", "exit code 0"),
        ("raise SystemExit(255)", "exit code 255"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV"),
        ("import os\nos.kill(os.getpid(), 40)", "killed by"),
    ],
)
def test_an_end_is_described_without_taking_it_away(ours: Processes, spawn: Spawn, source: str, words: str) -> None:
    process = spawn(source)
    assert select.select([process.pidfd], [], [], PATIENCE_S)[0]
    assert describe_exit(process.pidfd).startswith(words)
    assert describe_exit(process.pidfd).startswith(words)
    ours.end(process)


def test_who_runs_has_not_ended_and_who_is_reaped_tells_nothing(ours: Processes, spawn: Spawn) -> None:
    process = spawn(READY_AND_SLEEP)
    assert describe_exit(process.pidfd) == ""
    kept = os.dup(process.pidfd)
    ours.end(process)
    assert describe_exit(kept) == ""
    os.close(kept)


# Ending


def test_the_end_is_proven_and_the_memory_is_counted(ours: Processes, spawn: Spawn) -> None:
    process = spawn(f"import time\nheld = b'x' * {64 * MIB}\nprint('up', flush=True)\ntime.sleep(3600)\n")
    output_of(process, b"up")
    private_bytes = uss_of_tree(process.pid)
    freed_bytes, count = ours.end(process)
    assert not is_there(process.pid), "the process is dead and reaped"
    assert count == 1
    assert freed_bytes == pytest.approx(private_bytes, abs=MIB)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(process.pidfd)


def test_memory_that_was_measured_just_now_is_not_measured_again(ours: Processes, spawn: Spawn) -> None:
    process = spawn(READY_AND_SLEEP)
    output_of(process, b"up")
    sample = sample_tree(process.pid)
    assert sample is not None
    assert ours.end(process, sample.memory._replace(held_bytes=7)) == (7, 1)


FAMILY = """
    import ctypes, os, signal, sys, time

    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # as the bootstrap does

    def be():
        for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN)
        os.write(1, b"%d\\n" % os.getpid())
        time.sleep(3600)

    def fork(run):
        if os.fork() == 0:
            run()
            os._exit(0)

    def daemonise():
        os.setsid()
        fork(be)

    fork(be)
    fork(daemonise)
    fork(lambda: (fork(be), be()))
    os.write(1, b"up\\n")
    time.sleep(3600)
"""


def test_a_whole_family_ends_with_those_that_fled(ours: Processes, spawn: Spawn) -> None:
    process = spawn(FAMILY)
    said = output_of(process, b"up").decode()
    while said.count("\n") < 5:
        said += output_of(process, b"\n").decode()
    members = {int(line) for line in said.split() if line != "up"}
    assert len(members) == 4
    eventually(lambda: members <= set(descendants(process.pid)), "the daemon has become a child of the worker")
    _, count = ours.end(process)
    assert count >= 5
    assert not [pid for pid in (process.pid, *members) if is_there(pid)]


@pytest.mark.parametrize("state", ["stopped", "dead", "a zombie"])
def test_a_family_ends_whatever_the_worker_is_doing(ours: Processes, spawn: Spawn, state: str) -> None:
    process = spawn(FAMILY)
    said = output_of(process, b"up").decode()
    while said.count("\n") < 5:
        said += output_of(process, b"\n").decode()
    members = {int(line) for line in said.split() if line != "up"}
    eventually(lambda: members <= set(descendants(process.pid)), "the daemon has become a child of the worker")
    os.kill(process.pid, signal.SIGSTOP if state == "stopped" else signal.SIGKILL)
    eventually(lambda: state_of(process.pid) in ("T", "Z"), "the signal has come")
    ours.end(process)
    assert not [pid for pid in (process.pid, *members) if is_there(pid)]


def test_a_fork_bomb_is_outrun(ours: Processes, spawn: Spawn) -> None:
    source = """
        import ctypes, os, time

        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
        print("up", flush=True)
        for _ in range(20):
            if os.fork() == 0:
                for _ in range(400):  # a line of descent that flees by forking, and never has two members for long
                    if os.fork():
                        os._exit(0)
                    os.setsid()
                time.sleep(3600)
        time.sleep(3600)
    """
    process = spawn(source)
    output_of(process, b"up")
    with at_most(PATIENCE_S, "the end of a family that flees"):
        ours.end(process)
    assert descendants() == []


def test_the_workers_of_others_are_left_alone(ours: Processes, spawn: Spawn) -> None:
    first, second = spawn(READY_AND_SLEEP), spawn(READY_AND_SLEEP)
    for process in (first, second):
        output_of(process, b"up")
    assert ours.end(first)[1] == 1
    assert state_of(second.pid) in ("S", "R")
    assert ours.end(second)[1] == 1


def test_many_spawns_and_ends_at_the_same_time_never_hit_each_other(ours: Processes, tmp_path: Path) -> None:
    """Each worker lives until its own end, although every end kills all children that nobody knows."""
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nsleep 3600 & echo up; wait\n")
    program.chmod(0o755)
    early: list[str] = []

    def live(number: int) -> None:
        for _ in range(8):
            process = ours.spawn(WorkerId(number), str(program), dict(os.environ))
            output_of(process, b"up")
            if select.select([process.pidfd], [], [], 0)[0]:
                early.append(describe_exit(process.pidfd))
            ours.end(process)
            os.close(process.log_fd)

    with ThreadPoolExecutor(6) as pool:
        for future in [pool.submit(live, number) for number in range(6)]:
            future.result(PATIENCE_S * 3)
    assert early == []
    assert descendants() == []


def test_a_number_that_is_used_again_is_not_forgotten(
    ours: Processes, spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new worker may get the number of a process that another thread has just reaped, and is still noting."""
    process = spawn(READY_AND_SLEEP)
    output_of(process, b"up")
    reaped = threading.Event()
    real = processes._reap

    def reap(opened: dict[int, int]) -> None:
        real(opened)
        reaped.set()
        spawning.append(pool.submit(ours.spawn, WorkerId(9), sys.executable, dict(os.environ)))

    spawning: list[Future[WorkerProcess]] = []
    monkeypatch.setattr(processes, "_reap", reap)
    monkeypatch.setattr(os, "posix_spawn", lambda *args, **kwargs: process.pid)
    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(os, "pidfd_open", lambda pid: os.open("/dev/null", os.O_RDONLY))
        ours.end(process)
        again = spawning[0].result(PATIENCE_S)
        monkeypatch.undo()
    assert reaped.is_set()
    assert process.pid in ours._own, "the new worker would be killed as nobody's child"
    ours._own.discard(process.pid)
    os.close(again.pidfd)
    os.close(again.log_fd)


def test_a_worker_that_cannot_be_measured_is_ended_all_the_same(
    ours: Processes, spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = spawn(READY_AND_SLEEP)
    output_of(process, b"up")

    def refuse(*_: object) -> bytes:
        raise PermissionError(errno.EACCES, "not for you")

    monkeypatch.setattr(process_memory, "read_file", refuse)
    assert ours.end(process) == (0, 1)


def test_what_is_hard_to_kill_is_waited_for_and_named(
    ours: Processes, spawn: Spawn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    process = spawn(READY_AND_SLEEP)
    output_of(process, b"up")
    monkeypatch.setattr(processes, "_STILL_WAITING_S", 0.02)
    real, killed = processes._signal, threading.Event()

    def delay(pidfd: int, number: signal.Signals) -> None:
        if number is signal.SIGKILL:
            killed.set()
        else:
            real(pidfd, number)

    monkeypatch.setattr(processes, "_signal", delay)
    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(ours.end, process)
        assert killed.wait(PATIENCE_S)
        eventually(lambda: str(process.pid) in caplog.text, "the log names what is waited for")
        assert not ending.done(), "the end was reported without the proof"
        real(process.pidfd, signal.SIGKILL)
        assert ending.result(PATIENCE_S)[1] == 1


def test_its_repr_shows_its_processes(ours: Processes, spawn: Spawn) -> None:
    process = spawn(READY_AND_SLEEP)
    assert str(process.pid) in repr(ours)
    ours.end(process)
    assert str(process.pid) not in repr(ours)
    assert len(tree_of(os.getpid())) == 1
