"""Floors of loads, starts and unloads: whole interpreters that do the same work, and processes that hold memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from benchmarks.floors.lane import ROOT, child, die_with_parent
from benchmarks.runner import Round, timed

if TYPE_CHECKING:
    from collections.abc import Iterator

RUN_TIMEOUT_S = 120.0

JOBLIB_SOURCE = "import sys, sklearn, joblib; joblib.load(sys.argv[1])"
MODULE_SOURCE = "import sys, runpy, zmq, msgpack; model = runpy.run_path(sys.argv[1])['load'](None)"


def interpreter_round(source: str, *arguments: object) -> Round:
    """Time a fresh interpreter as a whole process, its exit included.

    Without a timeout: with one, `subprocess` looks for the end at intervals of up to 50 ms.
    """
    command = [sys.executable, "-c", source, *(str(argument) for argument in arguments)]
    return timed(lambda: subprocess.run(command, cwd=ROOT, check=True))


def ready_round(source: str, *arguments: object) -> Round:
    """Time a fresh interpreter until it says that its source has run.

    The exit is not in it: no load waits for that, and it takes 0.2 s with scikit-learn, 0.1 s with 1 GiB.
    """
    start = time.perf_counter()
    with _running(source + "; print('ready', flush=True); sys.stdin.read()", *arguments) as process:
        _read_word(process)
        elapsed_s = time.perf_counter() - start
    return Round([elapsed_s], elapsed_s)


def told_round(source: str, *arguments: object) -> Round:
    """Run a program in a fresh interpreter; it measures itself and prints the seconds."""
    with _running(source, *arguments) as process:
        elapsed_s = float(_read_word(process))
        process.wait(RUN_TIMEOUT_S)
    return Round([elapsed_s], elapsed_s)


def kill_round(size_bytes: int) -> Round:
    """Time SIGKILL to reaped, of a bare process that holds `size_bytes` of private memory."""
    with child(__name__, size_bytes, stdout=subprocess.PIPE) as process:
        _read_word(process)
        start = time.perf_counter()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        elapsed_s = time.perf_counter() - start
    return Round([elapsed_s], elapsed_s)


@contextmanager
def _running(source: str, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", source, *(str(argument) for argument in arguments)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def _read_word(process: subprocess.Popen[bytes]) -> bytes:
    word = process.stdout.readline() if process.stdout is not None else b""
    if not word:
        raise RuntimeError(f"the process {process.args!r} ended without a word")
    return word


def main() -> None:
    """Hold memory until killed."""
    die_with_parent()
    memory = bytearray(b"\x01") * int(sys.argv[1])
    print("ready", len(memory), flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
