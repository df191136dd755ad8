"""The lines of a log, told from what the host adds; the first lines of a crash; a warning that recurs without end."""

import logging
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from helpers import PATIENCE_S, REPOSITORY, eventually
from hypothesis import given
from hypothesis import strategies as st
from log_rig import CAP_BYTES, piped

import hostd_workers
from hostd import log_lines
from hostd.log_lines import Follower, Reader
from hostd.shell.own_log import BURST, PERIOD_S, Flood
from hostd.shell.processes import logs
from hostd.shell.processes.crashes import CrashReport
from hostd.shell.processes.logs import LogDrain, ModelLog

ODD = [
    b"\n",
    b" ",
    b"2",
    b"2026-11-29T13:40:21.123Z ",
    b"2026-11-29T13:40:21.123Z* lie",
    b"x",
    b"\xff\0",
    b"\r",
    b"*",
    b"@7",
]


@pytest.fixture
def log(tmp_path):
    return ModelLog(tmp_path, "m", CAP_BYTES)


def all_of(log, **how):
    """Return what a client sees that asks for everything."""
    follower, lines = Follower("m", None, follow=False, **how), []
    while not follower.is_over:
        asked = follower.arguments()
        lines += follower.take(log.page(asked["after"], asked["tail_bytes"])._asdict())
    return lines


def texts(lines):
    return [f"-- {line.text}" if line.is_note else line.text for line in lines]


@given(st.lists(st.lists(st.sampled_from(ODD), min_size=1).map(b"".join)), st.integers(1, 50))
def test_whatever_is_printed_in_whatever_pieces_comes_back_as_it_was(pieces, step):
    written, is_new_line = b"", True
    for number, piece in enumerate(pieces):
        written += log_lines.printed(1e9 + number, piece, is_new_line=is_new_line)
        is_new_line = piece.endswith(b"\n")
    whole = b"".join(pieces)
    assert log_lines.without_marks(written) == whole
    reader, lines = Reader(), []
    for at in range(0, len(written), step):
        lines += reader.feed(written[at : at + step])
    lines += reader.end()
    expected = [part for line in whole.split(b"\n") for part in line.decode(errors="replace").splitlines() or [""]]
    assert [line.text for line in lines] == (expected[:-1] if not whole or whole.endswith(b"\n") else expected)
    assert all(line.time_s is not None and 1e9 <= line.time_s < 1e9 + len(pieces) for line in lines)


def test_a_line_has_the_time_at_which_its_beginning_was_read(log, monkeypatch):
    clock = iter([1e9, 1e9 + 0.25, 1e9 + 1, 1e9 + 2.001])
    monkeypatch.setattr(logs.time, "time", lambda: next(clock, 2e9))
    log.append(b"one\ntwo\nhal", "worker")
    log.append(b"f\nfour\n", "worker")
    log.note("ended")
    seen = [(line.time_s, line.text, line.is_note) for line in all_of(log)]
    first, second = seen[0][0], seen[3][0]
    assert seen == [
        (first, "one", False),
        (first, "two", False),
        (first, "half", False),
        (second, "four", False),
        (seen[4][0], "ended", True),
    ]
    assert first is not None
    assert second is not None
    assert first < second < (seen[4][0] or 0)


def test_a_line_that_another_worker_or_a_note_breaks_into_is_ended(log):
    log.append(b"old wor", "old")
    log.append(b"new line\nnew wor", "new")
    log.note("ended\n  with  two lines")
    log.append(b"ld\n", "new")
    assert texts(all_of(log)) == ["old wor", "new line", "new wor", "-- ended with two lines", "ld"]


def test_the_next_host_begins_a_new_line_and_positions_go_on(log, tmp_path):
    log.append(b"cut off", "worker")
    end = log.page(None, 0).end
    (tmp_path / "m.log.1").touch()  # of which there is nothing to read
    again = ModelLog(tmp_path, "m", CAP_BYTES)
    again.append(b"2 is next\n", "worker")
    assert texts(all_of(again)) == ["cut off", "2 is next"]
    assert again.page(end, 0).start == end


@pytest.mark.parametrize(
    "line", [b"\n", b" \n2\n", b"x" * 99 + b"\n", b"x" * 64], ids=["feeds", "odd", "lines", "no line"]
)
def test_the_cap_holds_and_the_newest_is_kept_whatever_is_printed(log, tmp_path, line):
    chunk = line * (logs._READ_BYTES // len(line))
    for _ in range(40):
        log.append(chunk, "worker")
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= CAP_BYTES
    log.append(b"\nthe last line\n", "worker")
    assert texts(all_of(log))[-1] == "the last line"
    assert log.tail(CAP_BYTES).endswith(b"\nthe last line\n")


def test_pages_over_two_files_have_every_byte_once(log):
    written = [f"line {number}" for number in range(20_000)]
    for at in range(0, 10_000, 100):
        log.append("".join(f"{line}\n" for line in written[at : at + 100]).encode(), "worker")
    seen = texts(all_of(log))
    assert len(seen) > 8000
    assert seen == written[:10_000][-len(seen) :]
    follower = Follower("m", 3, follow=True)
    page = log.page(None, 64 * 1024)
    assert texts(follower.take(page._asdict())) == written[9997:10_000]
    for at in range(10_000, 20_000, 10):
        log.append("".join(f"{line}\n" for line in written[at : at + 10]).encode(), "worker")
        asked = follower.arguments()
        new = follower.take(log.page(asked["after"], asked["tail_bytes"])._asdict())
        assert texts(new) == written[at : at + 10]
        assert follower.is_waiting


def test_the_last_line_is_shown_however_long_it_is(log):
    log.append(b"\r".join(b"%d %%" % number for number in range(30_000)) + b"\n", "worker")
    follower = Follower("m", 2, follow=False)
    assert texts(follower.take(log.page(None, 64 * 1024)._asdict())) == ["29998 %", "29999 %"]


def test_a_flood_is_slowed_down_whatever_its_pieces_are(tmp_path):
    """Pieces that are no multiple of a page were read without a rest, and a whole core went into it."""
    source = "import os\ndata = (b'x' * 39 + b'\\n') * 1638\nwhile True:\n    os.write(1, data)\n"
    with LogDrain(tmp_path / "logs", CAP_BYTES) as drain:
        _, write = piped(drain)
        with subprocess.Popen([sys.executable, "-c", source], stdout=write) as writer:
            os.close(write)
            log = drain.log_of("m")
            eventually(lambda: log.page(None, 0).newest > CAP_BYTES, "it floods")
            began_s, begun = time.monotonic(), log.page(None, 0).newest
            eventually(lambda: time.monotonic() > began_s + 2, "it goes on for a while")
            read_bytes, took_s = log.page(None, 0).newest - begun, time.monotonic() - began_s
            writer.kill()
    assert 0 < read_bytes <= 1.5 * took_s * logs._READ_BYTES / logs._REST_S


def test_what_a_slow_reader_missed_is_told(log, tmp_path):
    follower = Follower("m", None, follow=True)
    log.append(b"seen\n", "worker")
    assert texts(follower.take(log.page(None, CAP_BYTES)._asdict())) == ["seen"]
    for _ in range(20):
        log.append(b"y" * 999 + b"\n" + b"x" * 40_000 + b"\n", "worker")
    asked = follower.arguments()
    first, *rest = follower.take(log.page(asked["after"], 0)._asdict())
    assert first.is_note
    assert "bytes were overwritten before they were read" in first.text
    assert {line.text[0] for line in rest} == {"x", "y"}
    for file in tmp_path.iterdir():
        file.unlink()
    log.append(b"anew\n", "worker")
    asked = follower.arguments()
    assert [line.text for line in follower.take(log.page(asked["after"], 0)._asdict())] == [
        "the log was removed; a new one begins",
        "anew",
    ]


def test_a_note_follows_what_its_worker_has_printed(tmp_path):
    with LogDrain(tmp_path / "logs", CAP_BYTES) as drain:
        for number in range(50):
            output, write = piped(drain)
            drain.note("m", f"{number} started")
            os.write(write, b"x" * 60_000 + b" last words")
            os.close(write)
            drain.note("m", f"{number} ended", output)
        log = drain.log_of("m")
        eventually(lambda: b"49 ended" in log.page(None, 100).data, "all is written", within_s=PATIENCE_S)
    seen = [text[-11:] for text in texts(all_of(log))]
    expected = [(f" {number} started"[-11:], " last words", f"-- {number} ended") for number in (48, 49)]
    assert seen[-6:] == [*expected[0], *expected[1]]


def test_a_note_at_the_end_of_the_host_is_written(tmp_path):
    for number in range(20):
        with LogDrain(tmp_path / "logs", CAP_BYTES) as drain:
            log = drain.log_of("m")
            _, write = piped(drain)
            before = log.page(None, 0).newest
            os.write(write, b"printed\n")
            eventually(lambda log=log, old=before: log.page(None, 0).newest > old, "it is read, and there is a rest")
            drain.note("m", f"note {number}")
        os.close(write)
    assert [line.text for line in all_of(log) if line.is_note] == [f"note {number}" for number in range(20)]


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


BUS = "Fatal Python error: Bus error"
MODELS = '  File "/m/model.py", line 3 in one'
OURS = f'  File "{Path(hostd_workers.__file__).parent}/runtime.py", line 1 in step'
SEVERAL = REPORT + "more\n" + REPORT.replace("Segmentation fault", "Aborted") + "x" * 100_000


@pytest.mark.parametrize(
    ("printed", "first"),
    [
        *((text, []) for text in ("", "all is well\n", "Fatal Python erro")),
        (f"{BUS}\n\nCurrent thread 0x1 (most recent call first):\n  <no Python frame>\n", [BUS]),
        (f"{BUS}\n\nCurrent thread 0x1 (most recent call first):\n{MODELS}\n{OURS}\n{MODELS}\n", [BUS, MODELS]),
        (SEVERAL, FIRST.replace("Segmentation fault", "Aborted").splitlines()),
    ],
    ids=["nothing", "no crash", "half of one", "without frames", "up to our own frames", "the last of several"],
)
def test_the_crash_that_is_told(printed, first):
    report = CrashReport()
    report.add(printed.encode())
    assert report.lines().splitlines() == first


def _shown(flood, at_s, *, line=1, level=logging.WARNING):
    record = logging.LogRecord("n", level, "file.py", line, "%s again", ("it",), None)
    record.created = at_s
    return record.getMessage() if flood.filter(record) else None


def test_the_first_of_a_place_are_shown_and_then_how_many_were_not():
    flood = Flood()
    first = [_shown(flood, 1000.0) for _ in range(BURST)]
    assert first[:-1] == ["it again"] * (BURST - 1)
    assert f"the {BURST}th like this" in str(first[-1])
    assert [_shown(flood, 1000.0 + number / 10_000) for number in range(10_000)] == [None] * 10_000
    assert _shown(flood, 1001.0, line=2) == "it again", "what another line says is another matter"
    assert [_shown(flood, 1002.0, level=logging.INFO) for _ in range(100)] == ["it again"] * 100
    assert _shown(flood, 1000.0 + PERIOD_S) == "it again (10000 more like this were not shown)"
    assert _shown(flood, 1000.1 + PERIOD_S) == "it again"
    assert _shown(flood, 500.0) == "it again", "a clock that was set back silences nothing"


def test_a_host_shows_a_burst_of_a_flood_of_warnings():
    source = """
        import logging
        from hostd.shell import own_log
        own_log.configure("info", "text")
        own_log.configure("info", "json")  # as a reload does
        for number in range(1000):
            logging.getLogger("x").warning("again %s", number)
        logging.getLogger("x").error("another %s", "one")
    """
    command = [sys.executable, "-c", textwrap.dedent(source)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert done.stderr.count("again ") == BURST
    assert done.stderr.count("another one") == 1
