"""The torture of C27: a real process writes models in several files, with pauses, and is looked at meanwhile."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from helpers import eventually, line_of, stop

from hostd.core.files.stability import Stability
from hostd.shell.repository.completeness import look_at

if TYPE_CHECKING:
    from pathlib import Path

MARKER = "DONE"
WRITER = """
    import os, random, sys, time

    base, marker, pause_s = sys.argv[1], sys.argv[2], float(sys.argv[3])
    chance = random.Random(sys.argv[4])

    def step(said):
        print(said, flush=True)
        if pause_s:
            time.sleep(chance.random() * pause_s)
        else:
            sys.stdin.readline()

    def write(directory):
        os.mkdir(directory)
        names = ["model.py", "weights-1.bin", "deep/weights-2.bin", "config.json"]
        chance.shuffle(names)
        for name in names:
            path = os.path.join(directory, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            temporary = chance.choice([path, os.path.join(os.path.dirname(path), "." + os.path.basename(path) + ".Xy")])
            with open(temporary, "wb", 0) as file:
                for _ in range(4):
                    file.write(bytes(25))
                    step("writing")
            if temporary != path:
                os.rename(temporary, path)
                step("writing")
        if marker:
            open(os.path.join(directory, marker), "x").close()

    for number in map(str.strip, sys.stdin):
        write(os.path.join(base, number))
        print("whole", flush=True)
"""
WHOLE = {"model.py": 100, "weights-1.bin": 100, "deep/weights-2.bin": 100, "config.json": 100}
TRIES = 200
POLL_S = 10.0


@dataclass
class Writer:
    """A process that writes models: it is told when to begin, and to go on, if it does not pause by itself."""

    base: Path
    process: subprocess.Popen[str]

    def tell(self, word):
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()


@pytest.fixture
def start_writer(tmp_path):
    started = []

    def start(marker, pause_s=0.0):
        arguments = [str(tmp_path), marker, str(pause_s), "seed"]
        source = textwrap.dedent(WRITER)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen([sys.executable, "-S", "-c", source, *arguments], **pipes))
        return Writer(tmp_path, started[-1])

    yield start
    for process in started:
        stop(process)


def is_whole(directory):
    """Look with other eyes: every file is there, in its full size, under its name."""
    return {
        str(file.relative_to(directory)): file.stat().st_size for file in directory.rglob("*") if file.is_file()
    } == WHOLE


def test_c27_no_partial_model_is_taken_for_whole_in_200_tries_with_a_marker(start_writer):
    writer, stability = start_writer(MARKER), Stability(2 * POLL_S)
    now_s, early, settled = 0.0, 0, 0
    for number in range(TRIES):
        path = str(writer.base / str(number))
        writer.tell(number)
        while line_of(writer.process) == "writing":
            for _ in range(5):  # the writer pauses for longer than the poll, and than the quiet period
                now_s += POLL_S
                early += stability.observe(path, look_at(path, MARKER), now_s, time.time()) is None
            writer.tell("go on")
        settled += stability.observe(path, look_at(path, MARKER), now_s, time.time()) is None
    assert (early, settled) == (0, TRIES)


def test_c27_nothing_is_taken_for_whole_within_the_quiet_period_in_200_tries(start_writer):
    quiet_s = 2.5 * POLL_S
    writer, stability = start_writer(""), Stability(quiet_s)
    now_s, early, settled = 0.0, 0, 0
    for number in range(TRIES):
        path = str(writer.base / str(number))
        writer.tell(number)
        while line_of(writer.process) == "writing":
            for _ in range(3):  # the writer pauses for longer than the poll, but not than the quiet period
                early += stability.observe(path, look_at(path, None), now_s, time.time()) is None
                now_s += 0.8 * POLL_S
            writer.tell("go on")
        assert is_whole(writer.base / str(number))
        wait = stability.observe(path, look_at(path, None), now_s, time.time())
        assert wait is not None
        now_s += wait.retry_after_s
        settled += stability.observe(path, look_at(path, None), now_s, time.time()) is None
    assert (early, settled) == (0, TRIES)


@pytest.mark.heavy
def test_c27_a_writer_that_does_not_wait_for_looks_is_not_overtaken_either(start_writer):
    writer, stability = start_writer(MARKER, pause_s=0.001), Stability(POLL_S)
    now_s, looks = 0.0, 0
    for number in range(TRIES):
        path = writer.base / str(number)
        writer.tell(number)

        def is_settled(path=path):
            nonlocal now_s, looks
            now_s += 10 * POLL_S
            looks += 1
            return (
                path.exists() and stability.observe(str(path), look_at(str(path), MARKER), now_s, time.time()) is None
            )

        eventually(is_settled, "the model is whole")
        (path / MARKER).unlink()
        assert is_whole(path)
        while writer.process.stdout.readline() == "writing\n":
            pass
    assert looks > 2 * TRIES
