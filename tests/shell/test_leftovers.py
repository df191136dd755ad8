"""What hosts left that were killed together with their reapers, and what only looks like it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import PATIENCE_S, is_there, line_of, program

from hostd.shell.linux.marks import mark_of_host
from hostd.shell.processes import leftovers
from hostd.shell.processes.leftovers import end_leftovers

VARIABLE = f"HOSTD_TEST_HOST_{os.getpid()}"
"""Not the real one: hosts that other tests start at the same time would end what is marked with that."""

MINE = mark_of_host()
NAMESPACE, PID, BEGAN = MINE.split(".")
START, _, INODE = NAMESPACE.rpartition("-")


@pytest.fixture(autouse=True)
def variable(monkeypatch):
    monkeypatch.setattr(leftovers, "HOST_VARIABLE", VARIABLE)


@pytest.fixture
def marked():
    made = Marked()
    yield made
    for process in made.processes:
        process.kill()
        process.wait()


class Marked:
    """Starts processes that say whose they are."""

    def __init__(self):
        self.processes = []

    def __call__(self, mark):
        command = [sys.executable, "-S", "-c", "import time; print(flush=True); time.sleep(600)"]
        environment = {**os.environ, VARIABLE: mark}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        self.processes.append(process)
        assert process.stdout is not None
        with process.stdout:
            process.stdout.readline()
        return process


def ended(pid):
    """Return the mark of a host whose process has ended, and began when this one did not."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() if is_there(pid) else []
    return f"{NAMESPACE}.{pid}.{fields[19] if fields else 1}"


def test_what_a_host_left_that_is_no_more_is_ended(marked):
    zombie = subprocess.Popen([sys.executable, "-S", "-c", ""])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)  # its parent may be one that does not wait for it
    left = [marked(ended(zombie.pid)), marked(f"{NAMESPACE}.{PID}.{int(BEGAN) - 1}")]
    assert end_leftovers() == 2
    assert is_there(zombie.pid)
    zombie.wait()
    left.append(marked(ended(zombie.pid)))
    assert end_leftovers() == 1
    for process in left:
        process.wait(PATIENCE_S)


@pytest.mark.parametrize(
    "mark",
    [
        MINE,
        f"{START}-{int(INODE) + 1}.{PID}.1",
        f"{START[::-1]}-{INODE}.{PID}.1",
        f"{NAMESPACE}.{PID}",
        f"{NAMESPACE}.{PID}.x",
        f"{NAMESPACE}.-1.1",
        "",
        "x",
    ],
    ids=[
        "a living host's",
        "of another namespace",
        "of another machine",
        "short",
        "no time",
        "no process",
        "empty",
        "nonsense",
    ],
)
def test_what_may_be_somebodys_is_left_alone(marked, mark):
    process = marked(mark)
    end_leftovers()
    assert process.poll() is None


def test_a_host_that_has_inherited_such_a_mark_ends_neither_itself_nor_whoever_started_it():
    """As one that a batch job starts which a model has submitted."""
    started = program(
        f"""
            import subprocess, sys
            code = (
                "from hostd.shell.processes import leftovers; leftovers.HOST_VARIABLE = {VARIABLE!r}; "
                "leftovers.end_leftovers(); print('there')"
            )
            said = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
            print(said.returncode, said.stdout.strip(), flush=True)
        """,
        **{VARIABLE: f"{NAMESPACE}.{PID}.{int(BEGAN) - 1}"},
    )
    with started:
        assert line_of(started) == "0 there"
