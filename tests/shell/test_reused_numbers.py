"""Numbers of processes that are given to others while a worker is ended."""

import os
import subprocess
from pathlib import Path

import pytest
from helpers import eventually, is_there
from test_processes import NAP, ours, output_of, spawn

from hostd.shell.memory import tree as memory

LAST = Path("/proc/sys/kernel/ns_last_pid")
"""The next process gets the number after that (proc(5))."""

TRIES = 1000
"""Other programs of the machine take numbers too."""

__all__ = ["ours", "spawn"]

FAMILY = """
    import os, signal
    if os.fork():
        signal.pause()
    child = os.fork()
    if not child:
        signal.pause()
    os.write(1, b"%d up" % child)
    os.waitpid(child, 0)
    signal.pause()
"""


def began(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def started_as(number, after):
    """Start a process with that number, at another tick of the clock: numbers do not come back within one."""
    for _ in range(TRIES):
        LAST.write_text(str(number - 1))
        stranger = subprocess.Popen(NAP)
        if stranger.pid == number and began(number) != after:
            return stranger
        stranger.kill()
        stranger.wait()
    pytest.skip(f"{number} is never given")


@pytest.mark.skipif(not os.access(LAST, os.W_OK), reason="only root may say which number is given next")
def test_who_gets_the_number_of_a_member_that_has_ended_is_left_alone(ours, spawn, monkeypatch):
    """A helper goes on while its worker is stopped, and reaps: a number is anybody's between the list and the kill."""
    process = spawn(FAMILY)
    child = int(output_of(process, b"up").split()[0])
    strangers = []
    measure = memory.private_bytes_of

    def measured(*args):
        if not strangers:
            before = began(child)
            os.kill(child, 9)
            eventually(lambda: not is_there(child), "its parent reaps it")
            strangers.append(started_as(child, before))
        return measure(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(memory, "private_bytes_of", measured)
    ours.end(process)
    try:
        assert strangers[0].poll() is None, "somebody else's process was killed"
    finally:
        strangers[0].kill()
        strangers[0].wait()
