"""`death`: SIGKILL of the supervisor, of its reaper or of the embedding program, until no process of the host is left.

Each round starts a host with models that have a helper process of their own, kills one of the three, and watches every
process from outside, by pidfd. What counts is the last one to end.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from benchmarks.models import model_directory, write_parent
from benchmarks.runner import Round, Rounds, Side
from benchmarks.verdicts import Against, By, Comparison, Target, compare

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.runner import Effort

MODELS = 5
LIMIT_S = 1.0
PATIENCE_S = 30.0

# Run as a program of its own, because it is the embedding process that is killed.
EMBEDDER = """
import os, sys, hostd, psutil
with hostd.Host() as host:
    client = host.client()
    for number in range(int(sys.argv[2])):
        client.load_model(f"model-{number}", sys.argv[1])
    reaper = psutil.Process(host.pid).ppid()
    everybody = [process.pid for process in psutil.Process(reaper).children(recursive=True)]
    print(os.getpid(), reaper, host.pid, *everybody, flush=True)
    sys.stdin.read()
"""

VICTIMS = ("embedding program", "reaper", "supervisor")


def death(effort: Effort, *, with_host: bool) -> Iterator[Comparison]:
    """Kill each of the three, `effort.slow_rounds` times."""
    if not with_host:
        return
    with model_directory() as directory:
        path = write_parent(directory)
        rounds = {
            victim: [_kill(path, index) for _ in range(effort.slow_rounds)] for index, victim in enumerate(VICTIMS)
        }
    sides = [Side(victim, lambda: rounds[VICTIMS[0]][0], is_ours=True) for victim in VICTIMS]
    targets = [Target(victim, "", Against.ALONE, LIMIT_S) for victim in VICTIMS]
    title = f"SIGKILL of one until all are gone, {MODELS} models with helpers"
    yield compare("death", title, By.LATENCY, sides, Rounds(rounds), targets)


def _kill(path: Path, victim: int) -> Round:
    command = [sys.executable, "-c", EMBEDDER, str(path), str(MODELS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        if program.stdout is None:
            raise RuntimeError("a program without a pipe")
        pids = [int(word) for word in program.stdout.readline().split()]
        descriptors = [os.pidfd_open(pid) for pid in {*pids[1:]}]
        try:
            started_s = time.perf_counter()
            os.kill(pids[victim], signal.SIGKILL)
            for descriptor in descriptors:
                poller = select.poll()
                poller.register(descriptor, select.POLLIN)
                if not poller.poll(PATIENCE_S * 1000):
                    raise RuntimeError(f"a process outlived the {VICTIMS[victim]} by {PATIENCE_S:g} s")
            elapsed_s = time.perf_counter() - started_s
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
            program.kill()
    return Round([elapsed_s], elapsed_s)
