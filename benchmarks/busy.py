"""Another program that wants the processors: interpreters that only count, on a given number of cores.

A fraction is a process that works for that share of every period and sleeps for the rest, as a busy service does.
Run as a program it is one of them: `python -m benchmarks.busy SHARE`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from benchmarks.floors.lane import child, die_with_parent

if TYPE_CHECKING:
    from collections.abc import Iterator

# Short against a round, long against a scheduler's slice (3 ms).
PERIOD_S = 0.02


def all_but_half() -> float:
    """Return the cores that there are, less a half: one and a half of two."""
    return len(os.sched_getaffinity(0)) - 0.5


@contextmanager
def busy(cores: float) -> Iterator[None]:
    """Keep so many cores busy in the block."""
    whole, rest = divmod(cores, 1)
    with ExitStack() as stack:
        for share in [1.0] * int(whole) + [rest] * (rest > 0):
            process = stack.enter_context(child(__name__, share, stdout=subprocess.PIPE))
            assert process.stdout is not None
            if not process.stdout.readline():
                raise RuntimeError(f"the program that should be busy has ended with {process.wait()}")
        yield


def main() -> None:
    """Be busy until killed."""
    die_with_parent()
    share = float(sys.argv[1])
    print("busy", flush=True)
    while True:
        until_s = time.perf_counter() + share * PERIOD_S
        while time.perf_counter() < until_s:
            pass
        if share < 1:
            time.sleep((1 - share) * PERIOD_S)


if __name__ == "__main__":
    main()
