"""Memory of a worker's whole tree, as the operating system measures it.

RSS counts pages that several processes share once for each of them, PSS divides them, USS leaves them out. The end of a
process gives its USS back; the end of a tree also gives back the pages that only its own processes share, as forked
children do with their parent: these are in nobody's USS, but the tree's parts of them add up in its PSS.

All of this runs in a thread, and page tables are walked only for what is not known otherwise. A tree whose RSS is as it
was has the figures that it had. A process without descendants that has more or less anonymous memory than before has
that much more or less of its own, if nobody shared any when it was walked. Whether pages of files are its own is up to
others as well: an earlier figure holds as long as no other worker has come, gone or loaded (see `looks`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hostd.core.events import Memory
from hostd.shell.proc import descendants_of
from hostd.shell.process_memory import COUNTS_EXACTLY, brief_of, full_of, rss_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from hostd.shell.process_memory import Full

SIGNIFICANT_BYTES = 256 * 1024
"""Less than this an idle interpreter gains and loses by itself; it is not worth a walk over the page tables."""


class Sample(NamedTuple):
    """What is known of a tree, and whether its page tables were walked for it."""

    memory: Memory
    is_walked: bool


def sample_tree(pid: int, last: Memory | None = None, gpu: Mapping[int, int | None] | None = None) -> Sample | None:
    """Return a sample of a process and its descendants, or None if the process is gone or has ended.

    `last` is an earlier one whose figures may be reckoned with. `gpu` is what each process holds on the devices
    (`GpuReader.bytes_by_pid`), None if that is not known.
    """
    pids = [pid, *descendants_of(pid)]
    rss = _rss_of_each(pids)
    if not any(rss.values()):
        return None
    gpu_bytes = None if gpu is None else _sum([gpu.get(member, 0) for member in pids])
    known = None if last is None else _reckoned(rss, last)
    if known is None:
        return Sample(_walked(rss, gpu_bytes), is_walked=True)
    return Sample(known if known.gpu_bytes == gpu_bytes else known._replace(gpu_bytes=gpu_bytes), is_walked=False)


def resident_bytes_of(pids: Iterable[int]) -> int:
    """Return the resident memory (RSS) of these processes, in bytes; one that is gone counts nothing."""
    return sum(rss_of(pid) or 0 for pid in pids)


def private_bytes_of(pids: Iterable[int], last: Memory | None = None) -> int:
    """Return the bytes that the end of all these processes would give back; one that is gone counts nothing.

    `last` is a sample of them from just now, whose figures may be reckoned with.
    """
    rss = _rss_of_each(pids)
    known = None if last is None else _reckoned(rss, last)
    if known is not None and known.held_bytes is not None:
        return known.held_bytes
    return _held_by([figures for figures in map(full_of, rss) if figures is not None])


def _reckoned(rss: Mapping[int, int], last: Memory) -> Memory | None:
    """Return the figures of a tree, whose processes have this much RSS, if they follow from an earlier sample."""
    if last.processes != len(rss):
        return None
    change_bytes = abs(sum(rss.values()) - last.rss_bytes)
    if last.anon_bytes is None or not change_bytes:
        return last if change_bytes < SIGNIFICANT_BYTES else None
    (now,) = map(brief_of, rss)
    file_bytes = last.file_bytes or 0
    if now is None or now.huge_bytes or now.swap_bytes != last.swap_bytes:
        return None
    if abs(now.file_bytes - file_bytes) >= SIGNIFICANT_BYTES:
        return None
    grown_bytes = now.anon_bytes - last.anon_bytes
    return last._replace(
        rss_bytes=now.anon_bytes + now.file_bytes,
        uss_bytes=_plus(last.uss_bytes, grown_bytes),
        pss_bytes=_plus(last.pss_bytes, grown_bytes),
        held_bytes=_plus(last.held_bytes, grown_bytes),
        peak_bytes=now.peak_bytes,
        anon_bytes=now.anon_bytes,
    )


def _walked(rss: Mapping[int, int], gpu_bytes: int | None) -> Memory:
    full = [figures for figures in map(full_of, rss) if figures is not None]
    briefs = [brief for brief in map(brief_of, rss) if brief is not None]
    sample = Memory(
        processes=len(rss),
        rss_bytes=sum(rss.values()),
        uss_bytes=_sum([figures.uss_bytes for figures in full]),
        pss_bytes=_sum([figures.pss_bytes for figures in full]),
        peak_bytes=_sum([brief.peak_bytes for brief in briefs]),
        swap_bytes=_sum([figures.swap_bytes for figures in full]),
        gpu_bytes=gpu_bytes,
        held_bytes=_held_by(full) if full else None,
    )
    if len(rss) > 1 or not full or not COUNTS_EXACTLY or any(brief.huge_bytes for brief in briefs):
        return sample
    (alone,) = full
    if alone.anon_bytes is None or alone.rss_bytes is None:
        return sample
    # All of one moment, or a change between two of them would be taken for one that comes later.
    return sample._replace(
        rss_bytes=alone.rss_bytes, anon_bytes=alone.anon_bytes, file_bytes=alone.rss_bytes - alone.anon_bytes
    )


def _held_by(tree: Sequence[Full]) -> int:
    # Parts of a page add up to it if all who share it are of this tree. Private pages of files are in USS alone.
    return max(sum(figures.uss_bytes for figures in tree), sum(figures.own_pss_bytes for figures in tree))


def _sum(sizes_bytes: Sequence[int | None]) -> int | None:
    """Return the sum; None if there is nothing to add up, or one of them is not known."""
    known = [size_bytes for size_bytes in sizes_bytes if size_bytes is not None]
    return sum(known) if known and len(known) == len(sizes_bytes) else None


def _plus(size_bytes: int | None, more_bytes: int) -> int | None:
    return None if size_bytes is None else max(0, size_bytes + more_bytes)


def _rss_of_each(pids: Iterable[int]) -> dict[int, int]:
    """Return the RSS of each process that is still there."""
    return {pid: rss_bytes for pid in pids if (rss_bytes := rss_of(pid)) is not None}
