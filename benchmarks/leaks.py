"""`leaks`: the same leaky model of 500 MB, unloaded by the host and dropped in one process, side by side in one run.

The floors are fresh interpreters that load the same `model.py`. One drops the model as a program does that serves
several in one process: `del` and `gc.collect()`; the other tries harder, drops the module with its caches as well, and
has the allocator give back what it can (malloc_trim(3)). What was given back is by how much the private memory (USS) of
all that the benchmark has started fell, as read from outside: the interpreter, the supervisor and its worker.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.machine import Neighbours
from benchmarks.memory_models import MB, write_leaky
from benchmarks.models import model_directory
from benchmarks.outside import Marked, uss_of
from benchmarks.runner import HOST
from benchmarks.verdicts import Against, By, Comparison, Figure, Verdict, alone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import hostd
    from benchmarks.runner import Effort

MODEL_ID = "leaky"
MODEL_BYTES = 500 * MB
ROUNDS = 5
LEFT_LIMIT_BYTES = 5 * MB
"""What the host may keep of a model: a hundredth, for its books and for pages that it shares with nobody any more."""

DROPPED = "one process: del, gc.collect()"
DROPPED_HARDER = "one process: also the module, malloc_trim"

# Imports as a program does, so that the module stays in `sys.modules` with its caches.
_SOURCE = """
import ctypes, gc, sys
sys.path.insert(0, sys.argv[1])
print(flush=True)
sys.stdin.readline()
import model
served = model.load(sys.argv[1], size_bytes=int(sys.argv[2]))
print(served.size(), flush=True)
sys.stdin.readline()
{drop}
print(flush=True)
sys.stdin.readline()
"""
SOURCE = _SOURCE.format(drop="del served; gc.collect()")
HARDER_SOURCE = _SOURCE.format(
    drop="del served, model, sys.modules['model']; gc.collect(); ctypes.CDLL(None).malloc_trim(0)"
)


class Uses(NamedTuple):
    """Private memory in bytes before a load, with the model, and after that is gone."""

    before_bytes: int
    loaded_bytes: int
    after_bytes: int

    @property
    def taken_bytes(self) -> int:
        """Return what the load took."""
        return self.loaded_bytes - self.before_bytes

    @property
    def given_back_bytes(self) -> int:
        """Return what was given back."""
        return self.loaded_bytes - self.after_bytes

    @property
    def left_bytes(self) -> int:
        """Return what is left of the model."""
        return self.after_bytes - self.before_bytes


def leaks(effort: Effort, *, with_host: bool) -> Iterator[Comparison]:
    """Load and drop, in alternation."""
    rounds = 1 if effort.is_quick else ROUNDS
    with model_directory() as directory, Marked().everything() as marked, contextlib.ExitStack() as stack:
        path = write_leaky(directory / MODEL_ID, MODEL_BYTES)
        sides: dict[str, Callable[[], Uses]] = {
            DROPPED: lambda: _in_one_process(SOURCE, path),
            DROPPED_HARDER: lambda: _in_one_process(HARDER_SOURCE, path),
        }
        if with_host:
            import hostd  # noqa: PLC0415 - the floors can be measured without the host

            client = stack.enter_context(hostd.Host()).client()
            # The first model of a host has it import what later ones do not.
            client.load_model(MODEL_ID, path)
            client.unload_model(MODEL_ID)
            sides[HOST] = lambda: _by_the_host(client, path, marked)
        neighbours = Neighbours()
        found: dict[str, list[Uses]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, use in sides.items():
                found[name].append(use())
        yield from _comparisons(found, neighbours.cores())


def _in_one_process(source: str, path: Path) -> Uses:
    command = [sys.executable, "-c", source, str(path), str(MODEL_BYTES)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            uses = []
            for _ in range(3):
                if not process.stdout.readline():
                    raise RuntimeError(f"the process that drops a model ended with {process.wait()}")
                uses.append(uss_of(process.pid) or 0)
                process.stdin.write("\n")
                process.stdin.flush()
        finally:
            process.kill()
    return Uses(*uses)


def _by_the_host(client: hostd.Client, path: Path, marked: Marked) -> Uses:
    before_bytes = marked.machine_uss().own_bytes
    client.load_model(MODEL_ID, path)
    loaded_bytes = marked.machine_uss().own_bytes
    client.unload_model(MODEL_ID)
    return Uses(before_bytes, loaded_bytes, marked.machine_uss().own_bytes)


def _comparisons(found: dict[str, list[Uses]], others_cores: float) -> Iterator[Comparison]:
    title = "bytes given back by a leaky model of 500 MB"
    figures = [
        Figure(name, By.BYTES, statistics.median(use.given_back_bytes for use in uses), None, len(uses), name == HOST)
        for name, uses in found.items()
    ]
    verdicts = []
    if HOST in found:
        for name, uses in found.items():
            ratios = [
                mine.given_back_bytes / max(1, theirs.given_back_bytes)
                for mine, theirs in zip(found[HOST], uses, strict=True)
                if name != HOST
            ]
            if ratios:
                middle = statistics.median(ratios)
                verdicts.append(Verdict(HOST, name, By.BYTES, Against.RATIO, middle, min(ratios), max(ratios)))
    yield Comparison("leaks", title, figures, verdicts, [], others_cores)
    observed: list[tuple[str, By, float, float | None]] = []
    for name, uses in found.items():
        observed.append((f"taken, {name}", By.BYTES, statistics.median(use.taken_bytes for use in uses), None))
        ceiling = LEFT_LIMIT_BYTES if name == HOST else None
        observed.append((f"left, {name}", By.BYTES, statistics.median(use.left_bytes for use in uses), ceiling))
    yield alone("leaks", "what it took, and what is left of it", observed, [], others_cores)
