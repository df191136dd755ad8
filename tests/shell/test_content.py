"""Digests of a model's files and of its libraries: equal where the size would be, and read no more than needed."""

import os
import socket
import sys
import sysconfig
import threading

import pytest
from walking_rig import digest_of

from hostd.core.bookkeeping.recent import Recent
from hostd.shell.repository import fingerprint as content
from hostd.shell.repository.fingerprint import (
    SAMPLE_BYTES,
    SAMPLED_ABOVE_BYTES,
    done,
    environment_of,
)
from hostd_workers.wire.errors import AbortedError, InvalidArgumentError, NotFoundError, ResourceExhaustedError

FILES = {"model.yaml": b"loader: python\n", "weights/a.bin": b"a" * 1000, "weights/b.bin": b"b", "empty": b""}
LONG_AGO_NS = 10**18


def write(directory, files):
    for name, data in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    return directory


@pytest.fixture
def model(tmp_path):
    return write(tmp_path / "model", FILES)


def sparse(path, size_bytes, at=None):
    with open(path, "wb") as file:
        file.truncate(size_bytes)
        for offset, data in (at or {}).items():
            file.seek(offset)
            file.write(data)
    return path


def test_c13_the_same_content_has_the_same_digest_wherever_it_lies(model, tmp_path):
    other = write(tmp_path / "elsewhere" / "deep", dict(reversed(FILES.items())))
    (other / "no files in here").mkdir()
    assert digest_of(model) == digest_of(str(other))


@pytest.mark.parametrize(
    "change",
    [
        lambda d: (d / "weights/a.bin").write_bytes(b"a" * 999 + b"x"),
        lambda d: (d / "weights/a.bin").write_bytes(b"a" * 1001),
        lambda d: (d / "weights/b.bin").rename(d / "weights/c.bin"),
        lambda d: (d / "weights/b.bin").rename(d / "b.bin"),
        lambda d: (d / "empty").unlink(),
        lambda d: (d / "more").write_bytes(b""),
        lambda d: (d / ".hidden").write_bytes(b"x"),
        lambda d: (d / "SHA256SUMS").write_bytes(b"x"),
        lambda d: os.symlink("nowhere", d / "link"),
        lambda d: os.mkfifo(d / "fifo"),
    ],
    ids=["byte", "size", "name", "place", "gone", "new", "hidden", "sums", "dangling link", "fifo"],
)
def test_c13_other_content_has_another_digest(model, change):
    before = digest_of(model)
    change(model)
    assert digest_of(model) != before


def test_bytes_do_not_move_between_names_unseen(tmp_path):
    each = ({"a": b"1", "b": b"23"}, {"a": b"12", "b": b"3"}, {"a": b"1", "b": b"", "c": b"23"})
    assert len({digest_of(write(tmp_path / str(number), files)) for number, files in enumerate(each)}) == 3


def test_what_a_name_stands_for_and_names_of_any_bytes_count(tmp_path):
    digests, top = [], os.fsencode(tmp_path)
    for make in (os.mknod, os.mkfifo, lambda path: os.symlink("nowhere", path)):
        for name in (b"name", b"\xff", b"\xfe", b"new\nline"):
            make(os.path.join(top, name))
            digests.append(digest_of(tmp_path))
            os.unlink(os.path.join(top, name))
    assert len(set(digests)) == len(digests)


def test_neither_the_order_in_which_the_system_lists_files_nor_the_name_of_a_file_by_itself_counts(model, monkeypatch):
    write(model, {"a.pkl": b"x", "b.pkl": b"x", "c.pkl": b"y"})
    assert digest_of(model / "a.pkl") == digest_of(model / "b.pkl") != digest_of(model / "c.pkl")
    before, entries = digest_of(model), content._entries
    monkeypatch.setattr(content, "_entries", lambda root: reversed(list(entries(root))))
    assert digest_of(model) == before


def test_links_count_as_what_they_lead_to(model, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in ("model.yaml", "empty", "weights"):
        os.symlink(model / name, linked / name)
    os.symlink(linked, tmp_path / "as a whole")
    assert digest_of(linked) == digest_of(model) == digest_of(tmp_path / "as a whole")
    (model / "weights/a.bin").write_bytes(b"other")
    assert digest_of(linked) == digest_of(model)


@pytest.mark.parametrize("target", [".", "..", "../.."])
def test_a_link_to_a_directory_that_it_is_in_is_refused(model, target):
    os.symlink("self", model / "self")
    assert digest_of(model), "a link to itself is one to nothing"
    os.symlink(target, model / "weights" / "round")
    which = "" if target == "../.." else "round is "  # not in the model at first, but the model is in it
    with pytest.raises(InvalidArgumentError, match=f"{which}a link to a directory that it is in"):
        digest_of(model)


def test_what_is_no_regular_file_is_never_opened(model):
    os.mkfifo(model / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(model / "socket"))
        done = threading.Thread(target=lambda: (digest_of(model), digest_of(model / "fifo")), daemon=True)
        done.start()
        done.join(20)
        assert not done.is_alive(), "somebody waits for the other end of the fifo"


@pytest.mark.parametrize("is_number_used_again", [False, True])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.write_bytes(b"other")], ids=["fifo", "file"])
def test_a_file_that_was_exchanged_is_not_read(model, make, is_number_used_again):
    (entry,) = [found for found in content._entries(str(model)) if found is not None and found.name == b"empty"]
    (model / "empty").rename(model / "another")
    make(model / "empty")
    if is_number_used_again and make is os.mkfifo:
        entry = entry._replace(info=os.stat(model / "empty"))
    with pytest.raises(AbortedError, match="exchanged"):
        done(content._content(entry))


def test_nothing_there_is_not_found(tmp_path):
    with pytest.raises(NotFoundError, match=r"there is nothing at .*absent"):
        digest_of(tmp_path / "absent")
    with pytest.raises(InvalidArgumentError, match="null"):
        digest_of("nul\0inside")


def test_what_is_too_much_for_a_model_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(content, "MAX_ENTRIES", 3)
    write(tmp_path, {"a": b"", "d/b": b""})
    assert digest_of(tmp_path)
    (tmp_path / "c").write_bytes(b"")
    with pytest.raises(ResourceExhaustedError, match="more than 3 entries"):
        digest_of(tmp_path)
    monkeypatch.setattr(content, "MAX_ENTRIES", 1000)
    monkeypatch.setattr(content, "MAX_READ_BYTES", 9)
    (tmp_path / "a").write_bytes(b"0123456789")
    with pytest.raises(ResourceExhaustedError, match="10 bytes would have to be read"):
        digest_of(tmp_path)
    for level in range(31):  # links that double at every level
        (tmp_path / "deep" / str(level)).mkdir(parents=True)
        for name in "ab" if level < 30 else "":
            os.symlink(f"../{level + 1}", tmp_path / "deep" / str(level) / name)
    with pytest.raises(ResourceExhaustedError, match="more than 1000 entries"):
        digest_of(tmp_path / "deep" / "0")


def test_a_tree_without_files_lets_others_go_on_as_well(tmp_path):
    for number in range(10 * content._STEP_ENTRIES):
        (tmp_path / str(number)).mkdir()
    assert len(list(content.digesting(tmp_path))) >= 10


def test_a_big_file_counts_by_its_size_and_samples(tmp_path):
    size = SAMPLED_ABOVE_BYTES + 16
    first = digest_of(sparse(tmp_path / "w", size))
    assert digest_of(sparse(tmp_path / "w", size + 1)) != first
    for place in (0, size - 1, size // 15):
        assert digest_of(sparse(tmp_path / "w", size, {place: b"x"})) != first
    assert digest_of(sparse(tmp_path / "w", size, {SAMPLE_BYTES: b"x"})) == first
    whole = [digest_of(sparse(tmp_path / "w", SAMPLED_ABOVE_BYTES, at)) for at in ({}, {SAMPLE_BYTES: b"x"})]
    assert whole[0] != whole[1], "at the limit it is read whole"


@pytest.fixture
def reads(monkeypatch):
    monkeypatch.setattr(content, "_recent", Recent(content._REMEMBERED))
    seen = []
    read = content._content

    def noting(entry):
        seen.append(entry.name.decode())
        return read(entry)

    monkeypatch.setattr(content, "_content", noting)
    return seen


@pytest.fixture
def settled(monkeypatch):
    """What was written just now counts as written long ago."""
    monkeypatch.setattr(content, "_SETTLED_NS", -LONG_AGO_NS)


@pytest.mark.usefixtures("settled")
def test_what_has_not_changed_is_not_read_again_but_what_has_just_changed_is(model, reads, monkeypatch):
    digest = digest_of(model)
    assert sorted(reads) == sorted(FILES)
    reads.clear()
    assert (digest_of(model), reads) == (digest, [])
    info = (model / "empty").stat()
    (model / "empty").write_bytes(b"")
    os.utime(model / "empty", ns=(info.st_atime_ns, info.st_mtime_ns))  # its change time tells all the same
    os.replace(model / "weights/b.bin", model / "b")
    os.replace(model / "b", model / "weights/b.bin")
    assert digest_of(model) == digest
    assert sorted(reads) == sorted(FILES)
    monkeypatch.setattr(content, "_SETTLED_NS", LONG_AGO_NS)
    monkeypatch.setattr(content, "_recent", Recent(content._REMEMBERED))
    reads.clear()
    for _ in range(2):
        digest_of(model)
    assert sorted(reads) == sorted([*FILES, *FILES])


@pytest.mark.usefixtures("settled")
def test_the_least_recently_used_is_forgotten(tmp_path, reads, monkeypatch):
    monkeypatch.setattr(content, "_recent", Recent(2))
    a, b, c = (write(tmp_path / name, {name: b"x"}) for name in "abc")
    for path in (a, b, a, c):
        digest_of(path)
    reads.clear()
    for path in (a, c, b):
        digest_of(path)
    assert reads == ["b"]


def virtual_environment(base, *, version="1.0", settings="version = 3.11"):
    site = base / "lib" / "python3.11" / "site-packages"
    site.mkdir(parents=True, exist_ok=True)
    (site / f"thing-{version}.dist-info").mkdir()
    (site / "old.egg-info").touch()
    (site / "thing").mkdir()
    (base / "bin").mkdir()
    os.symlink(sys.executable, base / "bin" / "python")
    (base / "pyvenv.cfg").write_text(settings)
    return str(base / "bin" / "python")


def test_c13_another_version_of_a_library_is_another_environment(tmp_path):
    one, same, other = (
        virtual_environment(tmp_path / name, version=version)
        for name, version in (("one", "1.0"), ("same", "1.0"), ("other", "1.1"))
    )
    assert environment_of(one) == environment_of(same) != environment_of(other)
    site = tmp_path / "one/lib/python3.11/site-packages"
    (site / "new_module.py").touch()
    assert environment_of(one) == environment_of(same)
    (site / "old.egg-info").unlink()
    assert environment_of(one) != environment_of(same)


def test_another_interpreter_is_another_environment(tmp_path):
    python = virtual_environment(tmp_path)
    before = environment_of(python)
    os.unlink(python)
    write(tmp_path, {"bin/python": b"another build"})
    assert environment_of(python) != before
    with pytest.raises(NotFoundError, match="absent"):
        environment_of(str(tmp_path / "absent" / "python"))


def test_the_default_is_the_interpreter_that_runs_this():
    assert environment_of() == environment_of(None) == environment_of(sys.executable)
    own = os.path.realpath(sysconfig.get_path("purelib"))
    assert own in content._site_directories(content.Path(sys.executable))


def test_the_libraries_below_a_virtual_environment_count_if_it_sees_them(tmp_path):
    (tmp_path / "base/bin").mkdir(parents=True)
    below = tmp_path / "base/lib/python3.11/site-packages"
    below.mkdir(parents=True)
    home = f"home = {tmp_path / 'base/bin'}\ninclude-system-site-packages"
    seeing = virtual_environment(tmp_path / "seeing", settings=f"{home} = True")
    blind = virtual_environment(tmp_path / "blind", settings=f"{home} = false")
    before = environment_of(seeing), environment_of(blind)
    (below / "new-1.dist-info").mkdir()
    assert environment_of(seeing) != before[0]
    assert environment_of(blind) == before[1]
