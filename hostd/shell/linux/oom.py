"""Why a process was killed by a SIGKILL that the host did not send: by the kernel, out of memory, or by somebody else.

Witnesses, in this order:
1. The count of all OOM kills of the machine (`oom_kill` in /proc/vmstat). The kernel raises it before it sends the
   signal (mm/oom_kill.c, __oom_kill_process), so if it has not grown since the process began, it was not the kernel.
2. The kernel's log (/dev/kmsg), which names the process. Root may read it, and a process with CAP_SYSLOG. Its numbers
   are those of the first PID namespace, so in a container that has its own nobody can be found by them.
3. The `oom_kill` counter of the host's own control group, which names nobody: if it has grown lately, a process of the
   group was killed, and that is taken for this one.

The log's line may come a moment after the death, because the kernel writes it after the signal. Calls block for up to
`LOG_PATIENCE_S`: make them in a thread.
"""

from __future__ import annotations

import logging
import os
import re
import select
import threading
import time
from pathlib import Path

from hostd.core.bookkeeping.recent import Recent
from hostd.core.values import Death
from hostd.shell.linux.groups import SELF, Group, groups_of
from hostd.shell.work.closing import Closing
from hostd_workers.wire.light import pattern

_log = logging.getLogger(__name__)

KERNEL_LOG = Path("/dev/kmsg")
COUNTERS = Path("/proc/vmstat")

LOG_PATIENCE_S = 0.1
"""How long to wait for the line about a process that is dead already; measured, it is there within a millisecond."""

LATELY_S = 2.0
"""How long a kill that names nobody may have been noticed before a death to be taken for its cause."""

_LOG_POLL_MS = 5

_RECORD_BYTES = 8192
"""More than a record of the log may have (CONSOLE_EXT_LOG_MAX); a read with less room fails."""

_FIRST_NAMESPACE = 0xEFFFFFFC
"""The inode of the first PID namespace (PROC_PID_INIT_INO of linux/proc_ns.h)."""

_KNOWN_KILLS = 1000
"""How many kills are remembered, the newest: of processes that are no workers, mostly."""

# A record is "<priority>,<sequence>,<time>,<flags>;<text>"; a priority below 8 is the kernel's own.
_KILL = pattern(
    rb"^[0-7],[^;\n]*;(?P<text>(?:(?:Out of memory|Memory cgroup out of memory)[^:]*: Killed process (?P<killed>\d+)"
    rb"|oom-kill:.*\bpid=(?P<chosen>\d+))[^\n]*)",
    re.MULTILINE,
)
_KERNEL = "killed by the kernel, out of memory"
_SOMEBODY = "SIGKILL by somebody else"


class Deaths(Closing):
    """Remembers what the kernel said about kills since it was made; close it, or use it as a context."""

    def __init__(
        self,
        kernel_log: Path = KERNEL_LOG,
        counters: Path = COUNTERS,
        process: Path = SELF,
        *,
        is_first_namespace: bool | None = None,
    ) -> None:
        """Begin to listen. The arguments are for tests: where the witnesses are, and whether our numbers are theirs."""
        self._counters = counters
        self._groups = groups_of("memory", process)
        self._lock = threading.Lock()
        self._killed: Recent[int, str] = Recent(_KNOWN_KILLS)
        self._counts: dict[int, int] = {}
        """The count of all kills, by the process that began when it was so."""
        if is_first_namespace is None:
            is_first_namespace = _is_first_namespace()
        self._fd = _open_at_end(kernel_log) if is_first_namespace else None
        self._count = self._machine_count()
        self._group_count = _group_count(self._groups)
        self._unclaimed = 0
        self._noticed_s = 0.0

    def __repr__(self) -> str:
        return f"<Deaths, {'with' if self._fd is not None else 'without'} the kernel's log>"

    def close(self) -> None:
        """Stop listening."""
        with self._lock:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None

    def began(self, pid: int) -> None:
        """Take note that a process began: what was said before about its number was about another one."""
        with self._lock:
            self._listen()
            self._look_at_group()
            self._killed.pop(pid, None)
            count = self._machine_count()
            if count is not None:
                self._counts[pid] = count

    def forget(self, pid: int) -> None:
        """Take note that nobody will ask about this process any more."""
        with self._lock:
            self._counts.pop(pid, None)

    def explain(self, pid: int) -> tuple[Death, str]:
        """Say why a process died by a SIGKILL that is not ours, and in words how that is known."""
        with self._lock:
            before = self._counts.pop(pid, self._count)
            count = self._machine_count()
            has_log = self._fd is not None
        if count is not None and count == before:
            return Death.UNEXPLAINED, _SOMEBODY
        if has_log:
            line = self._line_about(pid)
            return (Death.OUT_OF_MEMORY, f"{_KERNEL}: {line}") if line is not None else (Death.UNEXPLAINED, _SOMEBODY)
        with self._lock:
            self._look_at_group()
            if self._unclaimed == 0 or time.monotonic() - self._noticed_s > LATELY_S:
                return Death.UNEXPLAINED, _SOMEBODY
            self._unclaimed -= 1
            return Death.OUT_OF_MEMORY, f"{_KERNEL}, as the count of its control group says"

    def _line_about(self, pid: int) -> str | None:
        deadline_s = time.monotonic() + LOG_PATIENCE_S
        poller = select.poll()
        while True:
            with self._lock:
                self._listen()
                line = self._killed.pop(pid, None)
                fd = self._fd
            if line is not None or fd is None or time.monotonic() >= deadline_s:
                return line
            poller.register(fd, select.POLLIN)
            # Not for the rest of the time at once: another thread may read what this one waits for.
            poller.poll(_LOG_POLL_MS)

    def _listen(self) -> None:
        """Read all that the kernel has said since the last time."""
        while self._fd is not None:
            try:
                record = os.read(self._fd, _RECORD_BYTES)
            except BlockingIOError:
                return
            except BrokenPipeError:  # records were overwritten before we came; the next read gives the oldest there is
                continue
            except OSError as error:
                _log.warning("the kernel's log cannot be read any more: %s", error)
                os.close(self._fd)
                self._fd = None
                return
            if not record:
                return
            for found in _KILL.finditer(record):
                # The second line about a kill says more, and takes the place of the first.
                self._killed[int(found["killed"] or found["chosen"])] = found["text"].decode("utf-8", "replace")

    def _look_at_group(self) -> None:
        count = _group_count(self._groups)
        if count is not None and self._group_count is not None and count > self._group_count:
            self._unclaimed = count - self._group_count
            self._noticed_s = time.monotonic()
        self._group_count = count

    def _machine_count(self) -> int | None:
        return _number_after(b"oom_kill ", _content(self._counters))


def _open_at_end(kernel_log: Path) -> int | None:
    try:
        fd = os.open(kernel_log, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        _log.debug("the kernel's log is not read: %s", error)
        return None
    os.lseek(fd, 0, os.SEEK_END)
    return fd


def _is_first_namespace() -> bool:
    try:
        return Path("/proc/self/ns/pid").stat().st_ino == _FIRST_NAMESPACE
    except OSError:
        return False


def _group_count(groups: list[Group]) -> int | None:
    """Return how many processes of our group were killed so far; None if no group says so."""
    for group in groups:
        name = "memory.events" if group.version == 2 else "memory.oom_control"
        count = _number_after(b"oom_kill ", _content(group.directory / name))
        if count is not None:
            return count
    return None


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def _number_after(name: bytes, content: bytes) -> int | None:
    for line in content.splitlines():
        if line.startswith(name) and line[len(name) :].isdigit():
            return int(line[len(name) :])
    return None
