"""What /proc tells about processes: children, descendants, states.

The children files of /proc (proc(5), CONFIG_PROC_CHILDREN) cost one small read per thread; where a kernel lacks them
psutil finds the same by reading the whole process table.
"""

from __future__ import annotations

import os
from pathlib import Path

import psutil

_HAS_CHILDREN_FILES = Path("/proc/self/task", str(os.getpid()), "children").exists()


def children_of(pid: int) -> list[int]:
    """Return the process ids of the children of a process, zombies included; none if it is gone."""
    if not _HAS_CHILDREN_FILES:
        return _children_by_table(pid)
    children: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - measured: half the time of Path.iterdir
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:  # noqa: PTH123 - as above
                children.extend(map(int, file.read().split()))
    except (FileNotFoundError, ProcessLookupError):
        # A thread or the process ended meanwhile; what was read so far is true.
        return children
    return children


def descendants_of(pid: int) -> list[int]:
    """Return the process ids of all descendants of a process, parents before children."""
    found: list[int] = []
    pending = [pid]
    while pending:
        children = children_of(pending.pop())
        found.extend(children)
        pending.extend(children)
    return found


def _children_by_table(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.NoSuchProcess:
        return []
