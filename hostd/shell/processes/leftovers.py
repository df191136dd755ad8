"""What an earlier host left behind because its reaper was killed together with it; the next host's start ends it.

Every worker has the mark of its host in its environment, and what it starts inherits it. A process is left over if its
mark names a host that is no more: a process number, the time at which it began, and the namespace of its number, which
is of one start of one machine: marks travel to others with the environment of batch jobs. This process and those that
it descends from are never left over, whatever they have inherited.

Does not cover what a model gave another environment or another user: nothing tells which model that was.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from typing import TYPE_CHECKING

from hostd import paths
from hostd.hosts import lock as runtime_lock
from hostd.shell.linux.marks import HOST_VARIABLE, is_of_dead_host
from hostd.shell.linux.proc import read_all
from hostd_workers.wire.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator

_log = logging.getLogger(__name__)


def end_leftovers() -> int:
    """Kill what hosts left that are no more, and return how many processes that were."""
    ended = 0
    there = set(map(int, filter(str.isdigit, os.listdir("/proc"))))  # noqa: PTH208 - names are all that is needed
    for pid in there - set(_descent()):
        with contextlib.suppress(OSError):
            ended += _end(pid)
    if ended:
        _log.warning("ended %s processes that hosts had left which were killed together with their reapers", ended)
    return ended


def remove_leftovers() -> None:
    """Remove the runtime directories of private hosts that were killed together with their programs and reapers."""
    try:
        places = [*paths.hosts_dir().iterdir()]
    except (OSError, HostError):  # there is no place for them
        return
    for place in places:
        private = paths.PRIVATE.search(place.name)
        if private and not os.path.exists(f"/proc/{private[1]}"):  # noqa: PTH110 - as below
            with contextlib.suppress(OSError, HostError):  # it is another user's, or open to others
                runtime_lock.remove_if_free(place)


def _descent() -> Iterator[int]:
    """Yield this process and those that it descends from, as far as they are to be seen."""
    pid = os.getpid()
    while pid:
        yield pid
        fields = read_all(pid, "stat").rpartition(b")")[2].split()
        pid = int(fields[1]) if fields else 0


def _end(pid: int) -> bool:
    if os.stat(f"/proc/{pid}").st_uid != os.geteuid() or not _is_left(pid):  # noqa: PTH116 - one of thousands
        return False
    pidfd = os.pidfd_open(pid)
    try:
        if not _is_left(pid):  # the number was another's until just now
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    finally:
        os.close(pidfd)
    return True


def _is_left(pid: int) -> bool:
    prefix = f"{HOST_VARIABLE}=".encode()
    marks = [entry for entry in read_all(pid, "environ").split(b"\0") if entry.startswith(prefix)]
    return bool(marks) and is_of_dead_host(marks[0].removeprefix(prefix).decode("ascii", "replace"))
