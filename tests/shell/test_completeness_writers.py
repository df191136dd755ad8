"""The torture of C27: a real process writes models in several files, with pauses, and is looked at meanwhile."""

import subprocess
import sys
import textwrap
import time

import pytest
from helpers import eventually, line_of, stop
from walking_rig import look_at

from hostd.core.files.stability import Stability

MARKER = "DONE"
WRITER = """
    import os, random, sys, time

    base, marker, pause_s = sys.argv[1], sys.argv[2], float(sys.argv[3])
    chance = random.Random("seed")

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
WHOLE = dict.fromkeys(("model.py", "weights-1.bin", "deep/weights-2.bin", "config.json"), 100)
TRIES = 200
POLL_S = 10.0


class Writer:
    """A process that writes models: it is told when to begin, and to go on, if it does not pause by itself."""

    def __init__(self, base, marker, quiet_s, pause_s=0.0):
        self.base, self.marker, self.stability = base, marker, Stability(quiet_s)
        command = [sys.executable, "-S", "-c", textwrap.dedent(WRITER), base, marker, str(pause_s)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, word):
        print(word, file=self.process.stdin, flush=True)

    def wait(self, number, now_s):
        """Look at a model; return what is to be waited for before it counts as whole, None if it does."""
        path = str(self.base / str(number))
        return self.stability.observe(path, look_at(path, self.marker or None), now_s, time.time())

    def is_whole(self, number):
        """Look with other eyes: every file is there, in its full size, under its name."""
        top = self.base / str(number)
        sizes = {str(file.relative_to(top)): file.stat().st_size for file in top.rglob("*") if file.is_file()}
        return {name: size for name, size in sizes.items() if name != MARKER} == WHOLE


@pytest.fixture
def write(tmp_path):
    """Start a writer."""
    made = []

    def start(*how):
        made.append(Writer(tmp_path, *how))
        return made[-1]

    yield start
    for writer in made:
        stop(writer.process)


def test_c27_no_partial_model_is_taken_for_whole_in_200_tries_with_a_marker(write):
    writer, now_s, early, settled = write(MARKER, 2 * POLL_S), 0.0, 0, 0
    for number in range(TRIES):
        writer.tell(number)
        while line_of(writer.process) == "writing":
            for _ in range(5):  # the writer pauses for longer than the poll, and than the quiet period
                now_s += POLL_S
                early += writer.wait(number, now_s) is None
            writer.tell("go on")
        settled += writer.wait(number, now_s) is None
    assert (early, settled) == (0, TRIES)


def test_c27_nothing_is_taken_for_whole_within_the_quiet_period_in_200_tries(write):
    writer, now_s, early, settled = write("", 2.5 * POLL_S), 0.0, 0, 0
    for number in range(TRIES):
        writer.tell(number)
        while line_of(writer.process) == "writing":
            for _ in range(3):  # the writer pauses for longer than the poll, but not than the quiet period
                early += writer.wait(number, now_s) is None
                now_s += 0.8 * POLL_S
            writer.tell("go on")
        assert writer.is_whole(number)
        wait = writer.wait(number, now_s)
        assert wait is not None
        now_s += wait.retry_after_s
        settled += writer.wait(number, now_s) is None
    assert (early, settled) == (0, TRIES)


@pytest.mark.heavy
def test_c27_a_writer_that_does_not_wait_for_looks_is_not_overtaken_either(write):
    writer, now_s, looks = write(MARKER, POLL_S, 0.001), 0.0, 0
    for number in range(TRIES):
        writer.tell(number)

        def is_settled(number=number):
            nonlocal now_s, looks
            now_s += 10 * POLL_S
            looks += 1
            return (writer.base / str(number)).exists() and writer.wait(number, now_s) is None

        eventually(is_settled, "the model is whole")
        assert writer.is_whole(number)
        while writer.process.stdout.readline() == "writing\n":
            pass
    assert looks > 2 * TRIES
