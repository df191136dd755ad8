"""The mark of a host: what its workers have in their environment and their control groups in their names.

It is of one start of one machine: the number of a process, the time at which it began, and the namespace of its number.
"""

from __future__ import annotations

import os

from hostd.shell.linux.proc import read_all, read_file

HOST_VARIABLE = "HOSTD_HOST"


def mark_of_host() -> str:
    """Return the mark of this process as a host."""
    return f"{_namespace()}.{os.getpid()}.{_began(os.getpid())}"


def is_of_dead_host(mark: str) -> bool:
    """Say whether that is the mark of a host that is no more; False of one that cannot be seen from here."""
    namespace, _, host = mark.partition(".")
    number, _, began = host.partition(".")
    return namespace == _namespace() and number.isdigit() and began.isdigit() and _began(int(number)) != began


def _namespace() -> str:
    start = read_all("sys/kernel/random", "boot_id").decode("ascii").strip()
    return f"{start}-{os.stat('/proc/self/ns/pid').st_ino}"  # noqa: PTH116 - as above


def _began(pid: int) -> str:
    """Return when a process began, in clock ticks since the system did (proc(5)); "" if it has ended."""
    fields = (read_file(pid, "stat") or b"").rpartition(b")")[2].split()
    has_ended = len(fields) < 20 or fields[0] in (b"Z", b"X")
    return "" if has_ended else fields[19].decode()
