"""Worker processes from spawn to their end, without a supervisor around them; hard ends are in test_process_ends."""

import errno
import os
import select
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers import PATIENCE_S, at_most, descendants, eventually, is_there, line_of, program, state_of, uss_of_tree
from process_rig import FAMILY, members_of_family, output_of

from hostd.core.events import WorkerId
from hostd.shell.memory import process as process_memory
from hostd.shell.memory.tree import sample_tree
from hostd.shell.processes.spawner import WorkerProcess, describe_exit

MIB = 1 << 20


def test_a_worker_leads_a_session_of_its_own_and_inherits_no_descriptor_and_no_signal_setting(spawn):
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
        process = spawn(source, b"")
        assert output_of(process, b"end").decode().splitlines() == ["True", "set() end"]
        opened = {entry.name: os.readlink(entry) for entry in Path(f"/proc/{process.pid}/fd").iterdir()}
        assert os.readlink(f"/proc/self/fd/{write}") not in opened.values()
        assert (opened["0"], opened["1"]) == ("/dev/null", opened["2"])
        assert os.getsid(process.pid) == process.pid
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGUSR1})
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(read)
        os.close(write)


def test_prints_of_a_worker_wait_when_the_log_is_behind(spawn):
    process = spawn("import os\nfor _ in range(64):\n    os.write(1, b'x' * 8192)\nos.write(1, b'end')\n", b"")
    assert len(output_of(process, b"end")) == 64 * 8192 + 3


@pytest.mark.parametrize(
    ("python", "more"),
    [
        *((python, {}) for python in ("/no/such/python", "/etc/passwd", "/")),
        *((sys.executable, more) for more in ({"A": "\ud800x"}, {"A": "a\0b"})),
    ],
    ids=["absent", "no program", "a directory", "surrogate", "null"],
)
def test_what_cannot_be_run_is_an_error_and_leaves_no_descriptor(ours, python, more):
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises((OSError, ValueError), match=None if more else python):
        ours.spawn(WorkerId(1), python, {**os.environ, **more})
    assert len(os.listdir("/proc/self/fd")) == before
    assert descendants() == []


def test_a_worker_without_a_descriptor_is_no_worker_and_no_process(ours, monkeypatch):
    before = len(os.listdir("/proc/self/fd"))

    def refuse(pid):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    with pytest.raises(OSError, match="Too many"):
        ours.spawn(WorkerId(1), sys.executable, dict(os.environ))
    assert descendants() == []
    assert len(os.listdir("/proc/self/fd")) == before
    assert repr(ours) == "<Processes []>"


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
def test_an_end_is_described_without_taking_it_away(ours, spawn, source, words):
    process = spawn(source, b"")
    assert select.select([process.pidfd], [], [], PATIENCE_S)[0]
    for _ in range(2):
        assert describe_exit(process.pidfd).startswith(words)
    kept = os.dup(process.pidfd)
    assert ours.end(process) == (0, 1)
    assert describe_exit(kept) == "", "what is reaped tells nothing"
    os.close(kept)


def test_the_end_is_proven_and_the_memory_is_counted(ours, spawn):
    process = spawn(f"import time\nheld = b'x' * {64 * MIB}\nprint('up', flush=True)\ntime.sleep(3600)\n")
    assert describe_exit(process.pidfd) == ""
    assert str(process.pid) in repr(ours)
    private_bytes = uss_of_tree(process.pid)
    freed_bytes, count = ours.end(process)
    assert not is_there(process.pid), "the process is dead and reaped"
    assert str(process.pid) not in repr(ours)
    assert count == 1
    assert freed_bytes == pytest.approx(private_bytes, abs=MIB)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(process.pidfd)


def test_memory_that_was_measured_just_now_or_cannot_be_measured_is_not_measured_again(ours, spawn, monkeypatch):
    measured, unmeasured = spawn(), spawn()
    sample = sample_tree(measured.pid)
    assert ours.end(measured, sample.memory._replace(held_bytes=7)) == (7, 1)

    def refuse(*_):
        raise PermissionError(errno.EACCES, "not for you")

    monkeypatch.setattr(process_memory, "read_file", refuse)
    assert ours.end(unmeasured) == (0, 1)


@pytest.mark.parametrize("end", [None, signal.SIGSTOP, signal.SIGKILL], ids=["running", "stopped", "dead"])
def test_a_family_ends_with_those_that_fled_whatever_the_worker_is_doing(ours, spawn, end):
    process = spawn(FAMILY, b"")
    members = members_of_family(process)
    if end:
        os.kill(process.pid, end)
        eventually(lambda: state_of(process.pid) in ("T", "Z"), "the signal has come")
    count = ours.end(process)[1]
    assert count >= (5 if end is None else 1)
    assert not [pid for pid in (process.pid, *members) if is_there(pid)]


def test_a_fork_bomb_is_outrun(ours, spawn):
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
    with at_most(PATIENCE_S, "the end of a family that flees"):
        ours.end(process)
    assert descendants() == []


def test_many_spawns_and_ends_at_the_same_time_never_hit_each_other(ours, tmp_path):
    """Each worker lives until its own end, although every end kills all children that nobody knows."""
    python, early = tmp_path / "python", []
    python.write_text("#!/bin/sh\nsleep 3600 & echo up; wait\n")
    python.chmod(0o755)

    def live(number):
        for _ in range(8):
            process = ours.spawn(WorkerId(number), str(python), dict(os.environ))
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


FAR = {"start_new_session": True}
NAP = [sys.executable, "-S", "-c", "import signal; signal.pause()"]
JOIN = "import os, signal, sys\nos.setpgid(0, int(sys.argv[1]))\nprint('up')\nsignal.pause()\n"


def test_no_group_of_our_own_session_is_killed(ours):
    """Whatever is taken for a worker: its group may be that of what started us."""
    with program(JOIN, 0) as leader:
        assert line_of(leader) == "up"
        with program(JOIN, leader.pid) as beside:
            assert line_of(beside) == "up"
            ours.end(WorkerProcess(WorkerId(1), leader.pid, os.pidfd_open(leader.pid), -1))
            beside.terminate()
            assert beside.wait(PATIENCE_S) == -signal.SIGTERM


@pytest.mark.parametrize("how", [{}, FAR], ids=["as usual", "in a session of its own"])
@pytest.mark.parametrize("end", ["is ended", "ends by itself"])
def test_a_subprocess_of_a_finder_is_left_alone_however_a_worker_ends(ours, spawn, how, end):
    process = spawn()
    with ThreadPoolExecutor(1) as finders, finders.submit(subprocess.Popen, NAP, **how).result(PATIENCE_S) as asked:
        if end == "ends by itself":
            os.kill(process.pid, signal.SIGKILL)
            eventually(lambda: state_of(process.pid) == "Z", "it has ended")
        ours.end(process)
        assert asked.poll() is None
        asked.terminate()
        assert asked.wait(PATIENCE_S) == -signal.SIGTERM, "somebody else has reaped it"


def test_what_a_finder_lets_go_is_left_alone_while_workers_are_ended(ours, spawn):
    let_go = "import subprocess, sys; print(subprocess.Popen(sys.argv[1:], stdout=-3, start_new_session=True).pid)"
    ran = subprocess.run([sys.executable, "-S", "-c", let_go, *NAP], stdout=subprocess.PIPE, check=True)
    far = int(ran.stdout)
    try:
        ours.end(spawn())
        assert state_of(far) not in ("", "Z")
    finally:
        os.kill(far, signal.SIGKILL)
        os.waitpid(far, 0)


def test_the_results_of_subprocesses_are_theirs_while_workers_come_and_go(ours, tmp_path):
    # Written before any subprocess begins: what one has open for writing cannot be executed (ETXTBSY).
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nsleep 3600\n")
    python.chmod(0o755)

    def find(how):
        command = ["sh", "-c", "echo found; exit 3"]
        return [subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, **how) for _ in range(40)]

    with ThreadPoolExecutor(2) as finders:
        finding = [finders.submit(find, how) for how in ({}, FAR)]
        while not all(found.done() for found in finding):
            process = ours.spawn(WorkerId(1), str(python), dict(os.environ))
            ours.end(process)
            os.close(process.log_fd)
        ran = [one for found in finding for one in found.result()]
    assert {(one.returncode, one.stdout) for one in ran} == {(3, "found\n")}
