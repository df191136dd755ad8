"""Remembered sizes: found under the whole key alone, safe from kills, and never the reason that something fails."""

import contextlib
import logging
import os
import random
import shutil
import sqlite3
import stat
import threading

import pytest
from helpers import PATIENCE_S

from hostd.shell.sizes import store as module
from hostd.shell.sizes import store_file as file_module
from hostd.shell.sizes.store import Figures, SizeKey, SizeStore, key_of
from hostd_workers.wire.errors import NotFoundError

KEY = SizeKey("content", "loader", "", "options", "environment")
FIGURES = Figures(4096, 2048, None, 8192, 1.5, 0.0)


def numbered(number):
    return KEY._replace(content=str(number))


@pytest.fixture
def file(tmp_path):
    return tmp_path / "state" / "sizes.sqlite"


@pytest.fixture
def filled(file):
    """A file of several pages, closed."""
    with SizeStore(file) as store:
        for number in range(300):
            store.remember(numbered(number), FIGURES, number)
    return file


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# What is remembered


def test_c13_a_size_is_remembered_beyond_the_end(file, caplog):
    with SizeStore(file) as store:
        assert store.recall(KEY) is None
        store.remember(KEY, FIGURES, 1e9)
        assert store.recall(KEY) == FIGURES._replace(measured_s=1e9)
    with SizeStore(file) as store:
        assert store.recall(KEY) == FIGURES._replace(measured_s=1e9)
        assert store.problem is None
        assert repr(store) == f"<SizeStore {file} open>"
    assert warnings_of(caplog) == []


@pytest.mark.parametrize("field", SizeKey._fields)
def test_c13_a_size_is_found_under_the_whole_key_alone(file, field):
    with SizeStore(file) as store:
        store.remember(KEY, FIGURES, 1.0)
        assert store.recall(KEY._replace(**{field: "other"})) is None
        assert store.recall(KEY) is not None


def test_c13_the_last_measurement_counts(file):
    with SizeStore(file) as store:
        store.remember(KEY, FIGURES, 2.0)
        store.remember(KEY, FIGURES._replace(rss_bytes=1), 1.0)
        assert store.recall(KEY) == FIGURES._replace(rss_bytes=1, measured_s=1.0)


def test_the_oldest_go_and_what_is_measured_again_is_young(file, monkeypatch):
    monkeypatch.setattr(module, "MAX_ROWS", 3)
    with SizeStore(file) as store:
        for number in (0, 1, 2, 0, 0, 0):
            store.remember(numbered(number), FIGURES, 1.0)
        assert all(store.recall(numbered(number)) for number in range(3))
        store.remember(numbered(3), FIGURES, 0.0)
        assert [number for number in range(4) if store.recall(numbered(number))] == [0, 2, 3]


def test_several_hosts_share_a_file(file, caplog):
    with SizeStore(file) as one, SizeStore(file) as two:
        one.remember(numbered(1), FIGURES, 1.0)
        two.remember(numbered(2), FIGURES, 2.0)
        assert two.recall(numbered(1)) == FIGURES._replace(measured_s=1.0)
        assert one.recall(numbered(2)) == FIGURES._replace(measured_s=2.0)
    assert warnings_of(caplog) == []


def test_a_size_that_a_load_was_ended_at_is_told_apart_until_the_content_was_measured(file):
    with SizeStore(file) as store:
        store.remember(KEY, FIGURES._replace(is_minimum=True), 1.0)
        assert store.recall(KEY) == FIGURES._replace(measured_s=1.0, is_minimum=True)
        store.remember(KEY, FIGURES, 2.0)
        assert store.recall(KEY) == FIGURES._replace(measured_s=2.0)


def test_the_first_place_that_can_be_used_is_taken(tmp_path, caplog):
    (tmp_path / "shared").write_text("no directory")
    own = tmp_path / "own" / "sizes"
    with SizeStore(tmp_path / "shared" / "sizes", own) as store:
        store.remember(KEY, FIGURES, 1.0)
        assert store.problem is None
    (warning,) = warnings_of(caplog)
    assert f"they are kept in {own}" in warning
    with SizeStore(own) as store:
        assert store.recall(KEY) is not None


def test_without_a_place_sizes_are_remembered_until_the_end_and_nothing_is_said(caplog):
    with SizeStore() as store:
        store.remember(KEY, FIGURES, 1.0)
        assert store.recall(KEY) == FIGURES._replace(measured_s=1.0)
    with SizeStore() as store:
        assert store.recall(KEY) is None
    assert warnings_of(caplog) == []


def test_the_file_and_its_directory_are_this_users_alone(file):
    before = os.umask(0)
    try:
        with SizeStore(file) as store:
            store.remember(KEY, FIGURES, 1.0)
        assert [stat.S_IMODE(path.stat().st_mode) for path in (file.parent, file)] == [0o700, 0o600]
        file.chmod(0o644)
        with SizeStore(file) as store:
            assert store.recall(KEY) is not None
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_another_thread_is_told_so(file):
    raised = []

    def use(store):
        try:
            store.recall(KEY)
        except sqlite3.ProgrammingError as error:
            raised.append(error)

    with SizeStore(file) as store:
        thread = threading.Thread(target=use, args=(store,))
        thread.start()
        thread.join(PATIENCE_S)
        assert "thread" in str(raised[0])


def test_a_store_is_used_in_a_with_statement(file):
    store = SizeStore(file)
    with pytest.raises(RuntimeError, match="with statement"):
        store.recall(KEY)
    assert repr(store) == f"<SizeStore {file} closed>"
    assert not file.exists()


# Keys


def test_c13_a_key_is_of_all_that_a_size_depends_on(tmp_path):
    (tmp_path / "model.py").write_text("x")
    first = key_of(tmp_path, "python", None, {"a": 1, "b": {"c": [1, 2]}}, None)
    assert first == key_of(str(tmp_path), "python", None, {"b": {"c": [1, 2]}, "a": 1}, None)
    others = [
        key_of(tmp_path, "onnx", None, {"a": 1, "b": {"c": [1, 2]}}, None),
        key_of(tmp_path, "python", ("my:attr", {}), {"a": 1, "b": {"c": [1, 2]}}, None),
        key_of(tmp_path, "python", None, {"a": 1, "b": {"c": [2, 1]}}, None),
        key_of(tmp_path, "python", None, {"a": True, "b": {"c": [1, 2]}}, None),
        key_of(tmp_path, "python", ("my:attr", {"n": 1}), {"a": 1, "b": {"c": [1, 2]}}, None),
    ]
    (tmp_path / "model.py").write_text("y")
    others.append(key_of(tmp_path, "python", None, {"a": 1, "b": {"c": [1, 2]}}, None))
    assert len({first, *others}) == 7


def test_options_of_every_kind_have_a_key(tmp_path):
    import datetime

    options = [
        {"k": {1: "a"}},
        {"k": {"1": "a"}},
        {"k": {None: 1, "x": 2, 3: 4}},
        {"k": b"1"},
        {"k": datetime.datetime(2020, 1, 1)},
        {"k": float("nan")},
        {"k": "\ud800"},
    ]
    assert len({key_of(tmp_path, "python", None, option, None) for option in options}) == len(options)


def test_a_key_of_nothing_is_an_error(tmp_path):
    with pytest.raises(NotFoundError):
        key_of(tmp_path / "absent", "python", None, {}, None)


# Damage


def overwrite(file, offset, data):
    with open(file, "r+b") as opened:
        opened.seek(offset)
        opened.write(data)


def change(file, *statements):
    with contextlib.closing(sqlite3.connect(file)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def replace_with_directory(file):
    file.unlink()
    file.mkdir()


def replace_with_fifo(file):
    file.unlink()
    os.mkfifo(file)


DAMAGES = {
    "header": lambda file: overwrite(file, 0, b"\xa5" * 100),
    "text": lambda file: file.write_text("not a database, " * 1000),
    "short": lambda file: file.write_bytes(b"SQLite"),
    "truncated": lambda file: os.truncate(file, 2 * 4096),
    "truncated in a page": lambda file: os.truncate(file, 5000),
    "garbage page": lambda file: overwrite(file, 2 * 4096, random.Random(1).randbytes(4096)),
    "zero page": lambda file: overwrite(file, 3 * 4096, bytes(4096)),
    "write-ahead log": lambda file: change(file, "PRAGMA journal_mode = WAL"),
    "newer version": lambda file: change(file, f"PRAGMA user_version = {module.VERSION + 1}"),
    "other columns": lambda file: change(file, "ALTER TABLE sizes ADD COLUMN more"),
    "another program's": lambda file: change(file, "DROP TABLE sizes", "CREATE TABLE t (x)", "PRAGMA user_version = 0"),
    "directory": replace_with_directory,
    "fifo": replace_with_fifo,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_thrown_away_with_a_warning(filled, damage, caplog):
    damage(filled)
    with SizeStore(filled) as store:
        (warning,) = warnings_of(caplog)
        assert f"{filled} is thrown away" in warning
        assert store.problem is None
        assert store.recall(numbered(7)) is None
        store.remember(KEY, FIGURES, 1.0)
    with SizeStore(filled) as store:
        assert store.recall(KEY) == FIGURES._replace(measured_s=1.0)
    assert len(warnings_of(caplog)) == 1


def test_an_empty_file_is_a_fresh_one(file, caplog):
    file.parent.mkdir()
    file.touch()
    with SizeStore(file) as store:
        store.remember(KEY, FIGURES, 1.0)
        assert (store.recall(KEY), store.problem) == (FIGURES._replace(measured_s=1.0), None)
    assert warnings_of(caplog) == []


@pytest.mark.parametrize("companion", ["-wal", "-shm", "-journal"])
def test_a_log_that_was_left_alone_does_no_harm(filled, companion):
    filled.unlink()
    filled.with_name(filled.name + companion).write_bytes(random.Random(1).randbytes(5000))
    with SizeStore(filled) as store:
        assert (store.recall(KEY), store.problem) == (None, None)


def test_damage_that_shows_later_is_thrown_away_as_well(filled, caplog):
    with SizeStore(filled) as store:
        assert store._connection is not None
        store._connection.execute("PRAGMA cache_size = 0")
        overwrite(filled, 0, random.Random(1).randbytes(filled.stat().st_size))
        assert store.recall(numbered(7)) is None
        assert "is thrown away" in warnings_of(caplog)[0]
        store.remember(KEY, FIGURES, 1.0)
        assert store.recall(KEY) == FIGURES._replace(measured_s=1.0)
    assert len(warnings_of(caplog)) == 1


def test_what_one_host_throws_away_another_does_not_write_into(filled, caplog):
    with SizeStore(filled) as other:
        overwrite(filled, 0, b"\xa5" * 100)
        with SizeStore(filled) as store:
            assert "is thrown away" in warnings_of(caplog)[0]
            other.remember(KEY, FIGURES, 1.0)
            assert store.recall(KEY) == FIGURES._replace(measured_s=1.0)
        assert other.recall(numbered(7)) is None
    assert len(warnings_of(caplog)) == 1


def test_a_damaged_file_is_thrown_away_only_when_nobody_uses_it(filled, caplog, monkeypatch):
    monkeypatch.setattr(file_module, "_BUSY_TIMEOUT_S", 0.01)
    with SizeStore(filled) as store:
        overwrite(filled, 0, b"\xa5" * 100)
        with file_module.in_use(filled):
            assert store.recall(numbered(7)) is None
            assert filled.exists()
        assert "forgotten when the host ends" in warnings_of(caplog)[-1]


def test_a_directory_that_goes_while_a_host_runs_is_made_again(filled):
    with SizeStore(filled) as store:
        shutil.rmtree(filled.parent)
        store.remember(KEY, FIGURES, 1.0)
        assert store.recall(KEY) is not None
    with SizeStore(filled) as store:
        assert store.recall(KEY) is not None


def test_a_row_that_holds_no_numbers_is_damage(filled, caplog):
    change(filled, "UPDATE sizes SET rss_bytes = 'many'")
    with SizeStore(filled) as store:
        assert store.recall(numbered(7)) is None
        assert "in place of numbers" in warnings_of(caplog)[0]
