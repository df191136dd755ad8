"""Processes seen and held from outside: their stacks are read, their trees stopped; and what a worker's environment says."""

import errno
import os
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest
from helpers import descendants, eventually, line_of, program, state_of, stop

from hostd.shell.linux import stacks
from hostd.shell.linux.stacks import StacksOffer, read_stacks
from hostd.shell.processes.environment import (
    THREAD_VARIABLES,
    data_limit_bytes,
    oom_score_adj_of_worker,
    worker_environment,
)
from hostd.shell.processes.pausing import StoppedTree
from hostd_workers.wire.errors import FailedPreconditionError

TARGET = """
    import os, signal, sys, threading, time
    from collections import deque
    from itertools import repeat
    from hostd_workers.process.stacks import offer
    fd, number = offer()
    def spins_in_python():
        while True:
            pass
    def hangs_in_c_with_the_lock():
        deque(repeat(1), maxlen=0)
    def sleeps():
        time.sleep(3600)
    def has_threads_that_block_all_signals():
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))
        threads = [threading.Thread(target=sleeps, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
        sleeps()
    def has_closed_the_file():
        os.close(fd)
        sleeps()
    def has_another_file_there():
        os.dup2(os.open(os.devnull, os.O_WRONLY), fd)
        sleeps()
    def has_reset_the_signal():
        signal.signal(number, signal.SIG_DFL)
        sleeps()
    def recurses(n=60):
        return recurses(n - 1) if n else sleeps()
    print(fd, number)
    globals()[sys.argv[1]]()
"""


@pytest.fixture
def begin():
    """Start a process that does one thing, and return it with a pidfd and its offer."""
    with ExitStack() as stack:

        def start(what):
            process = program(TARGET, what)
            stack.callback(stop, process)
            offer = StacksOffer(*map(int, line_of(process).split()))
            pidfd = os.pidfd_open(process.pid)
            stack.callback(os.close, pidfd)
            return process, pidfd, offer

        yield start


@pytest.mark.parametrize(
    "what", ["spins_in_python", "hangs_in_c_with_the_lock", "sleeps", "has_threads_that_block_all_signals"]
)
def test_the_stacks_of_whatever_hangs_are_read_again_and_again(begin, what):
    process, pidfd, offer = begin(what)
    sleeping = 4 if "threads" in what else 0

    def is_there(text):  # a thread that comes while they are read, and blocks the signal, cuts them short
        return f"in {what}" in text and text.count(" in sleeps\n") >= sleeping

    eventually(lambda: is_there(read_stacks(process.pid, pidfd, offer)), "it does what it was told to")
    text = read_stacks(process.pid, pidfd, offer)
    assert text.count(f"in {what}") == 1  # each time anew
    assert "cut short" not in text
    if sleeping:
        assert text.count(" in sleeps\n") == sleeping
    assert process.poll() is None


CHANGED = {
    **dict.fromkeys(("has_closed_the_file", "has_another_file_there"), "closed the file"),
    "has_reset_the_signal": "does not handle the signal",
}


@pytest.mark.parametrize("what", CHANGED)
def test_nothing_is_sent_to_a_process_that_has_changed_its_mind(begin, what):
    process, pidfd, offer = begin(what)

    def refusal():
        try:
            return read_stacks(process.pid, pidfd, offer) and ""
        except FailedPreconditionError as error:
            return error.message

    assert f"py-spy dump --pid {process.pid}" in eventually(refusal, "it is refused")
    assert CHANGED[what] in refusal()
    assert process.poll() is None


def test_a_process_that_is_stopped_is_told_to_be_and_goes_on(begin):
    process, pidfd, offer = begin("spins_in_python")
    process.send_signal(signal.SIGSTOP)
    eventually(lambda: state_of(process.pid) == "T", "it is stopped")
    with pytest.raises(FailedPreconditionError, match=r"it took no signal within 0\.1 s: it is T \(stopped\)"):
        read_stacks(process.pid, pidfd, offer, within_s=0.1)
    process.send_signal(signal.SIGCONT)
    file = f"/proc/{process.pid}/fd/{offer.fd}"
    eventually(lambda: os.stat(file).st_size, "it takes the signal that nobody waits for any more")
    eventually(lambda: state_of(process.pid) == "R", "it goes on")
    assert read_stacks(process.pid, pidfd, offer).count("in spins_in_python") == 1


def test_what_is_read_is_bounded(begin, monkeypatch):
    process, pidfd, offer = begin("recurses")
    eventually(lambda: "recurses" in read_stacks(process.pid, pidfd, offer), "it is deep down")
    monkeypatch.setattr(stacks, "MAX_BYTES", 500)
    text = read_stacks(process.pid, pidfd, offer)
    assert text.endswith("… (cut short)\n")
    assert len(text) < 600


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR1, 0, 200])
def test_a_worker_cannot_have_another_signal_sent(begin, number):
    process, pidfd, offer = begin("sleeps")
    with pytest.raises(FailedPreconditionError, match="cannot be read"):
        read_stacks(process.pid, pidfd, offer._replace(signal=number))
    assert process.poll() is None


def test_a_process_that_is_gone_has_no_stacks_and_is_no_error_to_stop(begin):
    process, pidfd, offer = begin("sleeps")
    stop(process)
    with pytest.raises(FailedPreconditionError, match=f"process {process.pid} has just ended"):
        read_stacks(process.pid, pidfd, offer)
    with StoppedTree(process.pid) as tree:
        tree.stop()
        tree.go_on()


FAMILY = """
    import ctypes, os, signal, subprocess, sys, time

    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # a subreaper, as a worker is
    nap = [sys.executable, "-S", "-c", "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"]
    helper = subprocess.Popen(nap)
    daemonise = "import os, subprocess, sys; os.setsid(); print(subprocess.Popen(sys.argv[1:], stdout=-3).pid, flush=True)"
    daemon = int(subprocess.run([sys.executable, "-S", "-c", daemonise, *nap], stdout=-1, check=True).stdout)
    asleep = subprocess.Popen(nap)
    os.kill(asleep.pid, signal.SIGSTOP)
    print(helper.pid, daemon, asleep.pid)
    while True:  # what is forked all the time must not escape
        if not os.fork():
            time.sleep(0.01)
            os._exit(0)
        os.waitpid(-1, os.WNOHANG)
"""


@pytest.fixture
def family():
    """A process with a helper, a daemon, a helper that is stopped already, and children that come and go."""
    root = program(FAMILY)
    pids = dict(zip(("helper", "daemon", "asleep"), map(int, line_of(root).split()), strict=True))
    yield root, pids
    os.kill(root.pid, signal.SIGSTOP)
    for pid in descendants(root.pid):
        os.kill(pid, signal.SIGKILL)
    stop(root)


def test_a_whole_tree_stops_and_goes_on_but_for_what_was_stopped_before(family):
    root, pids = family
    eventually(lambda: state_of(pids["asleep"]) == "T", "it is stopped")
    everybody = {"root": root.pid, **pids}
    with StoppedTree(root.pid) as tree:
        tree.stop()
        eventually(lambda: {state_of(pid) for pid in everybody.values()} == {"T"}, "all are stopped")
        tree.go_on()
        eventually(lambda: state_of(root.pid) in ("R", "S"), "it goes on")
        eventually(lambda: state_of(pids["helper"]) == state_of(pids["daemon"]) == "S", "so do its helpers")
        assert state_of(pids["asleep"]) == "T"


def test_what_is_stopped_and_forgotten_stays_so_and_can_be_killed(family):
    root, pids = family
    with StoppedTree(root.pid) as tree:
        tree.stop()
        assert repr(tree).startswith(f"<StoppedTree of {root.pid}: ")
    eventually(lambda: state_of(root.pid) == "T", "it is stopped")
    os.kill(pids["helper"], signal.SIGKILL)
    eventually(lambda: state_of(pids["helper"]) == "Z", "it ends, and nothing that is stopped collects it")


def test_what_may_not_be_stopped_is_named_and_the_rest_is_stopped(family, monkeypatch):
    root, pids = family
    send = signal.pidfd_send_signal

    def refuse(pidfd, number):
        if f"\nPid:\t{pids['helper']}\n" in Path(f"/proc/self/fdinfo/{pidfd}").read_text():
            raise PermissionError(errno.EPERM, "Operation not permitted")
        send(pidfd, number)

    monkeypatch.setattr(signal, "pidfd_send_signal", refuse)
    with StoppedTree(root.pid) as tree:
        with pytest.raises(PermissionError, match=f"process {pids['helper']} of its tree cannot be stopped"):
            tree.stop()
        eventually(lambda: state_of(root.pid) == state_of(pids["daemon"]) == "T", "the rest is stopped")


GIB = 1 << 30


def environment(base=None, **changes):
    given = {
        "model_id": "m",
        "spec_env": {},
        "token": "00ff",
        "endpoint": "ipc:///w",
        "supervisor_pid": 12,
        "cpu_threads": 3,
        "limit_bytes": None,
        "oom_score_adj": 300,
        "host": "1.12.99",
    }
    return worker_environment(base or {}, **{**given, **changes})


def test_a_worker_is_told_what_it_is_and_what_it_belongs_to():
    made = environment({"PATH": "/bin"}, spec_env={"MODE": "x"})
    assert {name: value for name, value in made.items() if name not in THREAD_VARIABLES} == {
        "PATH": "/bin",
        "MODE": "x",
        "PYTHONUNBUFFERED": "1",
        "HOSTD_MODEL_ID": "m",
        "HOSTD_HOST": "1.12.99",
        "HOSTD_SUPERVISOR_PID": "12",
        "HOSTD_WORKER_ENDPOINT": "ipc:///w",
        "HOSTD_WORKER_TOKEN": "00ff",
        "HOSTD_CPU_THREADS": "3",
        "HOSTD_OOM_SCORE_ADJ": "300",
    }


def test_a_models_settings_cannot_change_what_is_between_host_and_worker():
    forged = dict.fromkeys(environment(limit_bytes=GIB), "forged")
    made = environment(forged, spec_env=forged, limit_bytes=GIB)
    assert {name for name, value in made.items() if value == "forged"} == set(THREAD_VARIABLES)


@pytest.mark.parametrize("where", ["base", "spec_env"])
def test_every_library_gets_the_threads_that_are_allotted_unless_a_number_is_set(where):
    made = environment()
    assert {made[name] for name in (*THREAD_VARIABLES, "HOSTD_CPU_THREADS")} == {"3"}
    given = {"OMP_NUM_THREADS": "8"}
    made = environment(given) if where == "base" else environment(spec_env=given)
    assert (made["OMP_NUM_THREADS"], made["MKL_NUM_THREADS"], made["HOSTD_CPU_THREADS"]) == ("8", "3", "3")
    made = environment({"OMP_NUM_THREADS": "8", "A": "1"}, spec_env={"OMP_NUM_THREADS": "2", "A": "2"})
    assert (made["OMP_NUM_THREADS"], made["A"]) == ("2", "2"), "the model's settings win"


def test_only_a_worker_with_a_limit_has_its_data_limited_and_all_are_killed_sooner_than_the_host():
    assert "HOSTD_DATA_LIMIT_BYTES" not in environment({"HOSTD_DATA_LIMIT_BYTES": "5"})
    assert environment(limit_bytes=GIB)["HOSTD_DATA_LIMIT_BYTES"] == str(3 * GIB)
    assert data_limit_bytes(4096) > GIB, "an interpreter must be able to start and to say that it has too little"
    for own, workers in ((0, 300), (-1000, -700), (200, 500), (900, 1000), (1000, 1000)):
        assert oom_score_adj_of_worker(own) == workers
