"""Memory of a worker's whole tree, as the operating system measures it.

RSS counts pages that several processes share once for each of them, PSS divides them, USS leaves them out. None of
these is what the end of a tree gives back, which is what it is charged:

* anonymous memory: the tree's parts of it add up in PSS, also of what forked children share with their parent and have
  in nobody's USS;
* page tables, which may be larger than what is in the pages (VmPTE);
* pages of hugetlb, and pages of files that are locked;
* shared memory, whole, whether it is mapped or not (`shared_memory`).

All other pages of files stay in the kernel's cache, which takes them back when it wants to. They are not charged.

All of this runs in a thread, and page tables are walked only for what is not known otherwise. A tree with an unchanged
RSS has the figures that it had. A process without descendants that has more or less anonymous memory than before has
that much more or less of its own, if nobody shared any when it was walked. Whether pages of files are its own, which
USS and PSS tell, is up to others as well: an earlier figure holds as long as no other worker has come, gone or loaded
(see `looks`). Shared memory is looked for when there is more or less of it in the whole system than before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hostd.core.events import Memory
from hostd.shell.linux.proc import descendants_of
from hostd.shell.memory.process import COUNTS_EXACTLY, brief_of, full_of, living_thread_of, rss_of
from hostd.shell.memory.shared import shared_bytes_of, system_bytes
from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from hostd.shell.memory.process import Brief, Full

SIGNIFICANT_BYTES: Final = 256 * 1024
"""Less than this an idle interpreter gains and loses by itself; it is not worth a walk over the page tables."""

QUIET_BYTES: Final = 64 * 1024
"""What a worker has of shared memory that is not its model's, such as the page of its figures, is less than this."""


class Sample(NamedTuple):
    """What is known of a tree, and whether its page tables were walked for it."""

    memory: Memory
    is_walked: bool


def sample_tree(
    pid: int,
    last: Memory | None = None,
    gpu: Mapping[int, int | None] | None = None,
    sharers: int = 0,
    quiet_bytes: int | None = None,
) -> Sample | None:
    """Return a sample of a process and its descendants, or None if the process is gone or has ended.

    `last` is an earlier one; its figures may be estimated with. `gpu` is what each process holds on the devices
    (`GpuReader.bytes_by_pid`), None if that is not known. `sharers` is how many other processes have pages of the
    template that it was forked from, 0 for a fresh one. `quiet_bytes` is the shared memory that there was in the whole
    system when these processes had none (`system_bytes`), if that is known.
    """
    pids = [pid, *descendants_of(pid)]
    around_bytes = system_bytes()
    rss = _rss_of_each(pids)
    if not any(rss.values()):
        return None
    gpu_bytes = None if gpu is None else _sum([gpu.get(member, 0) for member in pids])
    known = None if last is None else _reckoned(rss, last)
    is_walked = known is None
    memory = _walked(rss, sharers) if known is None else known
    if known is None and quiet_bytes is not None and abs(around_bytes - quiet_bytes) < QUIET_BYTES:
        is_mapped = sum(brief.mapped_bytes for brief in map(brief_of, rss) if brief is not None) >= QUIET_BYTES
        memory = memory._replace(shared_bytes=shared_bytes_of(rss, is_mapped=is_mapped), around_bytes=around_bytes)
    elif known is None or abs(around_bytes - known.around_bytes) >= SIGNIFICANT_BYTES:
        memory = memory._replace(shared_bytes=shared_bytes_of(rss), around_bytes=around_bytes)
    return Sample(memory if memory.gpu_bytes == gpu_bytes else memory._replace(gpu_bytes=gpu_bytes), is_walked)


def most_bytes_of(pids: Iterable[int]) -> int:
    """Return what these processes hold at most, but for shared memory that they have not mapped.

    A process that is gone counts nothing. Where the system does not tell kinds of memory apart, all that is resident
    may be held.
    """
    return sum(map(_most_bytes_of, pids))


def private_bytes_of(pids: Iterable[int], last: Memory | None = None, sharers: int = 0) -> int:
    """Return the bytes that the end of all these processes gives back, but for shared memory.

    A process that is gone counts nothing. `last` is a sample of them from just now, to estimate from; `sharers` is as
    in `sample_tree`.
    """
    rss = _rss_of_each(pids)
    known = None if last is None else _reckoned(rss, last)
    if known is not None and known.held_bytes is not None:
        return known.held_bytes
    return _held_by(_looked_at(rss), sharers) or 0


class _One(NamedTuple):
    """A process. Of one that may not be walked, as of another user's or one that is not dumpable, `full` is None."""

    full: Full | None
    brief: Brief | None

    @property
    def own_bytes(self) -> int:
        """Its part of anonymous memory. A kernel that does not tell it tells what it cannot be more than."""
        full, anon_bytes = self.full, None if self.brief is None else self.brief.anon_bytes
        if full is None:
            return anon_bytes or 0
        if full.own_bytes is not None:
            return full.own_bytes
        return full.uss_bytes if anon_bytes is None else min(anon_bytes, full.pss_bytes)

    def unshared_bytes(self, sharers: int, tree: int) -> int:
        """Return its part of the anonymous memory that only its tree of so many has, of a template's descendant.

        What it shares with all of them, and what it shares within its tree, is not told apart: each is a different part
        of what it shares, so the sum of these parts tells.
        """
        full = self.full
        if full is None or full.own_bytes is None:
            return self.own_bytes
        processes, all_bytes = sharers + tree, full.all_anon_bytes
        # Fewer than all of them may have a page, which makes its part larger: so neither of these is too little.
        most_bytes = all_bytes - (all_bytes - full.own_bytes) / (1 - 1 / processes)
        private_bytes = min(full.private_bytes, max(0, int(most_bytes)))
        shared_bytes = all_bytes - private_bytes
        part_bytes = full.own_bytes - private_bytes - shared_bytes / processes
        within_bytes = 0.0 if tree == 1 else part_bytes / (1 - 2 / processes)
        return private_bytes + int(min(max(0.0, within_bytes), shared_bytes))

    @property
    def huge_bytes(self) -> int:
        """The pages of hugetlb that it has to itself, as far as that is known."""
        return 0 if self.full is None else self.full.huge_bytes

    @property
    def locked_bytes(self) -> int:
        """What of its files is surely locked."""
        return 0 if self.full is None else self.full.locked_bytes

    @property
    def swap_bytes(self) -> int | None:
        """Its part of what is swapped out, or all of it."""
        if self.full is not None:
            return self.full.swap_bytes
        return None if self.brief is None else self.brief.swap_bytes


def _looked_at(pids: Iterable[int]) -> list[_One]:
    found = [_One(full_of(pid), brief_of(pid)) for pid in pids]
    return [one for one in found if one != (None, None)]


def _held_by(tree: Sequence[_One], sharers: int) -> int | None:
    """Return what the end of these processes gives back but for shared memory; None if nothing is known of them."""
    if not tree:
        return None
    briefs = [one.brief for one in tree if one.brief is not None]
    # Whether processes share pages of hugetlb is not told: all that one of them has is held by it.
    huge_bytes = max([sum(one.huge_bytes for one in tree), *(brief.huge_bytes for brief in briefs)])
    tables_bytes = sum(brief.table_bytes for brief in briefs)
    own_bytes = sum(one.own_bytes if sharers == 0 else one.unshared_bytes(sharers, len(tree)) for one in tree)
    return own_bytes + sum(one.locked_bytes for one in tree) + huge_bytes + tables_bytes


def _most_bytes_of(pid: int) -> int:
    brief = brief_of(pid)
    if brief is not None:
        return brief.most_bytes
    rss_bytes = rss_of(pid)
    if rss_bytes == 0 and (thread := living_thread_of(pid)) != pid:
        return _most_bytes_of(thread)
    return rss_bytes or 0


def _reckoned(rss: Mapping[int, int], last: Memory) -> Memory | None:
    """Return the figures of a tree with this much RSS, if they follow from an earlier sample."""
    if last.processes != len(rss):
        return None
    briefs = list(map(brief_of, rss))
    if last.anon_bytes is None:
        # Page tables grow by reading what was never written, and nothing else does then.
        table_bytes = sum(brief.table_bytes for brief in briefs if brief is not None)
        change_bytes = max(abs(sum(rss.values()) - last.rss_bytes), abs(table_bytes - last.table_bytes))
        return last if change_bytes < SIGNIFICANT_BYTES else None
    (now,) = briefs
    file_bytes = last.file_bytes or 0
    if now is None or now.huge_bytes or now.swap_bytes != last.swap_bytes or now.locked_bytes >= SIGNIFICANT_BYTES:
        return None
    if abs(now.file_bytes - file_bytes) >= SIGNIFICANT_BYTES:
        return None
    grown_bytes = now.anon_bytes - last.anon_bytes
    return last._replace(
        rss_bytes=now.anon_bytes + now.file_bytes,
        uss_bytes=_plus(last.uss_bytes, grown_bytes),
        pss_bytes=_plus(last.pss_bytes, grown_bytes),
        held_bytes=_plus(last.held_bytes, grown_bytes + now.table_bytes - last.table_bytes),
        peak_bytes=now.peak_bytes,
        anon_bytes=now.anon_bytes,
        table_bytes=now.table_bytes,
    )


def _walked(rss: Mapping[int, int], sharers: int) -> Memory:
    tree = _looked_at(rss)
    briefs = [one.brief for one in tree if one.brief is not None]
    sample = Memory(
        processes=len(rss),
        rss_bytes=sum(rss.values()),
        uss_bytes=_sum([None if one.full is None else one.full.uss_bytes for one in tree]),
        pss_bytes=_sum([None if one.full is None else one.full.pss_bytes for one in tree]),
        peak_bytes=_sum([brief.peak_bytes for brief in briefs]),
        swap_bytes=_sum([one.swap_bytes for one in tree]),
        held_bytes=_held_by(tree, sharers),
        table_bytes=sum(brief.table_bytes for brief in briefs),
    )
    if len(rss) > 1 or not tree or not COUNTS_EXACTLY or any(brief.huge_bytes for brief in briefs):
        return sample
    full = tree[0].full
    if full is None or full.anon_bytes is None or full.rss_bytes is None:
        return sample
    # All of one moment, or a change between two of them would be taken for one that comes later.
    rss_bytes, anon_bytes = full.rss_bytes, full.anon_bytes
    return sample._replace(rss_bytes=rss_bytes, anon_bytes=anon_bytes, file_bytes=rss_bytes - anon_bytes)


def _sum(sizes_bytes: Sequence[int | None]) -> int | None:
    """Return the sum; None if there is nothing to add up, or one of them is not known."""
    known = [size_bytes for size_bytes in sizes_bytes if size_bytes is not None]
    return sum(known) if known and len(known) == len(sizes_bytes) else None


def _plus(size_bytes: int | None, more_bytes: int) -> int | None:
    return None if size_bytes is None else max(0, size_bytes + more_bytes)


def _rss_of_each(pids: Iterable[int]) -> dict[int, int]:
    """Return the RSS of each process that is still there, by the thread by which /proc tells of it."""
    found = {}
    for pid in pids:
        rss_bytes = rss_of(pid)
        if rss_bytes == 0 and (thread := living_thread_of(pid)) != pid:
            found[thread] = rss_of(thread) or 0
        elif rss_bytes is not None:
            found[pid] = rss_bytes
    return found
