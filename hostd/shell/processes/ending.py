"""The end of one worker: everything of its tree is killed, and proven gone.

Rules
1. `go_on` may be called again and again until it returns; each call does what is left, whatever has failed before.
2. What cannot be ended (a program of another user, a process that hangs in the kernel) holds up nobody but its own
   worker: no thread waits for it longer than it was told to, and what others left is not this worker's (`claims`).
3. A descriptor is opened for a few processes at a time: a tree may have more members than we may have descriptors.

Why a family that flees by forking comes to an end: a signal to a group reaches all of it, also what is being forked
just then (fork(2) begins anew); what has left its group is a child of ours once its parent has ended, and is met there.
Where the worker has a control group the kernel kills all that is in it before (`cgroups`). What follows collects them,
and is all there is where that fails: rule 2 is about what is left then.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from hostd.shell.linux.cgroups import end_group, members_of
from hostd.shell.linux.proc import descendants_of, read_all, read_file
from hostd.shell.memory import tree as memory
from hostd.shell.memory.shared import Held

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path

    from hostd.core.events import Memory

PATIENCE_S = 5.0
"""How long a thread waits for processes that were killed. What takes longer hangs in the kernel, for a dead disk or a
device driver; it is looked for again."""

_BATCH = 64
"""Descriptors at a time: few beside what a process may have, and enough to wait for many ends at once."""


class StillThereError(Exception):
    """Processes of a worker that were killed and have not ended: `refused` are those that may not be signalled."""

    def __init__(self, refused: Collection[int], slow: Collection[int]) -> None:
        self.refused = sorted(refused)
        self.slow = sorted(slow)
        words = [
            f"process {pid} ({_name_of(pid)}) runs as {_user_of(pid)}, and this host may not end it; end it with: sudo "
            f"kill -9 {pid}"
            for pid in self.refused
        ]
        words += [
            f"process {pid} ({_name_of(pid)}) was killed and has not ended: it hangs in the kernel (a disk, a device)"
            for pid in self.slow
        ]
        super().__init__("; ".join(words))


class Family(Protocol):
    """What is known of all workers."""

    def foreign_children(self, pid: int) -> list[int]:
        """Return the children of this process that may be what this one left, as far as one look tells."""

    def claimed_by_others(self, ending: Ending) -> set[int]:
        """Return the processes that the ends of other workers wait for."""

    def reap_worker(self, pid: int, pidfd: int) -> None:
        """Reap a worker that has ended."""


class Ending:
    """How far the end of one worker has come. Not for two threads at the same time."""

    def __init__(
        self,
        pid: int,
        pidfd: int,
        mark: bytes,
        family: Family,
        group: Path | None = None,
        sharers: int = 0,
        *,
        owns_session: bool = False,
    ) -> None:
        """Take the worker's process; `pidfd` stays open, and the caller's. `mark` is in its environment.

        `group` is its control group, if it has one, `sharers` how many others have pages of its template.
        `owns_session`: it is a template, and all that is in its session goes with it.
        """
        self._pid = pid
        self._pidfd = pidfd
        self._mark = mark
        self._family = family
        self._group = group
        self._sharers = sharers
        self._owns_session = owns_session
        self._in_group: set[tuple[int, bytes]] = set()
        """Those that were in it, with the times at which they began: what was killed has no mark any more."""
        self._left_in_group: set[int] = set()
        self._freed_bytes = 0
        self._is_measured = self._is_reaped = False
        self._counted: set[int] = {pid}
        self._others: set[tuple[int, bytes]] = set()
        """Those that were children of ours while the worker lived, with the times at which they began."""
        self.claims: frozenset[int] = frozenset()
        """Its descendants as far as they are known: nobody else takes them for what another worker left."""

    def __repr__(self) -> str:
        return f"<Ending of {self._pid}, waits for {sorted(self.claims)}>"

    def go_on(self, measured: Memory | None, patience_s: float) -> tuple[int, int]:
        """Kill all that is left; return the bytes that it gave back and how many processes it was.

        Raises `StillThereError`, and OSError if there is no descriptor left.
        """
        until_s = time.monotonic() + patience_s
        with contextlib.ExitStack() as stack:
            if self._is_reaped:
                self._end_the_group(until_s)
            shared = None if self._is_reaped else self._end_the_worker(measured, until_s, stack)
            refused, slow = self._end_the_orphans(until_s)
            if shared is not None:
                self._freed_bytes += shared.let_go()
        slow |= self._left_in_group - refused
        # They are children of ours, so their numbers stay theirs, or in its group, which is looked at again.
        self.claims = frozenset(refused | slow)
        if self.claims:
            raise StillThereError(refused, slow)
        return self._freed_bytes, len(self._counted)

    def _end_the_group(self, until_s: float) -> None:
        if self._group is not None:
            self._in_group.update(map(_identity_of, members_of(self._group)))
            self._left_in_group = end_group(self._group, until_s - time.monotonic())

    def _end_the_worker(self, measured: Memory | None, until_s: float, stack: contextlib.ExitStack) -> Held:
        """Kill the tree and reap the worker; return the shared memory that it held, which `stack` lets go of."""
        _send(self._pidfd, signal.SIGSTOP)  # what is stopped cannot fork away from the list that follows
        others = {_identity_of(pid) for pid in self._family.foreign_children(self._pid)}
        if not _has_ended(self._pidfd, 0.0):
            self._others = others
        tree = descendants_of(self._pid)
        known = {_identity_of(pid) for pid in tree}  # their numbers are not ours, and may be others' in a moment
        self.claims = frozenset(tree)
        if not self._is_measured:
            self._freed_bytes = memory.private_bytes_of([self._pid, *tree], measured, self._sharers)
            self._is_measured = True
        shared = stack.enter_context(Held([self._pid, *tree]))
        self._counted.update(tree)
        self._end_the_group(until_s)
        for batch in _batches(tree):
            with _opened(batch, known) as opened:
                for pidfd in [pidfd for pidfd in opened.values() if _send(pidfd, signal.SIGKILL)]:
                    _has_ended(pidfd, until_s - time.monotonic())
        is_refused = not _send(self._pidfd, signal.SIGKILL)
        _kill_group(self._pid)
        if not _has_ended(self._pidfd, 0.0 if is_refused else until_s - time.monotonic()):
            raise StillThereError([self._pid] if is_refused else [], [] if is_refused else [self._pid])
        self._family.reap_worker(self._pid, self._pidfd)
        self._is_reaped = True
        return shared

    def _end_the_orphans(self, until_s: float) -> tuple[set[int], set[int]]:
        """Kill and reap what the worker left; return what may not be killed, and what has not ended yet."""
        refused: set[int] = set()
        slow: set[int] = set()
        # Twice, because the kernel may leave one out of the list while another thread reaps its neighbour (proc(5)).
        while orphans := self._orphans(refused | slow) or self._orphans(refused | slow):
            new = [pid for pid in orphans if pid not in self._counted]
            self._freed_bytes += memory.private_bytes_of(new, sharers=self._sharers)
            self._counted.update(new)
            with Held(new) as shared:
                for batch in _batches(orphans):
                    self._end_batch(batch, until_s, refused, slow)
                self._freed_bytes += shared.let_go()
        return refused, slow

    def _end_batch(self, pids: list[int], until_s: float, refused: set[int], slow: set[int]) -> None:
        with _opened(pids) as opened:
            refused.update(pid for pid, pidfd in opened.items() if not _send(pidfd, signal.SIGKILL))
            for pid in opened:
                _kill_group(pid)
            for pid, pidfd in opened.items():
                if _has_ended(pidfd, 0.0 if pid in refused else until_s - time.monotonic()):
                    refused.discard(pid)
                    reap(pidfd)
                elif pid not in refused:
                    slow.add(pid)

    def _orphans(self, known: Collection[int]) -> list[int]:
        children = self._family.foreign_children(self._pid)
        if not children:
            return []
        not_ours = self._family.claimed_by_others(self)
        return [
            pid
            for pid in children
            if pid not in known and pid not in not_ours and (self._is_surely_ours(pid) or not self._is_of_others(pid))
        ]

    def _is_surely_ours(self, pid: int) -> bool:
        with contextlib.suppress(OSError):
            if self._owns_session and os.getsid(pid) == self._pid:
                return True
        return self._is_marked(pid)

    def _is_of_others(self, pid: int) -> bool:
        identity = _identity_of(pid)
        return identity in self._others and identity not in self._in_group

    def _is_marked(self, pid: int) -> bool:
        # A worker adopts what its helpers leave, but not what an interpreter of the model's own (`python`) has started
        # before the worker's first line: that was a child of ours while the worker lived.
        return bool(self._mark) and self._mark in read_all(pid, "environ").split(b"\0")


def reap(pidfd: int) -> None:
    """Take away the zombie of a process that has ended, if nobody else has."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)


def _send(pidfd: int, number: signal.Signals) -> bool:
    """Signal a process; say whether this process may."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return True


def _kill_group(pid: int) -> None:
    """Kill the whole group of a child that is not reaped.

    A group is of one session, and all of a session that is not ours descend from one worker.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.getsid(pid) != os.getsid(0):
            os.killpg(os.getpgid(pid), signal.SIGKILL)


def _has_ended(pidfd: int, within_s: float) -> bool:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(max(0.0, within_s) * 1000))


@contextlib.contextmanager
def _opened(pids: Iterable[int], known: Collection[tuple[int, bytes]] | None = None) -> Iterator[dict[int, int]]:
    """Hold a pidfd of each process that is still there; of those that are `known`, if that is given."""
    opened: dict[int, int] = {}
    try:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                opened[pid] = os.pidfd_open(pid)
                if known is not None and _identity_of(pid) not in known:
                    os.close(opened.pop(pid))
        yield opened
    finally:
        for pidfd in opened.values():
            os.close(pidfd)


def _batches(pids: Iterable[int]) -> Iterator[list[int]]:
    rest = iter(pids)
    while batch := list(islice(rest, _BATCH)):
        yield batch


def _identity_of(pid: int) -> tuple[int, bytes]:
    """Return what no two processes have in common: a number, and when it began (proc(5)), if that is to be seen."""
    line = b""
    with contextlib.suppress(PermissionError):  # another user's, where these are hidden (proc(5), hidepid)
        line = read_file(pid, "stat") or b""
    fields = line.rpartition(b")")[2].split()
    return pid, fields[19] if len(fields) > 19 else b""


def _name_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return (read_file(pid, "comm") or b"").decode("utf-8", "backslashreplace").strip()
    return ""


def _user_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        uid = os.stat(f"/proc/{pid}").st_uid  # noqa: PTH116 - a number in /proc
        return "root" if uid == 0 else f"user {uid}"
    return "another user"
