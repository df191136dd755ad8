"""The models of the benchmarks of memory: as large as they say, with a family, growing, or leaking."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from pathlib import Path

MB = 1_000_000

STEP_BYTES = 25 * MB
"""The largest piece that a model of `write_sized` asks for at once."""

PIECE_BYTES = 4 * MB
PIECE_S = 0.04
"""A model of `write_unknown` grows by at most 100 MB a second, as from a disk."""

BASE_BYTES = 20 * MB
"""What the interpreter and the libraries of a worker hold privately, generously."""

MARGIN = 1.02
"""How much more a model declares than it takes: people round up when they write `size` into a model.yaml."""

SIZED = f'''"""Holds memory, in pieces of {STEP_BYTES} bytes, and writes down that it was loaded."""

import os

STEP_BYTES = {STEP_BYTES}


class Sized:
    def __init__(self, size_bytes):
        sizes = [STEP_BYTES] * (size_bytes // STEP_BYTES) + [size_bytes % STEP_BYTES]
        self.blocks = [bytearray(b"\\x01") * size for size in sizes if size]

    def look(self, at):
        block = self.blocks[at % len(self.blocks)]
        return block[at % len(block)]


def load(path, *, size_bytes, log):
    log_fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(log_fd, os.path.basename(path).encode() + b"\\n")
    os.close(log_fd)
    return Sized(size_bytes)
'''

PACED = f'''"""Takes memory as from a disk, {PIECE_BYTES} bytes each {PIECE_S} s, and writes down that it was loaded."""

import os
import time


class Paced:
    def __init__(self, size_bytes):
        self.blocks = []
        for _ in range(size_bytes // {PIECE_BYTES}):
            self.blocks.append(bytearray(b"\x01") * {PIECE_BYTES})
            time.sleep({PIECE_S})

    def look(self, at):
        return self.blocks[at % len(self.blocks)][0]


def load(path, *, size_bytes, log):
    log_fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(log_fd, os.path.basename(path).encode() + b"\\n")
    os.close(log_fd)
    return Paced(size_bytes)
'''

# The helpers come before the memory: what a child shares with its parent after a fork is neither's private memory.
FAMILY = '''"""Has processes of its own, as models with worker pools do, which hold memory as well.

One was forked, one ignores SIGTERM, one is a daemon that left its session and its parent, and is stopped.
"""

import os
import signal
import subprocess
import sys

HOLD = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
memory = bytearray(b"\\\\x01") * int(sys.argv[1])
os.write(int(sys.argv[2]), b".")
signal.pause()
"""
DAEMONISE = """
import os, subprocess, sys
os.setsid()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, pass_fds=[int(sys.argv[-1])])
print(process.pid, flush=True)
"""


class Family:
    def __init__(self, size_bytes):
        ready_read, ready_write = os.pipe()
        part_bytes = size_bytes // 10
        if not os.fork():
            memory = bytearray(b"\\x01") * part_bytes
            os.write(ready_write, b".")
            while memory:
                signal.pause()
        hold = [sys.executable, "-S", "-c", HOLD, str(part_bytes), str(ready_write)]
        self.helper = subprocess.Popen(hold, pass_fds=[ready_write])
        daemonise = [sys.executable, "-S", "-c", DAEMONISE, *hold]
        said = subprocess.run(daemonise, pass_fds=[ready_write], stdout=subprocess.PIPE, check=True).stdout
        self.memory = bytearray(b"\\x01") * (size_bytes - 3 * part_bytes)
        ready = 0
        while ready < 3:
            ready += len(os.read(ready_read, 3))
        os.kill(int(said), signal.SIGSTOP)

    def size(self):
        return len(self.memory)


def load(path, *, size_bytes):
    return Family(size_bytes)
'''

GROWER = '''"""Grows with every call; on a core of its own if it is given one."""

import os


class Grower:
    def __init__(self):
        self.blocks = []

    def grow(self, step_bytes):
        self.blocks.append(bytearray(b"\\x01") * step_bytes)
        return sum(map(len, self.blocks))


def load(path, core=None):
    if core is not None:
        # Every thread: whichever is the last to end gives the memory of all of them back.
        for thread in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(thread), {core})
    return Grower()
'''

# A share of everything stays referenced: by a cache of the module, by a memoised function, and by cycles.
LEAKY = '''"""Leaks as models do: caches that nobody empties, memoised functions, objects that refer to each other.

About 1 in 1000 objects stays referenced when the model is dropped, spread among those that do not.
"""

import array
import functools

CACHE = {}
RECORD_BYTES = 2300  # of one record with its parts, as measured
ARRAY_BYTES = 65536
KEEP_EVERY = 1000


class Record:
    def __init__(self, number, owner):
        self.number = number
        self.owner = owner
        self.name = f"record number {number}"
        self.tokens = [f"token {number} {position}" for position in range(12)]
        self.weights = {f"weight {position}": number + position / 7 for position in range(8)}


@functools.lru_cache(maxsize=None)
def normalised(number):
    return tuple(f"{number} {position}" for position in range(4))


class Leaky:
    def __init__(self, size_bytes):
        self.records = []
        self.arrays = []
        objects_bytes = size_bytes * 6 // 10
        per_array = max(1, objects_bytes // RECORD_BYTES * ARRAY_BYTES // (size_bytes - objects_bytes))
        for number in range(objects_bytes // RECORD_BYTES):
            record = Record(number, self)
            self.records.append(record)
            if number % per_array == 0:
                self.arrays.append(array.array("d", [number / 3]) * (ARRAY_BYTES // 8))
            if number % KEEP_EVERY == 0:
                CACHE[record.name] = (record.tokens, record.weights, self.arrays[-1])
                normalised(number)

    def size(self):
        return len(self.records)


def load(path, *, size_bytes):
    return Leaky(size_bytes)
'''


def write_sized(directory: Path, size_bytes: int, log: Path) -> Path:
    """Write a model that holds `size_bytes`, declares a little more, and adds a line to `log` when it is loaded."""
    options = {"size_bytes": size_bytes, "log": str(log)}
    return _write(directory, SIZED, size=int(size_bytes * MARGIN) + BASE_BYTES, options=options)


def write_unknown(directory: Path, size_bytes: int, log: Path) -> Path:
    """Write a model that declares nothing, in files of a kilobyte; it adds a line to `log` when it is loaded."""
    return _write(directory, PACED, options={"size_bytes": size_bytes, "log": str(log)})


def loads_of(log: Path) -> list[str]:
    """Return the names of the models that wrote into `log`, as often as each was loaded."""
    return log.read_text().split() if log.exists() else []


def write_family(directory: Path, size_bytes: int) -> Path:
    """Write a model that holds `size_bytes`, three tenths of it in processes that it has started."""
    return _write(directory, FAMILY, options={"size_bytes": size_bytes})


def write_grower(directory: Path, limit_bytes: int) -> Path:
    """Write a model that grows by what each call says, and has a limit; its option `core` is where it runs."""
    return _write(directory, GROWER, memory_limit=limit_bytes)


def write_leaky(directory: Path, size_bytes: int) -> Path:
    """Write a model of about `size_bytes` that leaks."""
    return _write(directory, LEAKY, options={"size_bytes": size_bytes})


def _write(directory: Path, source: str, **settings: Any) -> Path:
    directory.mkdir(parents=True)
    (directory / "model.py").write_text(source)
    (directory / "model.yaml").write_text(yaml.safe_dump(settings))
    return directory
