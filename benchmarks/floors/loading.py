"""Floor of a forked load: a process that has imported the libraries, and loads the same file when it is told to."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.floors.lane import ROOT
from benchmarks.runner import Round

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SERVE = """
import sys, time
for line in sys.stdin:
    began_s = time.perf_counter()
    model = load(sys.argv[1])
    print(time.perf_counter() - began_s, flush=True)
"""


class WarmProcess(NamedTuple):
    """A process that loads once for each line that it gets."""

    process: subprocess.Popen[str]

    def round(self) -> Round:
        """Have it load once; it measures that itself."""
        if self.process.stdin is None or self.process.stdout is None:
            raise RuntimeError("the process has no pipes")
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        elapsed_s = float(self.process.stdout.readline())
        return Round([elapsed_s], elapsed_s)


@contextmanager
def warm_process(source: str, path: Path) -> Iterator[WarmProcess]:
    """Start one; `source` imports what is needed and defines `load(path)`."""
    command = [sys.executable, "-W", "ignore", "-c", source + _SERVE, str(path)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield WarmProcess(process)
        finally:
            process.kill()
