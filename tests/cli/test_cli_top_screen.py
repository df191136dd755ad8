"""`top` on a terminal of its own: what is typed, what signals do, and in which state the terminal is left."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from helpers import REPOSITORY

PROGRAM = Path(__file__).with_name("top_program.py")
PATIENCE_S = 60.0
ENTER, LEAVE, SHOW_CURSOR = "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25h"
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


class Terminal:
    """A terminal on which `top` runs; `text` is all that it has printed so far."""

    def __init__(self, place, *args, with_keys=True):
        self.master, self.slave = pty.openpty()
        self.resize(80, 24)
        self.before = termios.tcgetattr(self.slave)
        self.text = ""
        environment = {"TERM": "xterm-256color", "PYTHONPATH": str(REPOSITORY), "PYTHONIOENCODING": "utf-8"}
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(place), "--interval", "0.1", *args],
            stdin=self.slave if with_keys else subprocess.DEVNULL,
            stdout=self.slave,
            stderr=self.slave,
            env={name: value for name, value in {**os.environ, **environment}.items() if name != "LINES"},
            start_new_session=True,
        )

    def resize(self, width, height):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def type(self, keys):
        os.write(self.master, keys.encode())

    def shows(self, what, *, since=0):
        """Wait until something is printed after the first `since` characters; returns how many there are then."""
        deadline_s = time.monotonic() + PATIENCE_S
        while what not in (self.text[since:] if "\x1b" in what else _CONTROL.sub("", self.text[since:])):
            assert time.monotonic() < deadline_s, f"{what!r} was not shown; last: {self.text[-3000:]!r}"
            self._read(0.1)
        return len(self.text)

    def _read(self, within_s):
        if not select.select([self.master], [], [], within_s)[0]:
            return False
        self.text += os.read(self.master, 65536).decode(errors="replace")
        return True

    def ended(self):
        """Wait for the end, check that the terminal is as it was, and return the exit code."""
        deadline_s = time.monotonic() + PATIENCE_S
        while self.process.poll() is None:  # what nobody reads would keep it from ending
            assert time.monotonic() < deadline_s, f"it does not end; last: {self.text[-3000:]!r}"
            self._read(0.05)
        while self._read(0):
            pass
        assert termios.tcgetattr(self.slave) == self.before
        assert self.text.count(ENTER) == self.text.count(LEAVE)
        assert self.text.rindex(LEAVE) > self.text.rindex("MODEL")
        assert self.text.rindex(SHOW_CURSOR) > self.text.rindex("MODEL")
        return self.process.returncode

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def start(tmp_path):
    started = []

    def begin(*args, **how):
        started.append(Terminal(tmp_path, *args, **how))
        return started[-1]

    yield begin
    for terminal in started:
        terminal.close()


@pytest.fixture
def top(start):
    """`top`, which has shown its first picture."""
    terminal = start()
    terminal.shows("model-0")
    return terminal


def test_a_picture_has_models_memory_keys_and_the_last_event_and_is_sorted_and_filtered(top):
    assert ENTER in top.text
    top.shows("240 MiB of 500 MiB")
    top.shows("q quit  s sort: memory")
    top.shows("model-2  model  READY -> UNLOADING  evicted for another")
    top.type("sss")
    top.shows("s sort: name")
    top.type("/")
    top.shows("Enter keeps, Esc clears")
    top.type("del-2")
    here = top.shows("1 of 3 models")
    top.type("\x1b")
    top.shows("model-0", since=here)
    top.type("\x1b[A\x1b[Bq")  # arrows: their escapes are no Escape
    assert top.ended() == 0


@pytest.mark.parametrize(("number", "code"), [("SIGINT", 0), ("SIGTERM", 128 + 15), ("SIGHUP", 128 + 1), ("keys", 0)])
def test_a_signal_ends_it_and_the_terminal_is_as_before(top, number, code):
    if number == "keys":
        top.type("/abc")
        top.shows("/abc")
        top.type("\x03")
    else:
        top.process.send_signal(signal.Signals[number])
    assert top.ended() == code


def test_the_terminal_is_as_before_after_an_exception(top, tmp_path):
    (tmp_path / "broken").touch()
    assert top.ended() == 1
    assert "the picture is broken" in top.text


def test_ctrl_z_gives_the_terminal_back_and_going_on_takes_it_again(top):
    # The session has no shell that would have it go on, so the kernel does not stop it at all (setpgid(2), orphaned).
    here = len(top.text)
    top.type("\x1a")
    top.shows(ENTER, since=here)
    assert top.text.index(LEAVE, here) < top.text.index(ENTER, here)
    top.type("q")
    assert top.ended() == 0


def test_a_new_size_is_drawn_at_once(start):
    top = start("--interval", "3600")
    top.shows("CALLS/S")
    assert "LOADER" not in top.text
    top.resize(200, 50)
    top.shows("LOADER")
    top.type("q")
    assert top.ended() == 0


def test_it_survives_that_the_host_goes_and_comes_back(top, tmp_path):
    (tmp_path / "gone").touch()
    here = top.shows("host is gone, trying again: nobody answers")
    (tmp_path / "gone").unlink()
    top.shows("hostd  3 models", since=here)
    top.type("q")
    assert top.ended() == 0


def test_without_a_host_at_the_start_it_is_an_error_like_everywhere(start, tmp_path):
    (tmp_path / "gone").touch()
    top = start()
    top.shows("error: nobody answers")
    assert top.process.wait(PATIENCE_S) == 1
    assert ENTER not in top.text


def test_without_keys_it_shows_all_the_same(start):
    top = start(with_keys=False)
    top.shows("model-0")
    top.process.send_signal(signal.SIGINT)
    assert top.ended() == 0
