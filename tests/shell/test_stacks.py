"""Reading the stacks of a process from outside: a real one that hangs, is stopped, or has changed its mind."""

import os
import signal
from contextlib import ExitStack

import pytest
from helpers import eventually, line_of, program, state_of, stop

from hostd.shell.linux import stacks
from hostd.shell.linux.stacks import StacksOffer, read_stacks
from hostd_workers.wire.errors import FailedPreconditionError

TARGET = """
    import os, signal, sys, threading, time
    from collections import deque
    from itertools import repeat
    from hostd_workers.stacks import offer
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
    eventually(lambda: f"in {what}" in read_stacks(process.pid, pidfd, offer), "it does what it was told to")
    text = read_stacks(process.pid, pidfd, offer)
    assert text.count(f"in {what}") == 1  # each time anew
    assert "cut short" not in text
    if "threads" in what:
        assert text.count(" in sleeps\n") == 4
    assert process.poll() is None


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("has_closed_the_file", "closed the file"),
        ("has_another_file_there", "closed the file"),
        ("has_reset_the_signal", "does not handle the signal"),
    ],
)
def test_nothing_is_sent_to_a_process_that_has_changed_its_mind(begin, what, why):
    process, pidfd, offer = begin(what)

    def refusal():
        try:
            return read_stacks(process.pid, pidfd, offer) and ""
        except FailedPreconditionError as error:
            return error.message

    message = eventually(refusal, "it is refused")
    with pytest.raises(FailedPreconditionError, match=why):
        read_stacks(process.pid, pidfd, offer)
    assert f"py-spy dump --pid {process.pid}" in message
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


def test_a_process_that_is_gone_has_no_stacks(begin):
    process, pidfd, offer = begin("sleeps")
    stop(process)
    with pytest.raises(FailedPreconditionError, match=f"process {process.pid} has just ended"):
        read_stacks(process.pid, pidfd, offer)
