"""What tests of real processes share: waiting without sleeping, and looking at the machine from outside of the host.

Nothing here asks the host: a test that checks the host's word against the system's needs a second witness.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import textwrap
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psutil

from hostd.config import load_config
from hostd.launch import keeper_command, supervisor_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

PATIENCE_S = 20.0
"""How long to wait for what must happen. Only a failing test ever waits that long."""

POLL_S = 0.002

REPOSITORY = Path(__file__).resolve().parents[1]
FAULTY = Path(__file__).resolve().parent / "faulty"

TAG = "TEST_OF_HOSTD"
"""An environment variable that everything inherits that the tests start, so that no escape stays unseen."""


def eventually(check: Callable[[], T], what: str, *, within_s: float = PATIENCE_S) -> T:
    """Return the first true value of `check`, or fail saying `what` did not happen and what was seen instead."""
    deadline_s = time.monotonic() + within_s
    while not (seen := check()):
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {within_s:g} s: {what}; last seen: {seen!r}")
        time.sleep(POLL_S)
    return seen


def never(check: Callable[[], Any], what: str, *, for_s: float) -> None:
    """Fail if `check` becomes true in the next `for_s` seconds."""
    deadline_s = time.monotonic() + for_s
    while time.monotonic() < deadline_s:
        seen = check()
        assert not seen, f"{what}: {seen!r}"
        time.sleep(POLL_S)


# Processes


def is_there(pid: int) -> bool:
    """Say whether a process, or a zombie of it, has this number."""
    return Path(f"/proc/{pid}").exists()


def state_of(pid: int) -> str:
    """Return the state letter of a process (proc(5)), "" if it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def descendants(pid: int | None = None) -> list[int]:
    """Return all descendants of a process (default: of this one), zombies too, from the process table."""
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            parent = int(Path(f"/proc/{name}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(name))
    found: list[int] = []
    pending = [os.getpid() if pid is None else pid]
    while pending:
        of_one = children.get(pending.pop(), [])
        found.extend(of_one)
        pending.extend(of_one)
    return sorted(found)


def describe(pids: set[int] | list[int]) -> list[str]:
    """Return what is known of these processes, for a message."""
    lines = []
    for pid in sorted(pids):
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            lines.append(f"{pid} (parent {process.ppid()}, {process.status()}): {' '.join(process.cmdline())[:150]}")
    return lines


def tagged(value: str, name: str = TAG) -> set[int]:
    """Return the living processes, but this one, that were started with `name=value` in their environment."""
    wanted = f"{name}={value}".encode()
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.add(int(pid))
    return found - {os.getpid()}


def new_tag() -> str:
    """Return a value that no other process has in its environment."""
    return uuid.uuid4().hex


def tree_of(pid: int) -> list[psutil.Process]:
    """Return a process and all of its descendants."""
    return [psutil.Process(member) for member in (pid, *descendants(pid))]


def rss_of_tree(pid: int) -> int:
    """Return the resident bytes of a whole tree."""
    return sum(process.memory_info().rss for process in tree_of(pid))


def uss_of_tree(pid: int) -> int:
    """Return the private bytes of a whole tree: what its end gives back."""
    return sum(process.memory_full_info().uss for process in tree_of(pid))


# Programs


def program(source: str, *arguments: object, python: str = sys.executable, **environment: str) -> subprocess.Popen[str]:
    """Start a Python program that can import what is tested; its output is for `line_of`."""
    return subprocess.Popen(
        [python, "-c", textwrap.dedent(source), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1", **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


def line_of(process: subprocess.Popen[str]) -> str:
    """Return the next line that a program prints, or fail."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], PATIENCE_S)
    assert ready, f"the program printed nothing within {PATIENCE_S:g} s"
    line = process.stdout.readline()
    assert line, f"the program ended with {process.wait(PATIENCE_S)} and without a line"
    return line.rstrip("\n")


def stop(process: subprocess.Popen[str]) -> None:
    """Kill and reap a program, whatever it does."""
    with process:
        process.kill()


# This process


def descriptors() -> dict[int, str]:
    """Return the open descriptors of this process and what they refer to."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return {fd: target for fd, target in found.items() if not target.startswith(f"/proc/{os.getpid()}/")}


def threads() -> set[int]:
    """Return the native ids of this process' threads, those of libraries too."""
    return {int(name) for name in os.listdir("/proc/self/task")}


def lines_of(file: Path) -> list[str]:
    """Return the complete lines of a file; none if it is not there."""
    text = file.read_text() if file.exists() else ""
    return text.splitlines() if text.endswith("\n") else text.splitlines()[:-1]


@contextlib.contextmanager
def at_most(seconds: float, what: str) -> Iterator[None]:
    """Fail if the block takes longer."""
    began_s = time.monotonic()
    yield
    took_s = time.monotonic() - began_s
    assert took_s <= seconds, f"{what} took {took_s:.3f} s, at most {seconds:g} s were expected"


# Hosts that are nobody's child: what `hostd serve` starts


@dataclass
class Service:
    """A keeper with its supervisor, and what that said when it was ready, or why it was not."""

    keeper: subprocess.Popen[str]
    said: dict[str, Any]

    @property
    def pid(self) -> int:
        """The process id of the supervisor."""
        return int(self.said["ready"]["pid"])

    @property
    def endpoint(self) -> str:
        """Where clients reach it."""
        return str(self.said["ready"]["endpoint"])

    @property
    def runtime_dir(self) -> Path:
        """Where its sockets and its lock are."""
        return Path(self.said["ready"]["runtime_dir"])

    def ended(self) -> int:
        """Wait for its end and return its exit code."""
        return self.keeper.wait(PATIENCE_S)


def start_service(**settings: Any) -> Service:
    """Start a host as `hostd serve` does, and wait until it says what became of it."""
    read, write = os.pipe2(os.O_CLOEXEC)
    keeper = subprocess.Popen(
        keeper_command(),
        env=supervisor_environment(load_config(settings), write),
        pass_fds=[write],
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)
    with open(read, encoding="utf-8") as ready:
        assert select.select([ready], [], [], PATIENCE_S)[0], "the host did not say what became of its start"
        line = ready.readline()
    assert line, f"the host ended without a word: {keeper.communicate(timeout=PATIENCE_S)}"
    return Service(keeper, json.loads(line))
