"""Memory of a worker's whole tree, as the operating system measures it.

RSS counts pages that several processes share once for each of them, PSS divides them, USS leaves them out: USS is what
a kill gives back. RSS costs 0.02 ms a process, USS and PSS cost 0.4 to 14 ms because the kernel walks the page tables,
so all of this runs in a thread and the full figures are read again only when RSS has changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil

from hostd.core.events import Memory
from hostd.shell.proc import descendants_of

if TYPE_CHECKING:
    from collections.abc import Iterable

_SIGNIFICANT_CHANGE_BYTES = 256 * 1024
"""Less than this an idle interpreter gains and loses by itself; it is not worth a walk over the page tables."""


def sample_tree(pid: int, last: Memory | None = None) -> Memory | None:
    """Return a sample of a process and its descendants, or None if the process is gone.

    If RSS and the number of processes are those of `last`, its other figures are taken to be still true.
    """
    pids = [pid, *descendants_of(pid)]
    rss = [value for value in map(_rss_of, pids) if value is not None]
    if not rss:
        return None
    if last is not None and last.processes == len(rss) and abs(last.rss_bytes - sum(rss)) < _SIGNIFICANT_CHANGE_BYTES:
        return last
    full = [figures for figures in map(_full_of, pids) if figures is not None]
    peaks = [value for value in map(_peak_of, pids) if value is not None]
    return Memory(
        processes=len(rss),
        rss_bytes=sum(rss),
        uss_bytes=sum(uss for uss, _ in full) if full else None,
        pss_bytes=sum(pss for _, pss in full) if full else None,
        peak_bytes=sum(peaks) if peaks else None,
    )


def private_bytes_of(pids: Iterable[int]) -> int:
    """Return the private memory (USS) of these processes, in bytes; one that is gone counts nothing."""
    return sum(figures[0] for figures in map(_full_of, pids) if figures is not None)


def _rss_of(pid: int) -> int | None:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None


def _full_of(pid: int) -> tuple[int, int] | None:
    try:
        info = psutil.Process(pid).memory_full_info()
    except (psutil.Error, OSError):  # smaps_rollup of a process that is ending fails with ESRCH
        return None
    return int(info.uss), int(info.pss)


def _peak_of(pid: int) -> int | None:
    """Return VmHWM (proc(5)), which psutil does not offer on Linux."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:  # noqa: PTH123 - read for every worker every few seconds
            for line in file:
                if line.startswith(b"VmHWM:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return None
    return None
