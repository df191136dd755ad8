"""What tests of real processes share: waiting without sleeping, and looking at the machine from outside of the host.

Nothing here asks the host: a test that checks the host's word against the system's needs a second witness.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import subprocess
import sys
import textwrap
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

from hostd.config.loading import load_config
from hostd.hosts.launch import reaper_command, supervisor_environment

T = TypeVar("T")

PATIENCE_S = 60.0
"""How long to wait for what must happen. Only a failing test ever waits that long."""

SOON_S = 10.0
"""The most that something may take that does not wait for anything: it may be in line for a core for a while."""

POLL_S = 0.002

REPOSITORY = Path(__file__).resolve().parents[1]
FAULTY = Path(__file__).resolve().parent / "faulty"

TAG = "TEST_OF_HOSTD"
"""An environment variable that everything inherits that the tests start, so that no escape stays unseen."""


def eventually(check, what, *, within_s=PATIENCE_S):
    """Return the first true value of `check`, or fail saying `what` did not happen and what was seen instead."""
    deadline_s = time.monotonic() + within_s
    is_last = False
    while not (seen := check()):
        if is_last:
            raise AssertionError(f"not within {within_s:g} s: {what}; last seen: {seen!r}")
        is_last = time.monotonic() > deadline_s  # one more look: this process may have stalled since the one before
        time.sleep(POLL_S)
    return seen


def never(check, what, *, for_s):
    """Fail if `check` becomes true in the next `for_s` seconds."""
    deadline_s = time.monotonic() + for_s
    while time.monotonic() < deadline_s:
        seen = check()
        assert not seen, f"{what}: {seen!r}"
        time.sleep(POLL_S)


# Processes


def is_there(pid):
    """Say whether a process, or a zombie of it, has this number."""
    return Path(f"/proc/{pid}").exists()


def state_of(pid):
    """Return the state letter of a process (proc(5)), "" if it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def descendants(pid=None):
    """Return all descendants of a process (default: of this one), zombies too, from the process table."""
    children = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            parent = int(Path(f"/proc/{name}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(name))
    found = []
    pending = [os.getpid() if pid is None else pid]
    while pending:
        of_one = children.get(pending.pop(), [])
        found.extend(of_one)
        pending.extend(of_one)
    return sorted(found)


def describe(pids):
    """Return what is known of these processes, for a message."""
    lines = []
    for pid in sorted(pids):
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            lines.append(f"{pid} (parent {process.ppid()}, {process.status()}): {' '.join(process.cmdline())[:150]}")
    return lines


def tagged(value, name=TAG):
    """Return the living processes, but this one, that were started with `name=value` in their environment."""
    wanted = f"{name}={value}".encode()
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.add(int(pid))
    return found - {os.getpid()}


def named(value):
    """Return a name for a value that a test is given; without addresses, so that it is the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", ascii(value))


def new_tag():
    """Return a value that no other process has in its environment."""
    return uuid.uuid4().hex


def template_host(pid):
    """Return the parent of a process that is a template, or is about to be one and has no name yet, else None."""
    with contextlib.suppress(OSError):
        name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
        is_nameless = not name.startswith("hostd:") and is_program_of_template(pid)
        return int(rest.split()[1]) if name == "hostd:template" or is_nameless else None
    return None


def is_program_of_template(pid):
    """Say whether a process was started as a template, which its children were as well."""
    return b"HOSTD_TEMPLATE=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


FDS_OF_TEMPLATE = 4
"""Descriptors of a supervisor for each of its templates."""


def of_models(host):
    """Return the processes of a host's models: all of its descendants but templates, and what is not executed yet."""
    own = command_of(host)
    return [pid for pid in descendants(host) if template_host(pid) is None and command_of(pid) not in (own, None)]


def command_of(pid):
    """Return the command line of a process; None if it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()


def tree_of(pid):
    """Return a process and all of its descendants."""
    return [psutil.Process(member) for member in (pid, *descendants(pid))]


def rss_of_tree(pid):
    """Return the resident bytes of a whole tree."""
    return sum(process.memory_info().rss for process in tree_of(pid))


def uss_of_tree(pid):
    """Return the private bytes of a whole tree: what its end gives back."""
    return sum(process.memory_full_info().uss for process in tree_of(pid))


# Programs


def program(source, *arguments, python=sys.executable, **environment):
    """Start a Python program that can import what is tested; its output is for `line_of`."""
    return subprocess.Popen(
        [python, "-c", textwrap.dedent(source), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1", **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


def command(*words, within_s=2 * PATIENCE_S, **environment):
    """Run the command line, and return its output and how it ended."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HOSTD_")}
    return subprocess.run(
        [sys.executable, "-m", "hostd", *map(str, words)],
        env={**clean, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "500", **environment},
        capture_output=True,
        text=True,
        timeout=within_s,
        check=False,
    )


def line_of(process):
    """Return the next line that a program prints, or fail."""
    fd, line = process.stdout.fileno(), b""
    # Byte by byte from the pipe: a buffer may hold the next line already, and then select would wait for one more.
    while not line.endswith(b"\n"):
        assert select.select([fd], [], [], PATIENCE_S)[0], f"the program printed nothing within {PATIENCE_S:g} s"
        byte = os.read(fd, 1)
        assert byte, f"the program ended with {process.wait(PATIENCE_S)} and without a line: {line!r}"
        line += byte
    return line.decode().rstrip("\n")


class Told:
    """A program that does what it is told line by line, and says when it has; its children end with it."""

    def __init__(self, source):
        command = [sys.executable, "-c", textwrap.dedent(source)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert line_of(self._process) == "up"
        self.pid = self._process.pid

    def tell(self, words):
        """Tell it a line, and wait until it is done."""
        print(words, file=self._process.stdin, flush=True)
        assert line_of(self._process) == "done"

    def end(self):
        """Kill it, and what it has started."""
        children = psutil.Process(self.pid).children(recursive=True)
        stop(self._process)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):  # it may have ended with its parent
                child.kill()


def stop(process):
    """Kill and reap a program, whatever it does."""
    with process:
        process.kill()


# This process


def descriptors():
    """Return the open descriptors of this process and what they refer to."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return {fd: target for fd, target in found.items() if not target.startswith(f"/proc/{os.getpid()}/")}


def threads():
    """Return the native ids of this process' threads, those of libraries too."""
    return {int(name) for name in os.listdir("/proc/self/task")}


def lines_of(file):
    """Return the complete lines of a file; none if it is not there."""
    text = file.read_text() if file.exists() else ""
    return text.splitlines() if text.endswith("\n") else text.splitlines()[:-1]


@contextlib.contextmanager
def at_most(seconds, what):
    """Fail if the block takes longer."""
    began_s = time.monotonic()
    yield
    took_s = time.monotonic() - began_s
    assert took_s <= seconds, f"{what} took {took_s:.3f} s, at most {seconds:g} s were expected"


# Hosts that are nobody's child: what `hostd serve` starts


@dataclass
class Service:
    """A reaper with its supervisor, and what that said when it was ready, or why it was not."""

    reaper: subprocess.Popen[str]
    said: dict[str, Any]

    @property
    def pid(self):
        """The process id of the supervisor."""
        return int(self.said["ready"]["pid"])

    @property
    def endpoint(self):
        """Where clients reach it."""
        return str(self.said["ready"]["endpoint"])

    @property
    def runtime_dir(self):
        """Where its sockets and its lock are."""
        return Path(self.said["ready"]["runtime_dir"])

    def ended(self):
        """Wait for its end and return its exit code."""
        return self.reaper.wait(PATIENCE_S)


def start_service(**settings):
    """Start a host as `hostd serve` does, and wait until it says what became of it."""
    read, write = os.pipe2(os.O_CLOEXEC)
    reaper = subprocess.Popen(
        reaper_command(),
        env=supervisor_environment(load_config(settings), write),
        pass_fds=[write],
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)
    with open(read, encoding="utf-8") as ready:
        assert select.select([ready], [], [], PATIENCE_S)[0], "the host did not say what became of its start"
        line = ready.readline()
    assert line, f"the host ended without a word: {reaper.communicate(timeout=PATIENCE_S)}"
    return Service(reaper, json.loads(line))
