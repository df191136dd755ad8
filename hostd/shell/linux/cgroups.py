"""Control groups of our own (cgroups(7), v2): one for each worker, all of them in one of the host.

They serve two ends: the kernel itself keeps a worker within its memory limit, and it kills all that is in a group at
once (`cgroup.kill`), whatever flees by forking and whatever became another user's included.

Rules
1. Only below the group that the host is in: so whatever limits the host still limits its workers.
2. A group must have no processes itself if its children count memory. If those in ours are the host's alone (as in a
   systemd unit with Delegate=yes), they move into a leaf; if others are in it (an embedding program), it stays as it
   is, and the groups below it keep no limits.
3. Whatever was made is removed, and processes that were moved go back.

Where this cannot be had, the host watches its workers itself (`memory/sampler`) and kills one process after the other
(`ending`). Does not cover cgroup v1: its groups would need root, and cannot kill.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import select
import time
from pathlib import Path
from typing import TYPE_CHECKING

from hostd.shell.linux.groups import SELF, Group, groups_of
from hostd.shell.linux.marks import is_of_dead_host, mark_of_host
from hostd.shell.work.closing import Closing

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from hostd.core.values import WorkerId

_log = logging.getLogger(__name__)

_PREFIX = "hostd-"
_WORKERS, _HOST = "-workers", "-host"
_CONTROLLER = "memory"
_KILL = "cgroup.kill"

_LEFTOVERS_S = 1.0
"""How long a start may wait for the end of what dead hosts left; what takes longer ends without its group."""

_HELD = ("anon", "shmem", "sock")
"""What of memory.stat only an end or swap gives back; groups have no swap."""

_OF_KERNEL = ("kernel_stack", "pagetables", "percpu", "slab_unreclaimable")
"""What `kernel` adds up since Linux 5.18, but for what can be reclaimed of it."""


class Cgroups(Closing):
    """A control group for every worker; close it, or use it as a context, when all workers are gone."""

    def __init__(self, directory: Path, leaf: Path | None, *, keeps_limits: bool) -> None:
        """Take the group that the host was in, and the one into which it has moved."""
        self.directory = directory / f"{_PREFIX}{mark_of_host()}{_WORKERS}"
        """The group that all the others are in."""
        self.keeps_limits = keeps_limits
        self._leaf = leaf
        self._groups: dict[WorkerId, Path] = {}
        self._reserved: dict[int, Path] = {}
        """Of processes that may become workers."""
        self._numbers = itertools.count(1)
        self._limited: dict[WorkerId, Path] = {}

    def __repr__(self) -> str:
        return f"<Cgroups in {self.directory}: {len(self._groups)}>"

    @classmethod
    def open(cls, process: Path = SELF, own_pids: Collection[int] | None = None) -> Cgroups | None:
        """Return the groups, or None where there can be none.

        `process` is the host's directory in /proc; `own_pids` are the processes that may be moved (None: the supervisor
        and its parent, the reaper).
        """
        group = next((group for group in groups_of("memory", process) if group.version == 2), None)
        if group is None:
            _log.debug("there are no control groups of cgroup v2")
            return None
        try:
            leaf = _prepare(group, {os.getpid(), os.getppid()} if own_pids is None else own_pids)
            groups = cls(group.directory, leaf, keeps_limits=True)
        except OSError as error:
            _log.debug("limits are not enforced by the kernel: %s cannot be divided: %s", group.directory, error)
            groups = cls(group.directory, None, keeps_limits=False)
        _remove_leftovers(group.directory)
        try:
            groups._make()
        except OSError as error:
            _log.debug("there are no control groups below %s: %s", group.directory, error)
            groups.close()
            return None
        if groups.keeps_limits:
            _log.info("limits are enforced by the kernel, in control groups below %s", group.directory)
        return groups

    def _make(self) -> None:
        self.directory.mkdir()
        if self.keeps_limits:
            _write(self.directory / "cgroup.subtree_control", f"+{_CONTROLLER}")
        elif not (self.directory / _KILL).exists():
            raise FileNotFoundError("this kernel cannot kill a group (Linux 5.14 can)")

    def reserve(self, pid: int) -> None:
        """Put a process that may become a worker into a group of its own. Raises OSError.

        The kernel waits some 10 ms for all cores before it moves one.
        """
        directory = self.directory / f"spare-{next(self._numbers)}"
        directory.mkdir()
        self._reserved[pid] = directory
        try:
            _write(directory / "cgroup.procs", pid)
        except OSError:
            self.release(pid)
            raise

    def release(self, pid: int) -> None:
        """Remove the group of a process that has ended before it became a worker, if there is one."""
        directory = self._reserved.pop(pid, None)
        if directory is not None:
            _remove_or_say(directory)

    def add(self, worker_id: WorkerId, pid: int, limit_bytes: int | None) -> None:
        """Put a worker, which has just begun, into a group of its own, with this limit if it can have one.

        When the limit is reached and nothing can be reclaimed the kernel kills the whole group, not one process of it.
        Raises OSError.
        """
        directory = self._reserved.get(pid)
        is_in_it = directory is not None and pid in members_of(directory)
        if directory is None or not is_in_it:
            self.release(pid)
            directory = self.directory / str(worker_id)
            directory.mkdir()
        self._reserved.pop(pid, None)
        self._groups[worker_id] = directory
        if limit_bytes is not None and self.keeps_limits:
            self._limited[worker_id] = directory
            _write(directory / "memory.max", limit_bytes)
            with contextlib.suppress(OSError):  # a kernel without swap has no such file
                _write(directory / "memory.swap.max", 0)
            _write(directory / "memory.oom.group", 1)
        if not is_in_it:
            _write(directory / "cgroup.procs", pid)

    def group_of(self, worker_id: WorkerId) -> Path | None:
        """Return the group of a worker, if it has one."""
        return self._groups.get(worker_id)

    def held_bytes(self, worker_id: WorkerId) -> int | None:
        """Return what the kernel counts for a worker's group and cannot reclaim; None of one without a limit.

        That is more than its processes tell of: files in /dev/shm that nobody has open, buffers of pipes and sockets.
        """
        directory = self._limited.get(worker_id)
        if directory is None:
            return None
        try:
            lines = (directory / "memory.stat").read_text(encoding="ascii").splitlines()
            sizes = {name: int(value) for name, _, value in (line.partition(" ") for line in lines)}
            return sum(sizes[name] for name in _HELD) + _kernel_memory(sizes)
        except (OSError, ValueError, KeyError):  # it is gone, or the kernel is of another kind
            return None

    def oom_kills(self, worker_id: WorkerId) -> int:
        """Return how many processes of a worker the kernel has killed so far; 0 of one without a limit."""
        directory = self._limited.get(worker_id)
        if directory is None:
            return 0
        with contextlib.suppress(OSError, ValueError):
            for line in (directory / "memory.events").read_text(encoding="ascii").splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
        return 0

    def remove(self, worker_id: WorkerId) -> None:
        """Remove the group of a worker that is gone."""
        self._limited.pop(worker_id, None)
        directory = self._groups.pop(worker_id, None)
        if directory is not None:
            _remove_or_say(directory)

    def close(self) -> None:
        """Remove all groups, and go back to where we were."""
        for directory in self._reserved.values():  # of a template that nothing was forked from
            end_group(directory, _LEFTOVERS_S)
        self._groups.clear()
        self._reserved.clear()
        self._limited.clear()
        _remove_or_say(self.directory)
        if self._leaf is not None:
            leaf, self._leaf = self._leaf, None
            try:
                _go_back(leaf.parent, leaf)
            except OSError as error:
                _log.warning("the control group %s stays behind: %s", leaf, error)


def members_of(directory: Path) -> set[int]:
    """Return the processes in a group and in those below it, as far as they can be read."""
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for file in directory.rglob("cgroup.procs"):
            found.update(int(pid) for pid in file.read_text().split())
    return found


def end_group(directory: Path, within_s: float) -> set[int]:
    """Kill all that is in a group at once, and wait for the end of it; return what has not ended.

    That is nothing, too, if there is no such group any more, or if it cannot be killed at once.
    """
    until_s = time.monotonic() + within_s
    with contextlib.suppress(OSError):
        _write(directory / _KILL, 1)
        fd = os.open(directory / "cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        try:
            poller = select.poll()
            poller.register(fd, select.POLLPRI)  # the file has changed since it was read (cgroups(7))
            while b"populated 1" in os.pread(fd, 4096, 0):
                if (left_s := until_s - time.monotonic()) <= 0:
                    return members_of(directory)
                poller.poll(left_s * 1000)
        finally:
            os.close(fd)
    return set()


def _kernel_memory(sizes: Mapping[str, int]) -> int:
    if "kernel" in sizes:
        return max(0, sizes["kernel"] - sizes.get("slab_reclaimable", 0))
    return sum(sizes.get(name, 0) for name in _OF_KERNEL)


def _prepare(group: Group, own_pids: Collection[int]) -> Path | None:
    """Let the group's children count memory; return the leaf that our processes moved to, None if they did not."""
    if _CONTROLLER not in (group.read("cgroup.controllers") or "").split():
        raise FileNotFoundError("there is no memory controller of cgroup v2")
    if _CONTROLLER in (group.read("cgroup.subtree_control") or "").split():
        return None
    try:
        _write(group.directory / "cgroup.subtree_control", f"+{_CONTROLLER}")
    except PermissionError:
        raise
    except OSError:  # EBUSY: there are processes in it
        return _move_into_leaf(group, own_pids)
    return None


def _move_into_leaf(group: Group, own_pids: Collection[int]) -> Path:
    members = {int(pid) for pid in (group.read("cgroup.procs") or "").split()}
    if others := members - set(own_pids):
        raise PermissionError(f"other processes are in it, such as {min(others)}")
    leaf = group.directory / f"{_PREFIX}{mark_of_host()}{_HOST}"
    leaf.mkdir()
    try:
        for pid in members:
            _write(leaf / "cgroup.procs", pid)
        _write(group.directory / "cgroup.subtree_control", f"+{_CONTROLLER}")
    except OSError:
        _go_back(group.directory, leaf)
        raise
    return leaf


def _go_back(directory: Path, leaf: Path) -> None:
    _write(directory / "cgroup.subtree_control", f"-{_CONTROLLER}")
    for pid in (leaf / "cgroup.procs").read_text(encoding="ascii").split():
        with contextlib.suppress(ProcessLookupError):
            _write(directory / "cgroup.procs", pid)
    _remove(leaf)


def _remove_leftovers(directory: Path) -> None:
    """End the workers of hosts that were killed, and remove their groups; one that still has processes stays."""
    for left in directory.glob(f"{_PREFIX}*-*"):
        mark, _, kind = left.name.removeprefix(_PREFIX).rpartition("-")
        if is_of_dead_host(mark):
            if f"-{kind}" == _WORKERS:
                end_group(left, _LEFTOVERS_S)
            with contextlib.suppress(OSError):
                _remove(left)


def _remove_or_say(directory: Path) -> None:
    try:
        _remove(directory)
    except OSError as error:
        _log.warning("the control group %s cannot be removed: %s", directory, error)


def _remove(directory: Path) -> None:
    """Remove a group with those that its processes made in it."""
    for path, _, _ in os.walk(directory, topdown=False):
        Path(path).rmdir()  # the files in it are the kernel's and go with it


def _write(file: Path, value: object) -> None:
    # Not by Path.write_text, which would make a file that this kernel does not have.
    fd = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        os.write(fd, f"{value}\n".encode("ascii"))
    finally:
        os.close(fd)
