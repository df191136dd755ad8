"""Remembered sizes where the system is against them: no permission, a full disk, a lock, a kill."""

import contextlib
import logging
import os
import random
import sqlite3

import pytest
from helpers import line_of, program, stop

from hostd.shell.sizes import store_file as module
from hostd.shell.sizes.store import Figures, SizeKey, SizeStore

KEY = SizeKey("content", "loader", "", "options", "environment")
FIGURES = Figures(4096, 2048, None, 8192, 1.5, 0.0)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "state" / "sizes.sqlite"


@pytest.fixture
def filled(file):
    """A file with one row, closed."""
    with SizeStore(file) as store:
        store.remember(KEY, FIGURES, 1.0)
    return file


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# Where no file can be kept


def assert_remembers_until_its_end(path, caplog):
    with SizeStore(path) as store:
        assert f"cannot be kept in {path}" in str(store.problem)
        assert "in memory" in repr(store)
        store.remember(KEY, FIGURES, 1.0)
        assert store.recall(KEY) == FIGURES._replace(measured_s=1.0)
    assert "forgotten when the host ends" in warnings_of(caplog)[-1]


def test_a_directory_with_something_in_it_is_not_removed(file, caplog):
    (file / "somebody's").mkdir(parents=True)
    assert_remembers_until_its_end(file, caplog)
    assert (file / "somebody's").is_dir()


def test_a_file_in_the_place_of_the_state_directory_is_no_end(file, caplog):
    file.parent.write_text("")
    assert_remembers_until_its_end(file, caplog)


def test_a_file_that_another_program_holds_is_left_alone(filled, caplog, monkeypatch):
    monkeypatch.setattr(module, "_BUSY_TIMEOUT_S", 0.01)
    with contextlib.closing(sqlite3.connect(filled, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert_remembers_until_its_end(filled, caplog)
        other.execute("ROLLBACK")
        other.execute("BEGIN IMMEDIATE")
        with SizeStore(filled) as store:
            assert store.recall(KEY) == FIGURES._replace(measured_s=1.0)
            store.remember(KEY, FIGURES, 2.0)
            assert "a size is lost: database is locked" in warnings_of(caplog)[-1]
        other.execute("ROLLBACK")
    with SizeStore(filled) as store:
        assert store.recall(KEY) == FIGURES._replace(measured_s=1.0)


OTHERS = """
    import os, pathlib, shutil, sys, tempfile
    from hostd.shell.sizes.store import Figures, SizeStore, SizeKey
    base = pathlib.Path(tempfile.mkdtemp())
    file, key = base / "sizes", SizeKey("c", "l", "", "o", "e")
    with SizeStore(file) as store:
        store.remember(key, Figures(1, 2, 3, 4, 5.0), 6.0)
    try:
        if sys.argv[1] == "file":
            os.chown(file, 65534, 65534)
            file.chmod(0o666)
        elif sys.argv[1] == "directory":
            os.chown(base, 65534, 65534)
        else:
            base.chmod(0o770)
        before = file.read_bytes(), file.stat()
        with SizeStore(file) as store:
            known = store.recall(key)
            store.remember(key, Figures(1, 2, 3, 4, 5.0), 6.0)
            print(known is None, store.recall(key) is not None, (file.read_bytes(), file.stat()) == before)
            print(store.problem)
    finally:
        shutil.rmtree(base)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize(
    ("what", "words"), [("file", "belongs to user"), ("directory", "belongs to user"), ("mode", "may be written by")]
)
def test_what_is_not_this_users_alone_is_neither_used_nor_removed(what, words):
    writer = program(OTHERS, what)
    try:
        assert line_of(writer) == "True True True"
        assert words in line_of(writer)
    finally:
        stop(writer)


UNPRIVILEGED = """
    import os, pathlib, shutil, sys, tempfile
    from hostd.shell.sizes.store import Figures, SizeStore, SizeKey
    if os.geteuid() == 0:  # whom no mode keeps out
        os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
    base = pathlib.Path(tempfile.mkdtemp())
    file, key = base / "sizes", SizeKey("c", "l", "", "o", "e")
    try:
        with SizeStore(file) as store:
            store.remember(key, Figures(1, 2, 3, 4, 5.0), 6.0)
        (file if sys.argv[1] == "file" else base).chmod(int(sys.argv[2], 8))
        with SizeStore(file) as store:
            before = store.recall(key)
            store.remember(key, Figures(1, 2, 3, 4, 5.0), 6.0)
            print(store.problem is None, before is None, store.recall(key) is not None)
    finally:
        base.chmod(0o700)
        shutil.rmtree(base)
"""


@pytest.mark.parametrize(
    ("what", "mode", "is_kept"), [("file", "000", True), ("file", "400", True), ("directory", "500", False)]
)
def test_missing_permissions_are_a_fresh_file_or_none(what, mode, is_kept):
    writer = program(UNPRIVILEGED, what, mode)
    try:
        assert line_of(writer) == f"{is_kept} True True"
    finally:
        stop(writer)


FULL = """
    import resource, signal, sys
    from hostd.shell.sizes.store import Figures, SizeStore, SizeKey
    key = lambda number: SizeKey(str(number), "l", "", "o", "e")
    figures = Figures(1, 2, 3, 4, 5.0)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with SizeStore(sys.argv[1]) as store:
        store.remember(key(0), figures, 6.0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
        for number in range(1, 1000):
            store.remember(key(number), figures, 6.0)
        lost = sum(store.recall(key(number)) is None for number in range(1000))
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        store.remember(key(1000), figures, 6.0)
        print(lost > 0, store.recall(key(0)) is not None, store.recall(key(1000)) is not None, store.problem)
"""


def test_a_full_disk_loses_what_does_not_fit_and_nothing_else(file, caplog):
    writer = program(FULL, file)
    try:
        assert line_of(writer) == "True True True None"
    finally:
        stop(writer)
    with SizeStore(file) as store:
        assert store.recall(SizeKey("0", "l", "", "o", "e")) is not None
    assert warnings_of(caplog) == []


# Kills

WRITING = """
    import sys
    from hostd.shell.sizes import store as module
    from hostd.shell.sizes.store import Figures, SizeStore, SizeKey
    module.MAX_ROWS = 10**9
    with SizeStore(sys.argv[1]) as store:
        number = int(sys.argv[2])
        while True:
            store.remember(SizeKey(str(number), "l", "", "o", "e"), Figures(number, 2, 3, 4, 5.0), 6.0)
            print(number)
            number += 1
"""


@pytest.mark.heavy
def test_a_kill_at_any_moment_loses_nothing_that_was_written(file, caplog):
    known, lines = 0, random.Random(20)
    for _ in range(20):
        writer = program(WRITING, file, known)
        try:
            for _ in range(lines.randint(1, 60)):
                heard = int(line_of(writer))
            writer.kill()
            assert writer.stdout is not None
            said = [line for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
            last = int(said[-1]) if said else heard
        finally:
            stop(writer)
        with SizeStore(file) as store:
            keys = (SizeKey(str(number), "l", "", "o", "e") for number in range(last + 3))
            found = [row.rss_bytes for key in keys if (row := store.recall(key))]
        assert found == list(range(len(found)))
        assert len(found) in (last + 1, last + 2)  # one may be written and not yet told
        known = len(found)
    assert warnings_of(caplog) == []


TOGETHER = """
    import sys
    from hostd.shell.sizes.store import Figures, SizeStore, SizeKey
    with SizeStore(sys.argv[1]) as store:
        print("open")
        for number in range(20):
            store.remember(SizeKey(f"{sys.argv[2]}-{number}", "l", "", "o", "e"), Figures(number, 2, 3, 4, 5.0), 6.0)
        print(store.problem)
"""


def test_several_hosts_write_at_once_and_lose_nothing(file):
    writers = [program(TOGETHER, file, number) for number in range(4)]
    try:
        assert [line_of(writer) for writer in writers] == ["open"] * 4
        assert [line_of(writer) for writer in writers] == ["None"] * 4
    finally:
        for writer in writers:
            stop(writer)
    with SizeStore(file) as store:
        keys = [SizeKey(f"{writer}-{number}", "l", "", "o", "e") for writer in range(4) for number in range(20)]
        assert all(store.recall(key) for key in keys)
