"""Control groups of our own, in which the kernel itself keeps a worker within its memory limit (cgroups(7), v2).

Rules
1. Only below the group that the host is in: so whatever limits the host still limits its workers.
2. A group whose children count memory must have no processes itself. If those in ours are the host's alone (as in a
   systemd unit with Delegate=yes), they move into a leaf; if others are in it (an embedding program), it stays as it
   is, and there are no groups.
3. Whatever was made is removed, and whoever was moved goes back.

Where this cannot be had, the host watches its workers itself (`sampling`). Does not cover cgroup v1, whose groups would
need root.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from hostd.shell.groups import SELF, Group, groups_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from types import TracebackType

    from hostd.core.values import WorkerId

_log = logging.getLogger(__name__)

_PREFIX = "hostd-"
_CONTROLLER = "memory"


_HELD = ("anon", "shmem", "sock")
"""What of memory.stat only an end or swap gives back; groups have no swap."""

_OF_KERNEL = ("kernel_stack", "pagetables", "percpu", "slab_unreclaimable")
"""What `kernel` adds up since Linux 5.18, but for what can be reclaimed of it."""


class Cgroups:
    """A control group for every worker with a limit; close it, or use it as a context, when all workers are gone."""

    def __init__(self, directory: Path, leaf: Path | None) -> None:
        self._directory = directory
        self._leaf = leaf
        self._groups: dict[WorkerId, Path] = {}

    def __repr__(self) -> str:
        return f"<Cgroups in {self._directory}: {len(self._groups)}>"

    def __enter__(self) -> Cgroups:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @classmethod
    def open(cls, process: Path = SELF, own_pids: Collection[int] | None = None) -> Cgroups | None:
        """Return the groups, or None where there can be none.

        `process` is the host's directory in /proc; `own_pids` are the processes that may be moved (None: the supervisor
        and its parent, the keeper).
        """
        group = next((group for group in groups_of("memory", process) if group.version == 2), None)
        if group is None or _CONTROLLER not in (group.read("cgroup.controllers") or "").split():
            _log.debug("limits are not enforced by the kernel: there is no memory controller of cgroup v2")
            return None
        try:
            leaf = _prepare(group, {os.getpid(), os.getppid()} if own_pids is None else own_pids)
        except OSError as error:
            _log.debug("limits are not enforced by the kernel: %s cannot be divided: %s", group.directory, error)
            return None
        _remove_leftovers(group.directory)
        _log.info("limits are enforced by the kernel, in control groups below %s", group.directory)
        return cls(group.directory, leaf)

    def add(self, worker_id: WorkerId, pid: int, limit_bytes: int) -> None:
        """Put a worker, which has just begun, into a group of its own with this limit. Raises OSError.

        When the limit is reached and nothing can be reclaimed the kernel kills the whole group, not one process of it.
        """
        directory = self._directory / f"{_PREFIX}{os.getpid()}-worker-{worker_id}"
        directory.mkdir()
        self._groups[worker_id] = directory
        _write(directory / "memory.max", limit_bytes)
        with contextlib.suppress(OSError):  # a kernel without swap has no such file
            _write(directory / "memory.swap.max", 0)
        _write(directory / "memory.oom.group", 1)
        _write(directory / "cgroup.procs", pid)

    def held_bytes(self, worker_id: WorkerId) -> int | None:
        """Return what the kernel counts for a worker's group and cannot reclaim; None of one that has no group.

        That is more than its processes tell of: files in /dev/shm that nobody has open, buffers of pipes and sockets.
        """
        directory = self._groups.get(worker_id)
        if directory is None:
            return None
        try:
            lines = (directory / "memory.stat").read_text(encoding="ascii").splitlines()
            sizes = {name: int(value) for name, _, value in (line.partition(" ") for line in lines)}
            return sum(sizes[name] for name in _HELD) + _kernel_memory(sizes)
        except (OSError, ValueError, KeyError):  # it is gone, or the kernel is of another kind
            return None

    def oom_kills(self, worker_id: WorkerId) -> int:
        """Return how many processes of a worker the kernel has killed so far; 0 of one that has no group."""
        directory = self._groups.get(worker_id)
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
        directory = self._groups.pop(worker_id, None)
        if directory is not None:
            try:
                _remove(directory)
            except OSError as error:
                _log.warning("the control group %s cannot be removed: %s", directory, error)

    def close(self) -> None:
        """Remove all groups, and go back to where we were."""
        for worker_id in list(self._groups):
            self.remove(worker_id)
        if self._leaf is not None:
            leaf, self._leaf = self._leaf, None
            try:
                _go_back(self._directory, leaf)
            except OSError as error:
                _log.warning("the control group %s stays behind: %s", leaf, error)


def _kernel_memory(sizes: Mapping[str, int]) -> int:
    if "kernel" in sizes:
        return max(0, sizes["kernel"] - sizes.get("slab_reclaimable", 0))
    return sum(sizes.get(name, 0) for name in _OF_KERNEL)


def _prepare(group: Group, own_pids: Collection[int]) -> Path | None:
    """Let the group's children count memory; return the leaf that our processes moved to, None if they did not."""
    if _CONTROLLER in (group.read("cgroup.subtree_control") or "").split():
        _try_out(group.directory)
        return None
    try:
        _write(group.directory / "cgroup.subtree_control", f"+{_CONTROLLER}")
    except PermissionError:
        raise
    except OSError:  # EBUSY: there are processes in it
        return _move_into_leaf(group, own_pids)
    _try_out(group.directory)
    return None


def _try_out(directory: Path) -> None:
    trial = directory / f"{_PREFIX}{os.getpid()}-trial"
    trial.mkdir()
    _remove(trial)


def _move_into_leaf(group: Group, own_pids: Collection[int]) -> Path:
    members = {int(pid) for pid in (group.read("cgroup.procs") or "").split()}
    if others := members - set(own_pids):
        raise PermissionError(f"other processes are in it, such as {min(others)}")
    leaf = group.directory / f"{_PREFIX}{os.getpid()}-host"
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
    """Remove what hosts left that were killed; what still has processes stays, the kernel sees to that."""
    for left in directory.glob(f"{_PREFIX}*-*"):
        pid = left.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            with contextlib.suppress(OSError):
                _remove(left)


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
