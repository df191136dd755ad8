"""Remembered sizes where the system is against them: no permission, a full disk, a lock, a kill."""

import contextlib
import os
import random
import sqlite3

import pytest
from helpers import line_of, program, stop
from size_rig import FIGURES, KEY, LOST, PRELUDE, at, key, recalled, said, warnings_of

from hostd.shell.sizes import store_file as module
from hostd.shell.sizes.store import SizeStore


@pytest.fixture
def file(tmp_path):
    return tmp_path / "state" / "sizes.sqlite"


@pytest.fixture
def filled(file):
    """A file with one row, closed."""
    with SizeStore(file) as store:
        store.remember(KEY, FIGURES, 1.0)
    return file


def remembers_until_its_end(path, caplog):
    with SizeStore(path) as store:
        assert f"cannot be kept in {path}" in str(store.problem)
        assert "in memory" in repr(store)
        store.remember(KEY, FIGURES, 1.0)
        assert store.recall(KEY) == at(1.0)
    return LOST in warnings_of(caplog)[-1]


@pytest.mark.parametrize("place", ["the file", "the directory"])
def test_what_is_in_the_place_of(file, caplog, place):
    """A directory with something in it is not removed, and a file for a directory is no end."""
    if place == "the file":
        (file / "somebody's").mkdir(parents=True)
    else:
        file.parent.write_text("")
    assert remembers_until_its_end(file, caplog)
    assert (file / "somebody's").is_dir() is (place == "the file")


def test_a_file_that_another_program_holds_is_left_alone(filled, caplog, monkeypatch):
    monkeypatch.setattr(module, "_BUSY_TIMEOUT_S", 0.01)
    with contextlib.closing(sqlite3.connect(filled, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert remembers_until_its_end(filled, caplog)
        other.execute("ROLLBACK")
        other.execute("BEGIN IMMEDIATE")
        with SizeStore(filled) as store:
            assert store.recall(KEY) == at(1.0)
            store.remember(KEY, FIGURES, 2.0)
            assert "a size is lost: database is locked" in warnings_of(caplog)[-1]
        other.execute("ROLLBACK")
    assert recalled(filled) == at(1.0)


OTHERS = """
base = pathlib.Path(tempfile.mkdtemp())
file, what = base / "sizes", sys.argv[1]
with SizeStore(file) as store:
    store.remember(KEY("c"), FIGURES, 6.0)
try:
    if what == "mode":
        base.chmod(0o770)
    else:
        os.chown(file if what == "file" else base, 65534, 65534)
        file.chmod(0o666)
    before = file.read_bytes(), file.stat()
    with SizeStore(file) as store:
        known = store.recall(KEY("c"))
        store.remember(KEY("c"), FIGURES, 6.0)
        print(known is None, store.recall(KEY("c")) is not None, (file.read_bytes(), file.stat()) == before)
        print(store.problem)
finally:
    shutil.rmtree(base)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize(
    ("what", "words"), [("file", "belongs to user"), ("directory", "belongs to user"), ("mode", "may be written by")]
)
def test_what_is_not_this_users_alone_is_neither_used_nor_removed(what, words):
    result, problem = said(OTHERS, what, lines=2)
    assert result == "True True True"
    assert words in problem


UNPRIVILEGED = """
if os.geteuid() == 0:  # no mode keeps root out
    os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
base = pathlib.Path(tempfile.mkdtemp())
file = base / "sizes"
try:
    with SizeStore(file) as store:
        store.remember(KEY("c"), FIGURES, 6.0)
    (file if sys.argv[1] == "file" else base).chmod(int(sys.argv[2], 8))
    with SizeStore(file) as store:
        before = store.recall(KEY("c"))
        store.remember(KEY("c"), FIGURES, 6.0)
        print(store.problem is None, before is None, store.recall(KEY("c")) is not None)
finally:
    base.chmod(0o700)
    shutil.rmtree(base)
"""


@pytest.mark.parametrize(
    ("what", "mode", "is_kept"), [("file", "000", True), ("file", "400", True), ("directory", "500", False)]
)
def test_missing_permissions_are_a_fresh_file_or_none(what, mode, is_kept):
    assert said(UNPRIVILEGED, what, mode) == [f"{is_kept} True True"]


FULL = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with SizeStore(sys.argv[1]) as store:
    store.remember(KEY(0), FIGURES, 6.0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    for number in range(1, 300):
        store.remember(KEY(number), FIGURES, 6.0)
    lost = sum(store.recall(KEY(number)) is None for number in range(300))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    store.remember(KEY(1000), FIGURES, 6.0)
    print(lost > 0, store.recall(KEY(0)) is not None, store.recall(KEY(1000)) is not None, store.problem)
"""


def test_a_full_disk_loses_what_does_not_fit_and_nothing_else(file, caplog):
    assert said(FULL, file) == ["True True True None"]
    assert recalled(file, 0) is not None
    assert warnings_of(caplog) == []


WRITING = """
module.MAX_ROWS = 10**9
with SizeStore(sys.argv[1]) as store:
    number = int(sys.argv[2])
    while True:
        store.remember(KEY(number), FIGURES._replace(rss_bytes=number), 6.0)
        print(number)
        number += 1
"""


@pytest.mark.heavy
def test_a_kill_at_any_moment_loses_nothing_that_was_written(file, caplog):
    known, lines = 0, random.Random(20)
    for _ in range(10):
        writer = program(PRELUDE + WRITING, file, known)
        try:
            for _ in range(lines.randint(1, 60)):
                heard = int(line_of(writer))
            writer.kill()
            told = [line for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
            last = int(told[-1]) if told else heard
        finally:
            stop(writer)
        with SizeStore(file) as store:
            found = [row.rss_bytes for number in range(last + 3) if (row := store.recall(key(number)))]
        assert found == list(range(len(found)))
        assert len(found) in (last + 1, last + 2)  # one may be written and not yet told
        known = len(found)
    assert warnings_of(caplog) == []


TOGETHER = """
with SizeStore(sys.argv[1]) as store:
    print("open")
    for number in range(20):
        store.remember(KEY(f"{sys.argv[2]}-{number}"), FIGURES, 6.0)
    print(store.problem)
"""


def test_several_hosts_write_at_once_and_lose_nothing(file):
    writers = [program(PRELUDE + TOGETHER, file, number) for number in range(4)]
    try:
        for answer in ("open", "None"):
            assert [line_of(writer) for writer in writers] == [answer] * 4
    finally:
        for writer in writers:
            stop(writer)
    with SizeStore(file) as store:
        assert all(store.recall(key(f"{writer}-{number}")) for writer in range(4) for number in range(20))
