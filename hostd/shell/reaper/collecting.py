"""What is left of a host is killed, reaped and removed."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from .names import LOCK

REFUSED_S = 2.0
"""How long to try to kill what may not be killed, a program of another user: it may be about to end by itself."""
_FIRST_LOOK_S, _LAST_LOOK_S = 0.001, 0.05
"""How long to wait for the end of what was killed; twice as long each time that nothing has ended meanwhile."""


def end_all(groups: str) -> list[int]:
    """Kill what is in the control group of all workers ("" for none) and all children; return as `kill_children`."""
    with contextlib.suppress(OSError):  # there is none, or the kernel is too old
        os.write(os.open(f"{groups}/cgroup.kill", os.O_WRONLY | os.O_CLOEXEC), b"1")  # this process ends soon
    left = kill_children()
    for path, _, _ in os.walk(groups, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(path)  # noqa: PTH106 - as above
    return left


def kill_children() -> list[int]:
    """Kill and reap every child, and what becomes one because its parent was killed, until there is none.

    Return those that this process may not kill: programs of other users.
    """
    awaited, waited_s, pause_s = 0, 0.0, _FIRST_LOOK_S
    with contextlib.suppress(ChildProcessError):  # there is none left
        while True:
            ended = 0
            while os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG) is not None:
                ended += 1
            if ended:
                awaited, waited_s, pause_s = awaited - ended, 0.0, _FIRST_LOOK_S
            if not ended or awaited <= 0:  # not after each end: a look costs as much as there are children
                children = children_of(os.getpid())
                refused = _kill_all(children)
                awaited = len(children) - len(refused)
                if children and not awaited and waited_s > REFUSED_S:
                    return refused
            if not ended or awaited > 1:
                time.sleep(pause_s)
                waited_s, pause_s = waited_s + pause_s, min(2 * pause_s, _LAST_LOOK_S)
    return []


def _kill_all(children: list[int]) -> list[int]:
    """Kill children of this process, which keep their numbers until they are reaped; return those that it may not kill.

    A signal to a group reaches all of it, also what is being forked just then: so families that flee by forking end.
    """
    refused, groups, session = [], {os.getpgrp()}, os.getsid(0)
    for pid in children:
        try:
            os.kill(pid, signal.SIGKILL)
        except PermissionError:
            refused.append(pid)
        except ProcessLookupError:
            continue
        with contextlib.suppress(PermissionError, ProcessLookupError):
            group = os.getpgid(pid)
            # Those of this session may be in a group with the program that started us.
            if group not in groups and os.getsid(pid) != session:
                os.killpg(group, signal.SIGKILL)
                groups.add(group)
    return refused


def children_of(parent: int) -> list[int]:
    """Return the children of a process; some may be missing if it is not this one, or while others end."""
    children: list[int] = []
    # Not every kernel has it (CONFIG_PROC_CHILDREN), and a look at the process table takes milliseconds.
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{parent}/task"):  # noqa: PTH208 - pathlib would double the start time
            with open(f"/proc/{parent}/task/{thread}/children", "rb") as file:  # noqa: PTH123 - as above
                children.extend(map(int, file.read().split()))
    return children or _children_by_table(parent)


def _children_by_table(parent: int) -> list[int]:
    """Return the children of a process, from the process table (proc(5))."""
    children = []
    for name in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208 - as above
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123 - as above
            # The command's name may hold anything, but the last parenthesis is its end.
            if int(file.read().rpartition(b")")[2].split()[1]) == parent:
                children.append(int(name))
    return children


def tell_of(left: list[int]) -> None:
    """Say what could not be ended: nobody else will."""
    for pid in left:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/comm", "rb") as file:  # noqa: PTH123 - as above
            name = file.read().strip().decode("utf-8", "backslashreplace")
            words = f"hostd: process {pid} ({name}), which a model started, runs as another user and goes on"
            os.write(2, f"{words}: this host may not end it. End it with: sudo kill -9 {pid}\n".encode())


def remove(directory: str) -> None:
    """Remove a private runtime directory and the sockets and files in it."""
    with contextlib.suppress(FileNotFoundError):
        for root, directories, names in os.walk(directory, topdown=False):
            # The lock last: from then on the place may be another host's.
            names.sort(key=LOCK.__eq__)
            for path in (os.path.join(root, name) for name in (*directories, *names)):  # noqa: PTH118 - as above
                is_directory = os.path.isdir(path) and not os.path.islink(path)  # noqa: PTH112, PTH114 - as above
                (os.rmdir if is_directory else os.unlink)(path)
        with contextlib.suppress(OSError):  # it is another host's already
            os.rmdir(directory)  # noqa: PTH106 - as above
