"""Sizers: what a model on a disk is said to take, and what a walk over its files survives."""

import os
import threading

import pytest

from hostd import sizers
from hostd.sizers import DEFAULT_MULTIPLIER, DeclaredSizer, DirectorySizer, size_on_disk
from hostd_workers.wire.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
)


def write(file, size):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x" * size)
    return file


def test_c13_all_files_count_hidden_and_nested_ones_too(tmp_path):
    for name, size in (("a", 1), (".hidden", 10), ("sub/b", 100), ("sub/deep/er/c", 1000)):
        write(tmp_path / name, size)
    (tmp_path / "empty").mkdir()
    assert size_on_disk(str(tmp_path)) == 1111
    assert size_on_disk(str(tmp_path / "sub" / "b")) == 100


def test_a_linked_file_counts_once_with_the_size_of_its_target(tmp_path):
    blob = write(tmp_path / "blobs" / "1", 1000)
    model = tmp_path / "model"
    model.mkdir()
    for name in ("a", "b"):
        (model / name).symlink_to(blob)
    os.link(blob, model / "hard")
    assert size_on_disk(str(model)) == 1000
    assert size_on_disk(str(model / "a")) == 1000


def test_a_linked_directory_counts_once_and_a_circle_ends(tmp_path):
    write(tmp_path / "elsewhere" / "weights", 1000)
    model = tmp_path / "model"
    write(model / "a", 1)
    (model / "weights").symlink_to(tmp_path / "elsewhere")
    (model / "again").symlink_to(tmp_path / "elsewhere")
    (model / "circle").symlink_to(model)
    (tmp_path / "elsewhere" / "back").symlink_to(model)
    assert size_on_disk(str(model)) == 1001


def test_links_that_lead_nowhere_and_things_that_are_no_files_count_nothing(tmp_path):
    write(tmp_path / "a", 5)
    (tmp_path / "dangling").symlink_to("absent")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    assert size_on_disk(str(tmp_path)) == 5


def test_files_and_directories_may_vanish_while_they_are_counted(tmp_path, monkeypatch):
    write(tmp_path / "stays", 5)
    for name in ("file", "directory"):
        write(tmp_path / name / "inside", 100)
    scandir = os.scandir

    def vanishing(path):
        if str(path).endswith("directory"):
            (tmp_path / "directory" / "inside").unlink()
            (tmp_path / "directory").rmdir()
        entries = scandir(path)
        if str(path).endswith("file"):
            (tmp_path / "file" / "inside").unlink()
        return entries

    monkeypatch.setattr(os, "scandir", vanishing)
    assert size_on_disk(str(tmp_path)) == 5


def test_a_walk_survives_somebody_who_writes_and_removes_all_the_time(tmp_path):
    write(tmp_path / "stays", 5)
    is_over = threading.Event()

    def churn():
        while not is_over.is_set():
            file = write(tmp_path / "sub" / "file", 1)
            file.unlink()
            file.parent.rmdir()

    writer = threading.Thread(target=churn)
    writer.start()
    try:
        assert {size_on_disk(str(tmp_path)) for _ in range(300)} <= {5, 6}
    finally:
        is_over.set()
        writer.join()


def test_c13_a_missing_path_is_not_found(tmp_path):
    write(tmp_path / "file", 1)
    for path in ("", str(tmp_path / "absent"), str(tmp_path / "file" / "below")):
        with pytest.raises(NotFoundError, match="there is nothing at"):
            DirectorySizer().estimate("m", path, "t")


def test_a_path_that_cannot_be_a_model_is_a_typed_error(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InvalidArgumentError, match="neither a file nor a directory"):
        size_on_disk(str(tmp_path / "pipe"))
    with pytest.raises(InvalidArgumentError, match="null byte"):
        size_on_disk("a\0b")
    with pytest.raises(FailedPreconditionError, match="symbolic links"):
        size_on_disk(str(tmp_path / "loop"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not look")
def test_a_directory_that_the_host_may_not_read_is_not_left_out_silently(tmp_path, monkeypatch):
    write(tmp_path / "secret" / "weights", 100)
    (tmp_path / "secret").chmod(0)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)  # the directories above are closed to others
    os.seteuid(65534)
    try:
        with pytest.raises(FailedPreconditionError, match=r"secret.*Permission denied|Permission denied.*secret"):
            size_on_disk(".")
    finally:
        os.seteuid(0)


def test_a_walk_has_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(sizers, "MAX_ENTRIES", 3)
    for name in "abc":
        write(tmp_path / name, 1)
    assert size_on_disk(str(tmp_path)) == 3
    write(tmp_path / "d", 1)
    with pytest.raises(ResourceExhaustedError, match=r"more than 3 entries: say its size with 'size' in a model\.yaml"):
        size_on_disk(str(tmp_path))


def test_c13_the_bytes_are_multiplied_by_the_factor_of_the_type(tmp_path):
    path = str(write(tmp_path / "a", 1001))
    assert DirectorySizer().estimate("m", path, "t") == 1001 * DEFAULT_MULTIPLIER
    sizer = DirectorySizer(1.5, {"big": 10, "small": 0.001})
    assert [sizer.estimate("m", path, kind) for kind in ("other", "big", "small")] == [1502, 10010, 2]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"multiplier": 0}, "multiplier must be a number above 0, not 0"),
        ({"multiplier": -1}, "multiplier must be"),
        ({"multiplier": True}, "multiplier must be"),
        ({"multiplier": "2"}, "multiplier must be a number above 0, not '2'"),
        ({"multiplier": float("nan")}, "multiplier must be"),
        ({"multiplier": float("inf")}, "multiplier must be"),
        ({"multipliers": [1]}, "multipliers must be a map"),
        ({"multipliers": {"t": None}}, r"multipliers\.t must be"),
    ],
)
def test_a_wrong_factor_is_refused(config, words):
    with pytest.raises(InvalidArgumentError, match=words):
        DirectorySizer(**config)


def test_a_declared_size_is_taken_from_model_yaml(tmp_path):
    assert DeclaredSizer().estimate("m", str(tmp_path), "t") is None
    (tmp_path / "model.yaml").write_text("loader: python")
    assert DeclaredSizer().estimate("m", str(tmp_path), "t") is None
    (tmp_path / "model.yaml").write_text("size: 2MiB")
    assert DeclaredSizer().estimate("m", str(tmp_path), "t") == 2 * 2**20
    assert DeclaredSizer().estimate("m", "a\0b", "t") is None
