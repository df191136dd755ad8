"""What /proc tells from outside of the host: trees of processes, their private memory (USS), and a sampler of it.

None of it uses the host's code, so that the host cannot be wrong in the same way. The sampler is a process of its own,
because the benchmark's threads would make it late; it imports the standard library only. Reading a process takes 7 ms
per GiB that it holds, because the kernel walks its page tables (proc(5), smaps_rollup). So the sampler reads a process
again when its resident or shared pages have changed (statm, 10 us), and every second anyway.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 30.0

READ_AGAIN_S = 1.0
"""Private memory may change with no change of resident memory, by a write to what is shared since a fork."""

_FILE_BYTES = 1 << 16
_ZOMBIE = b"Z"

# An environment variable that everything which the benchmark starts inherits, and nothing else has.
_MARK = "HOSTD_BENCHMARK"


class Process(NamedTuple):
    """A process as nobody can mistake it: a number may be used again, but not with the same start."""

    pid: int
    started_ticks: int


class _Row(NamedTuple):
    process: Process
    parent_pid: int
    is_zombie: bool


def uss_of(pid: int) -> int | None:
    """Return the private memory of a process in bytes; None if it is gone or may not be read."""
    rollup = _read(pid, "smaps_rollup")
    if not rollup:
        return None
    return 1024 * sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith(b"Private_"))


def tables_of(pid: int) -> int:
    """Return the bytes of a process's page tables, which are nobody else's; 0 if it is gone."""
    for line in _read(pid, "status").splitlines():
        if line.startswith(b"VmPTE:"):
            return 1024 * int(line.split()[1])
    return 0


def pss_of(pid: int) -> int:
    """Return the memory of a process in bytes, of shared pages its share; 0 if it is gone or may not be read."""
    for line in _read(pid, "smaps_rollup").splitlines():
        if line.startswith(b"Pss:"):
            return 1024 * int(line.split()[1])
    return 0


TEMPLATE = "hostd:template"
"""The name of the processes that fork workers, which are no model's."""


def name_of(pid: int) -> str:
    """Return the name of a process, "" if it is gone."""
    return _read(pid, "comm").decode(errors="replace").strip()


def tree_of(pid: int) -> list[Process]:
    """Return the descendants of a process; itself is left out."""
    return [process for processes in _trees_below(pid).values() for process in processes]


def children_of(pid: int) -> list[Process]:
    """Return the children of a process."""
    return [processes[0] for processes in _trees_below(pid).values()]


def is_there(process: Process) -> bool:
    """Say whether a process has not ended, a zombie included: somebody has to collect that yet."""
    row = _row_of(process.pid)
    return row is not None and row.process == process


class MachineUss(NamedTuple):
    """The private memory of all processes of the machine, in bytes: the benchmark's own, and those of others."""

    own_bytes: int
    strangers_bytes: int


class Marked:
    """Tells what this benchmark has started, whatever its parent is now, from what runs beside it on the machine."""

    def __init__(self) -> None:
        self._mark = f"{_MARK}={os.getpid()}-{time.monotonic_ns()}"
        self._is_ours: dict[Process, bool] = {}

    @contextmanager
    def everything(self) -> Iterator[Marked]:
        """Mark all that is started in the block."""
        name, _, value = self._mark.partition("=")
        os.environ[name] = value
        try:
            yield self
        finally:
            del os.environ[name]

    def processes(self) -> set[Process]:
        """Return the marked processes that there are."""
        return {row.process for row in _table() if self._is_own(row.process)}

    def machine_uss(self) -> MachineUss:
        """Return the sum over the machine; what may not be read (kernel threads, mostly) counts nothing."""
        own_bytes = strangers_bytes = 0
        for row in _table():
            uss_bytes = uss_of(row.process.pid) or 0
            if self._is_own(row.process):
                own_bytes += uss_bytes
            else:
                strangers_bytes += uss_bytes
        return MachineUss(own_bytes, strangers_bytes)

    def _is_own(self, process: Process) -> bool:
        known = self._is_ours.get(process)
        if known is None:
            environment = _read(process.pid, "environ", limit=1 << 20).split(b"\0")
            known = process.pid == os.getpid() or self._mark.encode() in environment
            # A process that was forked and has not begun its program yet has its parent's environment still.
            if known or environment != [b""]:
                self._is_ours[process] = known
        return known


@dataclass(frozen=True)
class Sample:
    """What all trees held at an instant (`time.monotonic`), in bytes; `took_s` is how long it took to read them."""

    at_s: float
    uss_bytes: int
    took_s: float


@dataclass(frozen=True)
class Series:
    """What a sampler saw: its samples, the trees at the highest of them by their root's pid, and the CPU that it took.

    A process that ended while a sample was taken is not in that: its memory may have gone to the next one meanwhile,
    and the two were never there together.
    """

    samples: Sequence[Sample]
    highest_trees: dict[int, int]
    cpu_s: float
    period_s: float

    @property
    def highest(self) -> Sample:
        """Return the sample with the most."""
        return max(self.samples, key=lambda sample: sample.uss_bytes)

    @property
    def intervals_s(self) -> list[float]:
        """Return the times between two samples, sorted."""
        return sorted(after.at_s - before.at_s for before, after in pairwise(self.samples))

    @property
    def duration_s(self) -> float:
        """Return the time from the first sample to the last."""
        return self.samples[-1].at_s - self.samples[0].at_s

    def growth_bytes(self, period_s: float) -> int:
        """Return the most that was gained between two samples at most `period_s` apart, or that follow each other."""
        most, first = 0, 0
        for number, sample in enumerate(self.samples):
            while first < number - 1 and sample.at_s - self.samples[first].at_s > period_s:
                first += 1
            most = max([most, *(sample.uss_bytes - before.uss_bytes for before in self.samples[first:number])])
        return most

    def describe(self) -> str:
        """Say in words how well the period was kept, and at what cost."""
        intervals, took = self.intervals_s, sorted(sample.took_s for sample in self.samples)
        late = sum(interval_s > 2 * self.period_s for interval_s in intervals)
        return (
            f"sampled from outside {len(self.samples)} times, every {1e3 * _middle(intervals):.0f} ms (asked for "
            f"{1e3 * self.period_s:.0f}; {late} gaps of over two periods, the longest {1e3 * intervals[-1]:.0f} ms); "
            f"a sample took {1e3 * _middle(took):.1f} ms (at most {1e3 * took[-1]:.0f}), the sampler "
            f"{100 * self.cpu_s / self.duration_s:.0f} % of a core"
        )


@dataclass
class Watch:
    """A sampler that runs; `series` is there after the block."""

    series: Series = field(init=False)


@contextmanager
def watching(pid: int, period_s: float, *, is_root_in: bool = False) -> Iterator[Watch]:
    """Sample the trees below a process (with itself, if `is_root_in`) while the block runs, from another process."""
    command = [sys.executable, "-S", "-m", __name__, str(pid), str(period_s), str(int(is_root_in))]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sampler:
        try:
            assert sampler.stdout is not None
            if not sampler.stdout.readline():
                raise RuntimeError(f"the sampler ended with {sampler.wait()} before it began")
            watch = Watch()
            yield watch
            said, _ = sampler.communicate(timeout=PATIENCE_S)
            seen = json.loads(said)
            samples = [Sample(*values) for values in seen["samples"]]
            trees = {int(root): uss_bytes for root, uss_bytes in seen["highest_trees"].items()}
            watch.series = Series(samples, trees, seen["cpu_s"], period_s)
        finally:
            sampler.kill()


def _sample_until_told(pid: int, period_s: float, *, is_root_in: bool) -> None:
    """Take samples until standard input ends, then print them all."""
    clock, reader = time.monotonic, _Reader()
    print("ready", flush=True)
    samples: list[tuple[float, int, float]] = []
    highest_bytes, highest_trees = -1, dict[int, int]()
    due_s = clock()
    while not select.select([sys.stdin], [], [], max(0.0, due_s - clock()))[0]:
        began_s = clock()
        trees = reader.uss_below(pid, is_root_in=is_root_in)
        total_bytes, ended_s = sum(trees.values()), clock()
        samples.append((ended_s, total_bytes, ended_s - began_s))
        if total_bytes > highest_bytes:
            highest_bytes, highest_trees = total_bytes, trees
        # A sample that is late is taken at once, and none is made up for.
        due_s = max(due_s + period_s, ended_s)
    print(json.dumps({"samples": samples, "highest_trees": highest_trees, "cpu_s": time.process_time()}), flush=True)


class _Reader:
    """Reads private memory, and does not read again what cannot have changed."""

    def __init__(self) -> None:
        self._known: dict[Process, tuple[list[bytes], int, float]] = {}

    def uss_below(self, pid: int, *, is_root_in: bool) -> dict[int, int]:
        """Return the private memory of each tree below a process, by its root's pid."""
        trees = _trees_below(pid)
        if is_root_in and (row := _row_of(pid)) is not None:
            trees[pid] = [row.process]
        members = [process for processes in trees.values() for process in processes]
        read = {process: self._uss_of(process) for process in members}
        self._known = {process: self._known[process] for process in members}
        held = {process: uss_bytes for process, uss_bytes in read.items() if _is_running(process)}
        sums = {root: sum(held.get(process, 0) for process in processes) for root, processes in trees.items()}
        return {root: uss_bytes for root, uss_bytes in sums.items() if uss_bytes}

    def _uss_of(self, process: Process) -> int:
        pages, now = _read(process.pid, "statm").split()[1:3], time.monotonic()
        known_pages, uss_bytes, read_s = self._known.get(process, ([], 0, 0.0))
        if pages != known_pages or now - read_s > READ_AGAIN_S:
            uss_bytes = uss_of(process.pid) or 0
            self._known[process] = (pages, uss_bytes, now)
        return uss_bytes


def _is_running(process: Process) -> bool:
    row = _row_of(process.pid)
    return row is not None and row.process == process and not row.is_zombie


def _trees_below(pid: int) -> dict[int, list[Process]]:
    """Return the children of a process by pid, each with all of its descendants."""
    rows = _table()
    children: dict[int, list[Process]] = {}
    for row in rows:
        children.setdefault(row.parent_pid, []).append(row.process)
    trees = {}
    for root in children.get(pid, ()):
        members, pending = [root], [root]
        while pending:
            below = children.get(pending.pop().pid, [])
            members += below
            pending += below
        trees[root.pid] = members
    return trees


def _table() -> list[_Row]:
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208 - it is read 50 times a second
    return [row for row in map(_row_of, pids) if row is not None]


def _row_of(pid: int) -> _Row | None:
    # The name in parentheses may hold anything, parentheses included (proc(5)).
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return _Row(Process(pid, int(fields[19])), int(fields[1]), fields[0] == _ZOMBIE) if fields else None


def _read(pid: int, name: str, limit: int = _FILE_BYTES) -> bytes:
    try:
        fd = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # gone, or not ours to read
        return b""
    try:
        return os.read(fd, limit)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _middle(values: Sequence[float]) -> float:
    return values[len(values) // 2]


if __name__ == "__main__":
    _sample_until_told(int(sys.argv[1]), float(sys.argv[2]), is_root_in=sys.argv[3] == "1")
