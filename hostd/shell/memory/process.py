"""Memory of one process, as /proc tells it (proc(5)); None of a process that is gone or not ours to look at.

RSS (statm) costs 3 us and a brief look (status) 12 us. The full figures (smaps_rollup) cost 50 us for a bare
interpreter and 3 to 13 ms per GiB, because the kernel walks the page tables; psutil's `memory_full_info` costs 35 us
more, and is asked only where a kernel has no smaps_rollup.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from hostd.shell.linux.proc import read_file
from hostd_workers.wire.light import NamedTuple

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_HAS_ROLLUP = Path("/proc/self/smaps_rollup").exists()

_ROUNDING_BYTES = 64 * 1024
"""Parts of pages are rounded when they are added up."""

_EXACT_SINCE = (6, 17)
"""From this Linux on status and statm add up the counters of all CPUs. Before, each of them could keep 32 pages to
itself, or twice as many pages as there are CPUs if that is more: 32 MiB in all on 64 of them."""


_OF_BRIEF = tuple(
    (name, b"\n%b:" % name)
    for name in (b"RssAnon", b"VmRSS", b"VmHWM", b"RssShmem", b"VmSwap", b"VmPTE", b"VmLck", b"HugetlbPages")
)
"""The lines of status that count. They are searched for, which takes an eighth of the time of reading all lines."""


class Full(NamedTuple):
    """What a walk finds. `own_bytes` is the anonymous part of PSS, `rss_bytes` RSS at that very moment.

    `anon_bytes` is the part of RSS that no file is behind, if all of it is the process's own; else None. `swap_bytes`
    is the process's part of what is swapped out, shared memory apart. `all_anon_bytes` is all anonymous memory, and
    `private_bytes` no less than what no other process has of it: shared memory that is its alone may be in it.
    `locked_bytes` is what of its files is surely locked (mlock(2)), `huge_bytes` the pages of hugetlb that it has to
    itself.
    """

    uss_bytes: int
    pss_bytes: int
    swap_bytes: int
    own_bytes: int | None = None
    rss_bytes: int | None = None
    anon_bytes: int | None = None
    locked_bytes: int = 0
    huge_bytes: int = 0
    private_bytes: int = 0
    all_anon_bytes: int = 0


class Brief(NamedTuple):
    """What is known without a walk. `file_bytes` is RSS but for `anon_bytes`; pages of hugetlb are in neither.

    `mapped_bytes` is the part of `file_bytes` that is shared memory, `table_bytes` what its page tables take. At most
    `locked_bytes` of its files' pages are locked.
    """

    anon_bytes: int
    file_bytes: int
    swap_bytes: int
    peak_bytes: int
    huge_bytes: int
    mapped_bytes: int
    table_bytes: int
    locked_bytes: int

    @property
    def most_bytes(self) -> int:
        """The most that it holds, but for shared memory that it has not mapped: of files only what may be locked."""
        own_bytes = self.anon_bytes + self.swap_bytes + self.huge_bytes + self.table_bytes
        return own_bytes + self.locked_bytes + self.mapped_bytes


def rss_of(pid: int) -> int | None:
    """Return the resident memory of a process in bytes."""
    statm = _read(pid, "statm")
    return int(statm.split()[1]) * _PAGE_BYTES if statm else None


def living_thread_of(pid: int) -> int:
    """Return a thread by which the memory of a process is to be seen, if its first has ended; else the process's id.

    /proc shows nothing of a process under its own number once its first thread is gone, while the others go on.
    """
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - as in `proc`
    except OSError:
        return pid
    return next((thread for thread in map(int, threads) if thread != pid and rss_of(thread)), pid)


def brief_of(pid: int) -> Brief | None:
    """Return what is known without a walk; psutil does not offer all of it on Linux."""
    text = _read(pid, "status")
    sizes: dict[bytes, int] = {}
    for name, beginning in _OF_BRIEF:
        found = text.find(beginning)  # no name of a process has a newline: the kernel escapes it
        if found >= 0:
            sizes[name] = int(text[found + len(beginning) : text.index(b" kB", found)]) * 1024
    anon_bytes, rss_bytes, peak_bytes = (sizes.get(name) for name in (b"RssAnon", b"VmRSS", b"VmHWM"))
    if anon_bytes is None or rss_bytes is None or peak_bytes is None:
        return None
    mapped_bytes, file_bytes = sizes.get(b"RssShmem", 0), rss_bytes - anon_bytes
    return Brief(
        anon_bytes=anon_bytes,
        file_bytes=file_bytes,
        swap_bytes=sizes.get(b"VmSwap", 0),
        peak_bytes=peak_bytes,
        huge_bytes=sizes.get(b"HugetlbPages", 0),
        mapped_bytes=mapped_bytes,
        table_bytes=sizes.get(b"VmPTE", 0),
        locked_bytes=min(sizes.get(b"VmLck", 0), file_bytes - mapped_bytes),
    )


def full_of(pid: int) -> Full | None:
    """Return what a walk over the page tables finds."""
    if not _HAS_ROLLUP:
        return _full_by_psutil(pid)
    sizes = _sizes_in(_read(pid, "smaps_rollup"))
    if b"Pss" not in sizes:
        return None
    anon_bytes, own_bytes = sizes.get(b"Anonymous", 0), sizes.get(b"Pss_Anon")
    locked_bytes = sizes.get(b"Locked", 0) - (own_bytes or 0) - sizes.get(b"Pss_Shmem", 0)
    return Full(
        uss_bytes=sum(size_bytes for name, size_bytes in sizes.items() if name.startswith(b"Private_")),
        pss_bytes=sizes[b"Pss"],
        swap_bytes=sizes.get(b"SwapPss", sizes.get(b"Swap", 0)),
        own_bytes=own_bytes,
        rss_bytes=sizes.get(b"Rss"),
        # Forked relatives and merged pages (KSM) share it: then a part of it is somebody else's.
        anon_bytes=anon_bytes if own_bytes is not None and abs(anon_bytes - own_bytes) < _ROUNDING_BYTES else None,
        # It is not told apart what of it is anonymous: nobody is charged for a file that is not locked.
        locked_bytes=max(0, locked_bytes),
        huge_bytes=sizes.get(b"Private_Hugetlb", 0),
        private_bytes=min(anon_bytes, sizes.get(b"Private_Dirty", 0)),
        all_anon_bytes=anon_bytes,
    )


def counts_exactly(release: str) -> bool:
    """Say whether that kernel tells RSS to the page, and not only about."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return found is not None and (int(found[1]), int(found[2])) >= _EXACT_SINCE


COUNTS_EXACTLY = counts_exactly(os.uname().release)


def _read(pid: int, name: str) -> bytes:
    try:
        return read_file(pid, name) or b""
    except OSError:  # not ours to read, or no descriptor left: then nothing is known of it
        return b""


def _full_by_psutil(pid: int) -> Full | None:
    import psutil  # noqa: PLC0415 - few kernels need it

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
