"""Kills: SIGKILL of supervisor, reaper, embedding program, or two at once, at any moment of a host's life.

What must hold: nothing of the host is left, whatever its models have started; at once, or if supervisor and reaper are
killed together, when the next host starts.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from helpers import TAG, describe, eventually, new_tag, tagged

import hostd

MODELS = 3
PATIENCE_S = 20.0

MODEL = """
import subprocess, sys
def load(path):
    for _ in range(3):
        subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"], start_new_session=True)
    return lambda: 1
"""

EMBEDDER = """
import os, sys, hostd, psutil
with hostd.Host() as host, host.client() as client:
    print(os.getpid(), host.pid, psutil.Process(host.pid).ppid(), flush=True)
    for number in range(int(sys.argv[2])):
        client.load_model(f"model-{number}", sys.argv[1])
    while True:
        client.load_model("again", sys.argv[1])
        client.unload_model("again")
"""

VICTIMS = (
    ["supervisor"],
    ["reaper"],
    ["program"],
    ["supervisor", "program"],
    ["supervisor", "reaper"],
    ["reaper", "program"],
)


def run(count, seed):
    """Kill so many hosts; return what was done, and what was wrong."""
    chance, wrong, longest_s, done = random.Random(seed), [], 0.0, 0
    with tempfile.TemporaryDirectory(prefix="kills-") as scratch:
        model = Path(scratch) / "model"
        model.mkdir()
        (model / "model.py").write_text(MODEL)
        for number in range(count):
            victims = VICTIMS[number % len(VICTIMS)]
            try:
                longest_s = max(longest_s, _kill(model, victims, chance))
                done += 1
            except AssertionError as error:
                wrong.append(f"{' and '.join(victims)}: {error}")
    return {"kills": done, "longest_s": round(longest_s, 3), "seed": seed}, wrong


def _kill(model, victims, chance):
    tag = new_tag()
    command = [sys.executable, "-c", EMBEDDER, str(model), str(MODELS)]
    environment = {**os.environ, TAG: tag, "XDG_RUNTIME_DIR": str(model.parent)}  # some directories are left, too
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as program:
        pids = dict(zip(("program", "supervisor", "reaper"), map(int, program.stdout.readline().split()), strict=True))
        time.sleep(chance.uniform(0, 2.5))
        began_s = time.monotonic()
        for victim in victims:
            os.kill(pids[victim], signal.SIGKILL)
        # What nobody is left to collect the next host ends.
        with hostd.Host(log_level="error") if {"supervisor", "reaper"} <= {*victims} else contextlib.nullcontext():
            try:
                eventually(lambda: tagged(tag) <= {program.pid}, "only the program is left", within_s=PATIENCE_S)
            except AssertionError as error:
                raise AssertionError(f"{error}; left: {describe(tagged(tag))}") from None
        took_s = time.monotonic() - began_s
        program.kill()
    for pid in tagged(tag):
        psutil.Process(pid).kill()
    return took_s
