"""The files of a deploy: what is sent of a directory or a map, and what is refused."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers import descriptors, named

from hostd.client.files import Part, Reader, collect
from hostd.core.names import KEPT_NAME, MAX_FILES
from hostd_workers.wire.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable


def names(parts: list[Part]) -> list[str]:
    return [part.name for part in parts]


def contents(parts: list[Part], chunk_bytes: int = 4) -> dict[str, bytes]:
    reader, found = Reader(parts, chunk_bytes), {part.name: b"" for part in parts}
    while (chunk := reader.next()) is not None:
        assert chunk.offset == len(found[parts[chunk.file].name])
        assert 0 < len(chunk.data) <= chunk_bytes
        found[parts[chunk.file].name] += bytes(chunk.data)
    return found


def test_a_directory_is_walked_in_order_with_hidden_files_and_subdirectories(tmp_path: Path) -> None:
    expected = {".hidden": b"h", "b.bin": b"123456789", "empty": b"", "a/x": b"1", "a/.y/z": b"2", "a.txt": b"3"}
    for name, data in expected.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "no files").mkdir()
    (tmp_path / "link").symlink_to("empty")
    expected["link"] = b""
    for root in (tmp_path, str(tmp_path), f"{tmp_path}/"):
        parts = collect(root).parts
        assert names(parts) == sorted(expected)
        assert contents(parts) == expected


def test_a_map_keeps_its_order_and_mixes_contents_and_paths(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"weights")
    files = {
        "z": b"1",
        "dir/a": bytearray(b"12345"),
        "view": memoryview(b"abcdefgh")[2:6],
        "path": tmp_path / "w.bin",
        "text path": str(tmp_path / "w.bin"),
        "empty": b"",
    }
    parts = collect(files).parts
    assert names(parts) == list(files)
    assert [part.size_bytes for part in parts] == [1, 5, 4, 7, 7, 0]
    assert contents(parts) == {
        "z": b"1",
        "dir/a": b"12345",
        "view": b"cdef",
        "path": b"weights",
        "text path": b"weights",
        "empty": b"",
    }


def test_the_home_directory_may_be_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "f").write_bytes(b"1")
    assert names(collect("~/m").parts) == ["f"]
    assert names(collect({"g": "~/m/f"}).parts) == ["g"]


@pytest.mark.parametrize("what", ["a link to a directory", "a dangling link", "a loop", "a pipe", "a socket"])
def test_what_is_no_file_is_refused_by_its_name(tmp_path: Path, what: str) -> None:
    root = tmp_path / "m"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "fine").write_bytes(b"1")
    odd, words = root / "sub" / "odd", "sub/odd"
    if what == "a link to a directory":
        odd.symlink_to(tmp_path)
        words = "sub/odd' is a symbolic link to a directory"
    elif what == "a dangling link":
        odd.symlink_to("nowhere")
    elif what == "a loop":
        odd.symlink_to("odd")
    elif what == "a pipe":
        os.mkfifo(odd)
    else:
        os.mknod(odd, 0o140600)
    for files in (root, {"odd": odd}):
        with pytest.raises(InvalidArgumentError, match=words):
            collect(files)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "no files"),
        ({"a": 5}, "'a' must be bytes in one piece, or the path of a local file, got int"),
        ({"a": None}, "'a'"),
        ({"a": memoryview(b"abcdef")[::2]}, "in one piece"),
        ({5: b"x"}, "name of a file must be text, got 5"),
        ([("a", b"x")], "a directory, or a map"),
        (None, "a directory, or a map"),
        (b"/tmp", "a directory, or a map"),
        ({"a": "x\0y"}, "cannot be read"),
    ],
    ids=named,
)
def test_wrong_arguments_are_refused(files: object, words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        collect(files)  # type: ignore[arg-type]


def test_paths_that_are_of_the_wrong_kind_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    with pytest.raises(InvalidArgumentError, match="no files"):
        collect(tmp_path)
    (tmp_path / "f").write_bytes(b"1")
    with pytest.raises(InvalidArgumentError, match="name its files"):
        collect({"d": tmp_path})
    with pytest.raises(InvalidArgumentError, match=r"is no directory; a single file .* \{'f': "):
        collect(tmp_path / "f")
    for files in (tmp_path / "nope", {"a": tmp_path / "nope"}):
        with pytest.raises(NotFoundError, match="nope"):
            collect(files)


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir])
def test_a_name_that_is_not_utf8_is_refused_before_anything_is_sent(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    (tmp_path / "f").touch()
    make(tmp_path / os.fsdecode(b"bad\xff"))
    with pytest.raises(InvalidArgumentError, match=r"bad\\+udcff.*UTF-8"):
        collect(tmp_path)


# While it is sent


@pytest.mark.parametrize("how", ["grows", "shrinks", "is written to", "is gone", "becomes a pipe"])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_file_that_changes_while_it_is_sent_ends_the_deploy(tmp_path: Path, how: str, when: str) -> None:
    file = tmp_path / "w.bin"
    file.write_bytes(b"0123456789")
    before = file.stat()
    parts = collect(tmp_path).parts
    reader = Reader(parts, 4)
    if when == "meanwhile":
        assert reader.next() is not None
        if how in ("is gone", "becomes a pipe"):
            return  # the open file stays what it was
    if how == "grows":
        file.write_bytes(b"0123456789+")
    elif how == "shrinks":
        os.truncate(file, 2)
    elif how == "is written to":
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    else:
        file.unlink()
        if how == "becomes a pipe":
            os.mkfifo(file)
    with pytest.raises(FailedPreconditionError, match=r"w\.bin.* changed while it was deployed"):
        for _ in range(1 if when == "before" else 3):  # before: found out without sending anything
            reader.next()
    assert not [to for to in descriptors().values() if "w.bin" in to]


def test_one_file_is_open_at_a_time(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_bytes(b"12345678")

    def is_open() -> list[str]:
        return sorted(Path(to).name for to in descriptors().values() if to.startswith(f"{tmp_path}/"))

    reader = Reader(collect(tmp_path).parts, 4)
    seen = []
    while reader.next() is not None:
        seen.append(is_open())
    assert seen == [["a"], ["a"], ["b"], ["b"], ["c"], ["c"]]
    assert is_open() == []


def test_closing_closes_the_file_also_if_another_thread_reads(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345678")
    reader = Reader(collect(tmp_path).parts, 4)
    reader.next()
    reader.close()
    assert not [to for to in descriptors().values() if to.startswith(f"{tmp_path}/")]
    assert reader.next() is None

    reader = Reader(collect(tmp_path).parts, 4)
    reader.next()
    with reader._reading:  # as a thread has it that waits for a slow disk
        closing = threading.Thread(target=reader.close)
        closing.start()
        closing.join(20)
        assert not closing.is_alive(), "it waits for the disk"
        assert [to for to in descriptors().values() if to.startswith(f"{tmp_path}/")]
    assert reader.next() is None
    assert not [to for to in descriptors().values() if to.startswith(f"{tmp_path}/")]


# What else a deploy carries, and what it does not


def test_executable_bits_and_empty_folders_are_carried(tmp_path: Path) -> None:
    for folder in ("empty", "deep/empty", "full"):
        (tmp_path / folder).mkdir(parents=True)
    for name, mode in {"run": 0o744, "full/tool": 0o755, "data": 0o644, "others": 0o655}.items():
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
    found = collect(tmp_path)
    assert [part.name for part in found.parts if part.is_executable] == ["full/tool", "run"]
    assert found.folders == ["deep/empty", "empty"]
    assert [part.is_executable for part in collect({"a": tmp_path / "run", "b": b"x"}).parts] == [True, False]


def test_hard_links_and_sparse_files_are_files_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"12")
    os.link(tmp_path / "one", tmp_path / "two")
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(10)
    assert contents(collect(tmp_path).parts) == {"one": b"12", "two": b"12", "sparse": bytes(10)}


def test_what_the_host_keeps_of_a_deploy_stays(tmp_path: Path) -> None:
    for name in (KEPT_NAME, f"{KEPT_NAME}.new", "f"):
        (tmp_path / name).touch()
    assert names(collect(tmp_path).parts) == ["f"]


def test_a_directory_with_too_many_files_is_refused_before_all_of_them_are_looked_at(tmp_path: Path) -> None:
    for name in range(MAX_FILES + 1):
        (tmp_path / str(name)).touch()
    with pytest.raises(InvalidArgumentError, match=f"more than {MAX_FILES} files"):
        collect(tmp_path)


@pytest.mark.parametrize(
    ("mode", "words"), [(0o010644, "but a pipe"), (0o140644, "but a socket"), (0o020644, "but a device")]
)
def test_what_is_refused_is_told_by_its_kind(tmp_path: Path, mode: int, words: str) -> None:
    os.mknod(tmp_path / "odd", mode, os.makedev(1, 3))
    with pytest.raises(InvalidArgumentError, match=f"odd' is no regular file {words}"):
        collect(tmp_path)


def test_a_file_that_cannot_be_read_is_refused_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").touch()
    monkeypatch.setattr(os, "access", lambda path, _: not path.endswith("secret"))  # root may read everything
    with pytest.raises(FailedPreconditionError, match="secret' cannot be read by this user: nothing was sent"):
        collect(tmp_path)


def mounted(volume: Path, version: str, files: dict[str, bytes]) -> None:
    """Write a version of a volume as the kubelet does, and put it in force."""
    for name, content in files.items():
        (volume / version / name).parent.mkdir(parents=True, exist_ok=True)
        (volume / version / name).write_bytes(content)
        if not (visible := volume / name.partition("/")[0]).is_symlink():
            visible.symlink_to(f"..data/{visible.name}")
    (volume / "..data_tmp").symlink_to(version)
    (volume / "..data_tmp").rename(volume / "..data")


def test_one_version_of_a_mounted_volume_is_sent(tmp_path: Path) -> None:
    mounted(tmp_path, "..2024_01_01", {"model.py": b"old", "conf/a": b"old"})
    mounted(tmp_path, "..2024_02_02", {"model.py": b"new", "conf/a": b"new", "conf/b": b"new"})
    (tmp_path / "conf/a").with_name("c").write_bytes(b"1")
    (tmp_path / "own").write_bytes(b"mine")
    found = collect(tmp_path)
    mounted(tmp_path, "..2024_03_03", {"model.py": b"later", "conf/a": b"later"})
    assert contents(found.parts) == {
        "model.py": b"new",
        "conf/a": b"new",
        "conf/b": b"new",
        "conf/c": b"1",
        "own": b"mine",
    }


def test_other_links_in_a_mounted_volume_follow_the_rule_of_all_links(tmp_path: Path) -> None:
    mounted(tmp_path, "..2024_01_01", {"model.py": b"x"})
    (tmp_path / "elsewhere").symlink_to("/")
    with pytest.raises(InvalidArgumentError, match="elsewhere' is a symbolic link to a directory"):
        collect(tmp_path)
