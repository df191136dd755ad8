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
from benchmarks.runner import Round

if TYPE_CHECKING:
    from collections.abc import Iterator

RUN_TIMEOUT_S = 120.0

JOBLIB_SOURCE = "import sys, sklearn, joblib; joblib.load(sys.argv[1])"
MODULE_SOURCE = "import sys, zmq, msgpack, runpy; model = runpy.run_path(sys.argv[1])['load'](None)"


def run_interpreter(source: str, *arguments: object) -> None:
    """Run a program in a fresh interpreter to its end; raises CalledProcessError when it fails."""
    command = [sys.executable, "-c", source, *(str(argument) for argument in arguments)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=RUN_TIMEOUT_S)


def interpreter_round(source: str, *arguments: object, until_ready: bool = False) -> Round:
    """Time a fresh interpreter: to its end, or until it says that its source has run.

    A process that holds 1 GiB takes 0.1 s to end, which a load does not wait for: hence `until_ready`.
    """
    start = time.perf_counter()
    if not until_ready:
        run_interpreter(source, *arguments)
        elapsed_s = time.perf_counter() - start
        return Round([elapsed_s], elapsed_s)
    with _announcing(source, *arguments) as process:
        _await_word(process)
        elapsed_s = time.perf_counter() - start
    return Round([elapsed_s], elapsed_s)


def kill_round(size_bytes: int) -> Round:
    """Time SIGKILL to reaped, of a bare process that holds `size_bytes` of private memory."""
    with child(__name__, size_bytes, stdout=subprocess.PIPE) as process:
        _await_word(process)
        start = time.perf_counter()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        elapsed_s = time.perf_counter() - start
    return Round([elapsed_s], elapsed_s)


@contextmanager
def _announcing(source: str, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    ending = "; print('ready', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", source + ending, *(str(argument) for argument in arguments)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def _await_word(process: subprocess.Popen[bytes]) -> None:
    if process.stdout is None or not process.stdout.readline():
        raise RuntimeError(f"the floor's process {process.args!r} ended before it was ready")


def main() -> None:
    """Hold memory until killed."""
    die_with_parent()
    memory = bytearray(b"\x01") * int(sys.argv[1])
    print("ready", len(memory), flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
