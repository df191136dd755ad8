"""Memory of one process, as /proc tells it (proc(5)); None of a process that is gone or not ours to look at.

RSS (statm) costs 3 us and a brief look (status) 5 us. The full figures (smaps_rollup) cost 50 us for a bare interpreter
and 3 to 13 ms per GiB, because the kernel walks the page tables; psutil's `memory_full_info` costs 35 us more, and is
asked only where a kernel has no smaps_rollup.
"""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import NamedTuple

import psutil

from hostd.shell.proc import read_file

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_HAS_ROLLUP = Path("/proc/self/smaps_rollup").exists()

_ROUNDING_BYTES = 64 * 1024
"""Parts of pages are rounded when they are added up."""

_EXACT_SINCE = (6, 17)
"""The Linux whose status and statm add up the counters of all CPUs. Before, each of them could keep 32 pages to itself,
or twice as many pages as there are CPUs if that is more: 32 MiB in all on 64 of them."""


class Full(NamedTuple):
    """What a walk finds. `own_pss_bytes` is the part of PSS that is no file's, `rss_bytes` RSS at that very moment.

    `anon_bytes` is the part of RSS that no file is behind, if all of it is the process's own; else None.
    """

    uss_bytes: int
    pss_bytes: int
    swap_bytes: int
    own_pss_bytes: int = 0
    rss_bytes: int | None = None
    anon_bytes: int | None = None


class Brief(NamedTuple):
    """What is known without a walk. `file_bytes` is RSS but for `anon_bytes`; pages of hugetlb are in neither."""

    anon_bytes: int
    file_bytes: int
    swap_bytes: int
    peak_bytes: int
    huge_bytes: int


def rss_of(pid: int) -> int | None:
    """Return the resident memory of a process in bytes."""
    statm = _read(pid, "statm")
    return int(statm.split()[1]) * _PAGE_BYTES if statm else None


def brief_of(pid: int) -> Brief | None:
    """Return what is known without a walk; psutil does not offer all of it on Linux."""
    sizes = _sizes_in(_read(pid, "status"))
    anon_bytes, rss_bytes, peak_bytes = (sizes.get(name) for name in (b"RssAnon", b"VmRSS", b"VmHWM"))
    if anon_bytes is None or rss_bytes is None or peak_bytes is None:
        return None
    swap_bytes, huge_bytes = sizes.get(b"VmSwap", 0), sizes.get(b"HugetlbPages", 0)
    return Brief(anon_bytes, rss_bytes - anon_bytes, swap_bytes, peak_bytes, huge_bytes)


def full_of(pid: int) -> Full | None:
    """Return what a walk over the page tables finds."""
    if not _HAS_ROLLUP:
        return _full_by_psutil(pid)
    sizes = _sizes_in(_read(pid, "smaps_rollup"))
    if b"Pss" not in sizes:
        return None
    anon_bytes, own_bytes = sizes.get(b"Anonymous", 0), sizes.get(b"Pss_Anon", 0)
    return Full(
        uss_bytes=sum(size_bytes for name, size_bytes in sizes.items() if name.startswith(b"Private_")),
        pss_bytes=sizes[b"Pss"],
        swap_bytes=sizes.get(b"Swap", 0),
        own_pss_bytes=own_bytes + sizes.get(b"Pss_Shmem", 0),
        rss_bytes=sizes.get(b"Rss"),
        # Forked relatives and merged pages (KSM) share it: then a part of it is somebody else's.
        anon_bytes=anon_bytes if abs(anon_bytes - own_bytes) < _ROUNDING_BYTES else None,
    )


def counts_exactly(release: str) -> bool:
    """Say whether that kernel tells RSS to the page, and not only about."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return found is not None and (int(found[1]), int(found[2])) >= _EXACT_SINCE


COUNTS_EXACTLY = counts_exactly(platform.release())


def _read(pid: int, name: str) -> bytes:
    try:
        return read_file(pid, name) or b""
    except OSError:  # not ours to read, or no descriptor left: then nothing is known of it
        return b""


def _full_by_psutil(pid: int) -> Full | None:
    try:
        info = psutil.Process(pid).memory_full_info()
    except (psutil.Error, OSError):
        return None
    return Full(int(info.uss), int(info.pss), int(info.swap))


def _sizes_in(text: bytes) -> dict[bytes, int]:
    """Return all sizes in bytes that a file of /proc gives by name, in lines such as `VmRSS:     4096 kB`.

    Other lines say what a process likes: its name may be anything, `a kB` too.
    """
    sizes = {}
    for line in text.split(b"\n"):
        name, _, value = line.partition(b":")
        number = value[:-3].strip()
        if value.endswith(b" kB") and number.isdigit():
            sizes[name] = int(number) * 1024
    return sizes
