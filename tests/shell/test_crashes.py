"""The first lines of a crash, out of all that a worker prints."""

import pytest

from hostd.shell.processes.crashes import CrashReport

REPORT = """Fatal Python error: Segmentation fault

Thread 0x00007f01 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 1 in wait

Current thread 0x00007f02 [python] (most recent call first):
  File "/usr/lib/python3.11/ctypes/__init__.py", line 519 in string_at
  File "/m/model.py", line 3 in one
  File "/m/model.py", line 4 in two
  File "/m/model.py", line 5 in three
  File "/m/model.py", line 6 in four

Thread 0x00007f03 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 2 in wait

Extension modules: a, b (total: 2)
"""
FIRST = """Fatal Python error: Segmentation fault
  File "/usr/lib/python3.11/ctypes/__init__.py", line 519 in string_at
  File "/m/model.py", line 3 in one
  File "/m/model.py", line 4 in two
  File "/m/model.py", line 5 in three"""


@pytest.mark.parametrize("piece", [1, 7, 100, 10_000])
def test_the_first_lines_are_those_of_the_thread_that_crashed_in_whatever_pieces_they_come(piece):
    report, data = CrashReport(), f"some output\n{REPORT}".encode()
    for begin in range(0, len(data), piece):
        report.add(data[begin : begin + piece])
    assert report.lines() == FIRST


def test_the_last_crash_counts():
    report = CrashReport()
    report.add(REPORT.encode())
    report.add(b"more\n" + REPORT.replace("Segmentation fault", "Aborted").encode() + b"x" * 100_000)
    assert report.lines().splitlines()[0] == "Fatal Python error: Aborted"


@pytest.mark.parametrize("text", ["", "all is well\n", "Fatal Python erro"])
def test_what_is_no_crash_has_no_lines(text):
    report = CrashReport()
    report.add(text.encode())
    assert report.lines() == ""


def test_a_crash_without_python_frames_is_told():
    report = CrashReport()
    report.add(b"Fatal Python error: Bus error\n\nCurrent thread 0x1 (most recent call first):\n  <no Python frame>\n")
    assert report.lines() == "Fatal Python error: Bus error"
