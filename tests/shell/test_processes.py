"""Worker processes from spawn to proof, without a supervisor around them."""

import ctypes
import errno
import os
import re
import resource
import select
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers import (
    PATIENCE_S,
    at_most,
    descendants,
    eventually,
    is_there,
    line_of,
    program,
    state_of,
    tree_of,
    uss_of_tree,
)

from hostd.core.events import WorkerId
from hostd.shell.memory import process as process_memory
from hostd.shell.memory.tree import sample_tree
from hostd.shell.processes import spawner as processes
from hostd.shell.processes.ending import StillThereError
from hostd.shell.processes.spawner import Processes, WorkerProcess, describe_exit

PR_SET_CHILD_SUBREAPER = 36
MIB = 1 << 20


@pytest.fixture
def ours(monkeypatch):
    """Processes of this process, which is a subreaper meanwhile as a supervisor is; it must have no other children."""
    assert descendants() == [], "these tests kill every child of this process that they do not know"
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield Processes()
    libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.fixture
def spawn(ours, tmp_path):
    """Start a worker whose interpreter runs `source` instead; what was not ended is ended afterwards."""
    started = []

    def start(source, **environment):
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


def output_of(process, until):
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


def test_a_worker_leads_a_session_of_its_own_with_its_output_in_a_pipe(spawn):
    process = spawn(READY_AND_SLEEP)
    assert output_of(process, b"up\n") == b"up\n"
    assert os.getsid(process.pid) == process.pid
    assert os.readlink(f"/proc/{process.pid}/fd/0") == "/dev/null"
    assert os.readlink(f"/proc/{process.pid}/fd/1") == os.readlink(f"/proc/{process.pid}/fd/2")


def test_a_worker_inherits_no_descriptor_and_no_signal_setting(spawn):
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


def test_prints_of_a_worker_wait_when_the_log_is_behind(spawn):
    process = spawn("import os\nfor _ in range(64):\n    os.write(1, b'x' * 8192)\nos.write(1, b'end')\n")
    assert len(output_of(process, b"end")) == 64 * 8192 + 3


@pytest.mark.parametrize("python", ["/no/such/python", "/etc/passwd", "/"])
def test_what_cannot_be_run_is_an_error_and_leaves_no_descriptor(ours, python):
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match=python):
        ours.spawn(WorkerId(1), python, dict(os.environ))
    assert len(os.listdir("/proc/self/fd")) == before
    assert descendants() == []


@pytest.mark.parametrize("environment", [{"A": "\ud800x"}, {"A": "a\0b"}], ids=["surrogate", "null"])
def test_an_environment_that_cannot_be_is_an_error_and_leaves_no_descriptor(ours, environment):
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises((OSError, ValueError)):
        ours.spawn(WorkerId(1), sys.executable, environment)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_worker_that_ends_at_once_can_still_be_ended(ours, spawn):
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
def test_an_end_is_described_without_taking_it_away(ours, spawn, source, words):
    process = spawn(source)
    assert select.select([process.pidfd], [], [], PATIENCE_S)[0]
    assert describe_exit(process.pidfd).startswith(words)
    assert describe_exit(process.pidfd).startswith(words)
    ours.end(process)


def test_who_runs_has_not_ended_and_who_is_reaped_tells_nothing(ours, spawn):
    process = spawn(READY_AND_SLEEP)
    assert describe_exit(process.pidfd) == ""
    kept = os.dup(process.pidfd)
    ours.end(process)
    assert describe_exit(kept) == ""
    os.close(kept)


# Ending


def test_the_end_is_proven_and_the_memory_is_counted(ours, spawn):
    process = spawn(f"import time\nheld = b'x' * {64 * MIB}\nprint('up', flush=True)\ntime.sleep(3600)\n")
    output_of(process, b"up")
    private_bytes = uss_of_tree(process.pid)
    freed_bytes, count = ours.end(process)
    assert not is_there(process.pid), "the process is dead and reaped"
    assert count == 1
    assert freed_bytes == pytest.approx(private_bytes, abs=MIB)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(process.pidfd)


def test_memory_that_was_measured_just_now_is_not_measured_again(ours, spawn):
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


def test_a_whole_family_ends_with_those_that_fled(ours, spawn):
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
def test_a_family_ends_whatever_the_worker_is_doing(ours, spawn, state):
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
    output_of(process, b"up")
    with at_most(PATIENCE_S, "the end of a family that flees"):
        ours.end(process)
    assert descendants() == []


def test_the_workers_of_others_are_left_alone(ours, spawn):
    first, second = spawn(READY_AND_SLEEP), spawn(READY_AND_SLEEP)
    for process in (first, second):
        output_of(process, b"up")
    assert ours.end(first)[1] == 1
    assert state_of(second.pid) in ("S", "R")
    assert ours.end(second)[1] == 1


def test_many_spawns_and_ends_at_the_same_time_never_hit_each_other(ours, tmp_path):
    """Each worker lives until its own end, although every end kills all children that nobody knows."""
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nsleep 3600 & echo up; wait\n")
    program.chmod(0o755)
    early = []

    def live(number):
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


def test_a_number_that_is_used_again_is_not_forgotten(ours, spawn, monkeypatch):
    """A new worker may get the number of a process that another thread has just reaped, and is still noting."""
    process = spawn(READY_AND_SLEEP)
    output_of(process, b"up")
    reaped = threading.Event()
    real = processes.reap

    def reap(pidfd):
        real(pidfd)
        reaped.set()
        spawning.append(pool.submit(ours.spawn, WorkerId(9), sys.executable, dict(os.environ)))

    spawning = []
    monkeypatch.setattr(processes, "reap", reap)
    monkeypatch.setattr(os, "posix_spawn", lambda *args, **kwargs: process.pid)
    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(os, "pidfd_open", lambda pid: os.open("/dev/null", os.O_RDONLY))
        ours.end(process)
        again = spawning[0].result(PATIENCE_S)
        monkeypatch.undo()
    assert reaped.is_set()
    assert process.pid in ours._workers, "the new worker would be killed as nobody's child"
    ours._workers.discard(process.pid)
    os.close(again.pidfd)
    os.close(again.log_fd)


def test_a_worker_that_cannot_be_measured_is_ended_all_the_same(ours, spawn, monkeypatch):
    process = spawn(READY_AND_SLEEP)
    output_of(process, b"up")

    def refuse(*_):
        raise PermissionError(errno.EACCES, "not for you")

    monkeypatch.setattr(process_memory, "read_file", refuse)
    assert ours.end(process) == (0, 1)


def test_what_is_hard_to_kill_is_named_and_its_proof_is_asked_for_again(ours, spawn, monkeypatch):
    process = spawn(READY_AND_SLEEP)
    output_of(process, b"up")
    with monkeypatch.context() as hanging:
        real = signal.pidfd_send_signal
        hanging.setattr(signal, "pidfd_send_signal", lambda fd, number: number is signal.SIGKILL or real(fd, number))
        hanging.setattr(os, "killpg", lambda *_: None)
        for _ in range(2):
            with pytest.raises(StillThereError, match=f"process {process.pid} .* has not ended") as raised:
                ours.end(process, patience_s=0.01)
            assert (raised.value.slow, raised.value.refused) == ([process.pid], [])
            assert is_there(process.pid), "the end was reported without the proof"
    assert ours.end(process)[1] == 1


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


MANY = """
    import ctypes, os, signal

    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    for _ in range(300):
        if os.fork() == 0:
            signal.pause()
    os.write(1, b"up\\n")
    signal.pause()
"""


def test_a_tree_may_have_more_members_than_we_may_have_descriptors(ours, spawn):
    process = spawn(MANY)
    output_of(process, b"up")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 100, hard))
    try:
        assert ours.end(process)[1] == 301
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert descendants() == []


def test_the_end_goes_on_where_the_system_had_no_descriptor(ours, spawn, monkeypatch):
    process = spawn(MANY)
    output_of(process, b"up")
    real, left = os.pidfd_open, iter(range(3))

    def refuse(pid):
        if next(left, None) is None:
            raise OSError(errno.EMFILE, "Too many open files")
        return real(pid)

    with monkeypatch.context() as few:
        few.setattr(os, "pidfd_open", refuse)
        for _ in range(2):
            with pytest.raises(OSError, match="Too many"):
                ours.end(process)
    assert ours.end(process)[1] == 301
    assert descendants() == []


# What may not be ended


UNTOUCHABLE = """
    import os, signal

    if os.fork() == 0:
        {before}
        for number in (signal.SIGHUP, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        os.write(1, b"%d up\\n" % os.getpid())
        signal.pause()
    signal.pause()
"""


@pytest.fixture
def is_untouchable(monkeypatch):
    """The processes to which this one may send no signal, as those of another user; what is here, may be changed."""
    pids = set()
    send, kill_group = signal.pidfd_send_signal, os.killpg

    def refuse(pidfd, number):
        pid = re.search(r"^Pid:\t(-?\d+)$", Path(f"/proc/self/fdinfo/{pidfd}").read_text(), re.MULTILINE)
        assert pid is not None
        if int(pid[1]) in pids:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        send(pidfd, number)

    def refuse_group(group, number):
        if any(os.getpgid(pid) == group for pid in pids):
            raise PermissionError(errno.EPERM, "Operation not permitted")
        kill_group(group, number)

    monkeypatch.setattr(signal, "pidfd_send_signal", refuse)
    monkeypatch.setattr(os, "killpg", refuse_group)
    return pids


def untouchable_of(process):
    return int(output_of(process, b"up").split()[0])


@pytest.mark.parametrize("before", ["pass", "os.setsid()"], ids=["in its session", "in a session of its own"])
def test_what_may_not_be_ended_is_named_and_holds_up_nobody_else(ours, spawn, is_untouchable, before):
    process, other, dead = spawn(UNTOUCHABLE.format(before=before)), spawn(READY_AND_SLEEP), spawn(READY_AND_SLEEP)
    is_untouchable.add(untouchable := untouchable_of(process))
    for one in (other, dead):
        output_of(one, b"up")
    for _ in range(3):
        with pytest.raises(StillThereError, match=f"process {untouchable} .* may not end it") as raised:
            ours.end(process)
        assert raised.value.refused == [untouchable]
    assert not is_there(process.pid), "the rest of the tree is gone"
    os.kill(dead.pid, signal.SIGKILL)
    eventually(lambda: state_of(dead.pid) == "Z", "it has ended by itself")
    assert [ours.end(one)[1] for one in (other, dead)] == [1, 1]
    assert state_of(untouchable) == "S"
    os.kill(untouchable, signal.SIGKILL)
    eventually(lambda: state_of(untouchable) == "Z", "somebody else has ended it")
    assert ours.end(process)[1] == 2
    assert not is_there(untouchable)


def test_a_number_that_was_let_go_is_never_signalled(ours, spawn, is_untouchable, monkeypatch):
    """The worker's descriptor stays open until the proof, so nothing else can get its number meanwhile."""
    process = spawn(UNTOUCHABLE.format(before="pass"))
    is_untouchable.add(untouchable_of(process))
    with pytest.raises(StillThereError):
        ours.end(process)
    assert os.readlink(f"/proc/self/fd/{process.pidfd}") == "anon_inode:[pidfd]"
    is_untouchable.clear()
    ours.end(process)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(process.pidfd)


# What is not what a worker left


FAR = {"start_new_session": True}
NAP = [sys.executable, "-S", "-c", "import signal; signal.pause()"]


JOIN = "import os, signal, sys\nos.setpgid(0, int(sys.argv[1]))\nprint('up')\nsignal.pause()\n"


def test_no_group_of_our_own_session_is_killed(ours):
    """Whatever is taken for a worker: its group may be that of who started us."""
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
    process = spawn(READY_AND_SLEEP)
    output_of(process, b"up")
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
        process = spawn(READY_AND_SLEEP)
        output_of(process, b"up")
        ours.end(process)
        assert state_of(far) not in ("", "Z")
    finally:
        os.kill(far, signal.SIGKILL)
        os.waitpid(far, 0)


def test_the_results_of_subprocesses_are_theirs_while_workers_come_and_go(ours, tmp_path):
    # Written before any subprocess begins: what one has open for writing cannot be executed (ETXTBSY).
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nsleep 3600\n")
    program.chmod(0o755)

    def find(how):
        return [
            subprocess.run(["sh", "-c", "echo found; exit 3"], stdout=subprocess.PIPE, text=True, check=False, **how)
            for _ in range(40)
        ]

    with ThreadPoolExecutor(2) as finders:
        finding = [finders.submit(find, how) for how in ({}, FAR)]
        while not all(found.done() for found in finding):
            process = ours.spawn(WorkerId(1), str(program), dict(os.environ))
            ours.end(process)
            os.close(process.log_fd)
        ran = [one for found in finding for one in found.result()]
    assert {(one.returncode, one.stdout) for one in ran} == {(3, "found\n")}


def test_its_repr_shows_its_processes(ours, spawn):
    process = spawn(READY_AND_SLEEP)
    assert str(process.pid) in repr(ours)
    ours.end(process)
    assert str(process.pid) not in repr(ours)
    assert len(tree_of(os.getpid())) == 1
