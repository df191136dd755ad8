"""Remembered sizes: found under the whole key alone, safe from damage, and never the reason that something fails."""

import contextlib
import datetime
import os
import random
import shutil
import sqlite3
import stat
import threading

import pytest
from helpers import PATIENCE_S
from size_rig import FIGURES, KEY, LOST, at, key, recalled, warnings_of

from hostd.shell.repository.fingerprint import done
from hostd.shell.sizes import store as module
from hostd.shell.sizes import store_file as file_module
from hostd.shell.sizes.store import SizeKey, SizeStore, finding_key
from hostd_workers.wire.errors import NotFoundError


def key_of(*what):
    return done(finding_key(*what))


@pytest.fixture(scope="module")
def several_pages(tmp_path_factory):
    file = tmp_path_factory.mktemp("several") / "sizes.sqlite"
    file.parent.chmod(0o700)
    with SizeStore(file) as store:
        for number in range(300):
            store.remember(key(number), FIGURES, number)
    return file


@pytest.fixture
def file(tmp_path):
    return tmp_path / "state" / "sizes.sqlite"


@pytest.fixture
def filled(file, several_pages):
    """A file of several pages, closed."""
    file.parent.mkdir(mode=0o700)
    return shutil.copy2(several_pages, file)


def test_c13_a_size_is_remembered_beyond_the_end_and_the_last_measurement_counts(file, caplog):
    with SizeStore(file) as store:
        assert store.recall(KEY) is None
        store.remember(KEY, FIGURES, 1e9)
        assert store.recall(KEY) == at(1e9)
    with SizeStore(file) as store:
        assert store.recall(KEY) == at(1e9)
        store.remember(KEY, FIGURES._replace(rss_bytes=1), 1.0)
        assert store.recall(KEY) == at(1.0, rss_bytes=1)
        assert store.problem is None
        assert repr(store) == f"<SizeStore {file} open>"
    assert warnings_of(caplog) == []


@pytest.mark.parametrize("field", SizeKey._fields)
def test_c13_a_size_is_found_under_the_whole_key_alone(file, field):
    with SizeStore(file) as store:
        store.remember(KEY, FIGURES, 1.0)
        assert store.recall(KEY._replace(**{field: "other"})) is None
        assert store.recall(KEY) is not None


def test_the_oldest_go_and_what_is_measured_again_is_young(file, monkeypatch):
    monkeypatch.setattr(module, "MAX_ROWS", 3)
    with SizeStore(file) as store:
        for number in (0, 1, 2, 0, 0, 0):
            store.remember(key(number), FIGURES, 1.0)
        assert all(store.recall(key(number)) for number in range(3))
        store.remember(key(3), FIGURES, 0.0)
        assert [number for number in range(4) if store.recall(key(number))] == [0, 2, 3]


def test_a_size_that_a_load_was_ended_at_is_told_apart_until_the_content_was_measured(file):
    with SizeStore(file) as store:
        store.remember(KEY, FIGURES._replace(is_minimum=True), 1.0)
        assert store.recall(KEY) == at(1.0, is_minimum=True)
        store.remember(KEY, FIGURES, 2.0)
        assert store.recall(KEY) == at(2.0)


def test_the_first_place_that_can_be_used_is_taken(tmp_path, caplog):
    (tmp_path / "shared").write_text("no directory")
    own = tmp_path / "own" / "sizes"
    with SizeStore(tmp_path / "shared" / "sizes", own) as store:
        store.remember(KEY, FIGURES, 1.0)
        assert store.problem is None
    (warning,) = warnings_of(caplog)
    assert f"they are kept in {own}" in warning
    assert recalled(own)


def test_without_a_place_sizes_are_remembered_until_the_end_and_nothing_is_said(caplog):
    for _ in range(2):
        with SizeStore() as store:
            assert store.recall(KEY) is None
            store.remember(KEY, FIGURES, 1.0)
            assert store.recall(KEY) == at(1.0)
    assert warnings_of(caplog) == []


def test_the_file_and_its_directory_are_this_users_alone(file):
    before = os.umask(0)
    try:
        with SizeStore(file) as store:
            store.remember(KEY, FIGURES, 1.0)
        assert [stat.S_IMODE(path.stat().st_mode) for path in (file.parent, file)] == [0o700, 0o600]
        file.chmod(0o644)
        assert recalled(file)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_a_store_is_used_in_a_with_statement_and_by_its_own_thread(file):
    store, raised = SizeStore(file), []
    with pytest.raises(RuntimeError, match="with statement"):
        store.recall(KEY)
    assert repr(store) == f"<SizeStore {file} closed>"
    assert not file.exists()

    def use():
        with pytest.raises(sqlite3.ProgrammingError, match="thread") as error:
            store.recall(KEY)
        raised.append(error)

    with store:
        thread = threading.Thread(target=use)
        thread.start()
        thread.join(PATIENCE_S)
    assert raised


def test_c13_a_key_is_of_all_that_a_size_depends_on(tmp_path):
    (tmp_path / "model.py").write_text("x")
    options = {"a": 1, "b": {"c": [1, 2]}}
    first = key_of(tmp_path, "python", None, options, None)
    assert first == key_of(str(tmp_path), "python", None, dict(reversed(options.items())), None)
    others = [
        key_of(tmp_path, "onnx", None, options, None),
        key_of(tmp_path, "python", ("my:attr", {}), options, None),
        key_of(tmp_path, "python", None, {**options, "b": {"c": [2, 1]}}, None),
        key_of(tmp_path, "python", None, {**options, "a": True}, None),
        key_of(tmp_path, "python", ("my:attr", {"n": 1}), options, None),
    ]
    (tmp_path / "model.py").write_text("y")
    others.append(key_of(tmp_path, "python", None, options, None))
    assert len({first, *others}) == 7
    with pytest.raises(NotFoundError):
        key_of(tmp_path / "absent", "python", None, {}, None)


def test_options_of_every_kind_have_a_key(tmp_path):
    values = (
        {1: "a"},
        {"1": "a"},
        {None: 1, "x": 2, 3: 4},
        b"1",
        datetime.datetime(2020, 1, 1),
        float("nan"),
        "\ud800",
    )
    assert len({key_of(tmp_path, "python", None, {"k": value}, None) for value in values}) == len(values)


def overwrite(file, offset, data):
    with open(file, "r+b") as opened:
        opened.seek(offset)
        opened.write(data)


def change(file, *statements):
    with contextlib.closing(sqlite3.connect(file)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def replaced(make):
    return lambda file: (file.unlink(), make(file))


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
    "directory": replaced(os.mkdir),
    "fifo": replaced(os.mkfifo),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_thrown_away_with_a_warning(filled, damage, caplog):
    damage(filled)
    with SizeStore(filled) as store:
        (warning,) = warnings_of(caplog)
        assert f"{filled} is thrown away" in warning
        assert store.problem is None
        assert store.recall(key(7)) is None
        store.remember(KEY, FIGURES, 1.0)
    assert recalled(filled) == at(1.0)
    assert len(warnings_of(caplog)) == 1


@pytest.mark.parametrize("name", ["", "-wal", "-shm", "-journal"])
def test_an_empty_file_is_a_fresh_one_and_a_log_that_was_left_alone_does_no_harm(file, name, caplog):
    file.parent.mkdir()
    file.with_name(file.name + name).write_bytes(random.Random(1).randbytes(5000) if name else b"")
    with SizeStore(file) as store:
        assert (store.recall(KEY), store.problem) == (None, None)
        store.remember(KEY, FIGURES, 1.0)
        assert store.recall(KEY) == at(1.0)
    assert warnings_of(caplog) == []


def test_damage_that_shows_later_is_thrown_away_as_well(filled, caplog):
    with SizeStore(filled) as store:
        store._connection.execute("PRAGMA cache_size = 0")
        overwrite(filled, 0, random.Random(1).randbytes(filled.stat().st_size))
        assert store.recall(key(7)) is None
        assert "is thrown away" in warnings_of(caplog)[0]
        store.remember(KEY, FIGURES, 1.0)
        assert store.recall(KEY) == at(1.0)
    assert len(warnings_of(caplog)) == 1


def test_what_one_host_throws_away_another_does_not_write_into(filled, caplog):
    with SizeStore(filled) as other:
        overwrite(filled, 0, b"\xa5" * 100)
        with SizeStore(filled) as store:
            assert "is thrown away" in warnings_of(caplog)[0]
            other.remember(KEY, FIGURES, 1.0)
            assert store.recall(KEY) == at(1.0)
        assert other.recall(key(7)) is None
    assert len(warnings_of(caplog)) == 1


def test_a_damaged_file_is_thrown_away_only_when_no_host_uses_it(filled, caplog, monkeypatch):
    monkeypatch.setattr(file_module, "_BUSY_TIMEOUT_S", 0.01)
    with SizeStore(filled) as store:
        overwrite(filled, 0, b"\xa5" * 100)
        with file_module.in_use(filled):
            assert store.recall(key(7)) is None
            assert filled.exists()
        assert LOST in warnings_of(caplog)[-1]


def test_a_row_that_holds_no_numbers_is_damage_and_a_directory_that_goes_while_a_host_runs_is_made_again(
    filled, caplog
):
    change(filled, "UPDATE sizes SET rss_bytes = 'many'")
    with SizeStore(filled) as store:
        assert store.recall(key(7)) is None
        assert "in place of numbers" in warnings_of(caplog)[0]
        shutil.rmtree(filled.parent)
        store.remember(KEY, FIGURES, 1.0)
        assert store.recall(KEY) is not None
    assert recalled(filled)
