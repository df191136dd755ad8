"""Trees that are stopped and go on: all of them, and nobody else."""

import errno
import os
import signal
from pathlib import Path

import pytest
from helpers import descendants, eventually, line_of, program, state_of, stop

from hostd.shell.processes.pausing import StoppedTree

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


def test_a_whole_tree_stops_and_goes_on_but_for_who_was_stopped_before(family):
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
    eventually(lambda: state_of(pids["helper"]) == "Z", "it ends, and nobody who is stopped collects it")


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


def test_a_process_that_is_gone_is_no_error():
    root = program("print('up')")
    root.wait()
    with StoppedTree(root.pid) as tree:
        tree.stop()
        tree.go_on()
    stop(root)
