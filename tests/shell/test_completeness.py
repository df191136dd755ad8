"""Looks at real files: what they see, what files say of themselves, and versions that are exchanged by turning a link."""

import errno
import hashlib
import os
import subprocess
import tempfile
import time

import pytest
from helpers import eventually, line_of, program
from walking_rig import again_and_again, digest_of, look_at

from hostd.core.files.stability import Completeness, Stability
from hostd.shell.repository import completeness
from hostd.shell.repository.completeness import KnownHashes, looking_at, walk
from hostd_workers.wire.errors import AbortedError

MARKER = "DONE"
YEAR_AGO_S = time.time() - 365 * 86400


@pytest.fixture
def model(tmp_path):
    """A model of three files, one of them hidden."""
    directory = tmp_path / "model"
    (directory / "deep" / "er").mkdir(parents=True)
    (directory / "model.py").write_text("x = 1")
    (directory / "deep" / "er" / "weights.bin").write_bytes(bytes(100))
    (directory / ".weights.bin.Xy12").write_bytes(bytes(10))
    return directory


def says(path, marker=None, hashes=None):
    seen = look_at(str(path), marker, hashes)
    return seen.completeness, seen.reason


def sums(directory, *names):
    """Write a manifest with the system's own tool."""
    with open(directory / "SHA256SUMS", "wb") as manifest:
        subprocess.run(["sha256sum", "--", *names], cwd=directory, stdout=manifest, check=True)


def test_to_check_a_big_file_makes_way_for_others(model):
    pieces = 20
    with open(model / "big", "wb") as file:
        file.truncate(pieces * completeness._CHUNK_BYTES)
    sums(model, "big")
    assert len(list(looking_at(str(model), None))) >= pieces


def grow_unseen(file):
    times = file.stat()
    os.truncate(file, times.st_size + 1)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


CHANGES = {
    "a file grew": lambda m: os.truncate(m / "deep/er/weights.bin", 101),
    "a hidden file grew": lambda m: os.truncate(m / ".weights.bin.Xy12", 11),
    "only a time changed": lambda m: os.utime(m / "model.py", (1, 1)),
    "a file grew and kept its time": lambda m: grow_unseen(m / "model.py"),
    "a file came": lambda m: (m / "deep" / "new").touch(),
    "a file went": lambda m: (m / ".weights.bin.Xy12").unlink(),
    "a file was renamed": lambda m: (m / ".weights.bin.Xy12").rename(m / "weights.bin"),
    "an empty directory came": lambda m: (m / "deep" / "empty").mkdir(),
    "two files changed names": lambda m: [
        (m / "model.py").rename(m / "x"),
        (m / ".weights.bin.Xy12").rename(m / "model.py"),
        (m / "x").rename(m / ".weights.bin.Xy12"),
    ],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_c27_a_look_sees_that(change, model):
    before = look_at(str(model), None)
    assert look_at(str(model), None) == before
    change(model)
    assert look_at(str(model), None).digest != before.digest


def test_the_newest_change_is_that_of_any_file_or_directory(model):
    for path in (model, *model.rglob("*")):
        os.utime(path, (YEAR_AGO_S, YEAR_AGO_S))
    # Times can be set, but not those of the inode: a copy that keeps times does not look old.
    assert look_at(str(model), None).changed_s > time.time() - 60
    future_s = time.time() + 1000
    os.utime(model / "deep", (future_s, future_s))
    assert look_at(str(model), None).changed_s == pytest.approx(future_s)


def test_a_plain_file_is_looked_at_like_a_directory_of_one_and_needs_no_marker(tmp_path):
    file = tmp_path / "m.onnx"
    with pytest.raises(FileNotFoundError):
        look_at(str(file), MARKER)
    file.write_bytes(b"12")
    before = look_at(str(file), MARKER)
    assert before.completeness is Completeness.UNKNOWN
    file.write_bytes(b"123")
    assert look_at(str(file), MARKER).digest != before.digest


def test_links_to_directories_are_not_followed_and_links_to_files_are(model, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "blob").write_bytes(b"1")
    (model / "loop").symlink_to(model)
    (model / "away").symlink_to(elsewhere)
    (model / "weights").symlink_to(elsewhere / "blob")
    (model / "dangling").symlink_to("nowhere")
    before = look_at(str(model), None)
    (elsewhere / "other").touch()
    assert look_at(str(model), None) == before
    (elsewhere / "blob").write_bytes(b"22")
    assert look_at(str(model), None).digest != before.digest


def test_pipes_are_not_opened(model):
    for name in ("pipe", "SHA256SUMS"):
        os.mkfifo(model / name)
    assert says(model)[0] is Completeness.INCOMPLETE
    (model / "SHA256SUMS").unlink()
    os.mkfifo(model / "x.safetensors.index.json")
    assert says(model)[0] is Completeness.UNKNOWN


def test_looks_survive_files_that_come_and_go(tmp_path):
    deep, seen = tmp_path / "m" / "a" / "b", set()
    (tmp_path / "m").mkdir()

    def come_and_go():
        deep.mkdir(parents=True)
        (deep / "f").write_bytes(b"1")
        (deep / "f").unlink()
        deep.rmdir()
        deep.parent.rmdir()

    def has_changed():
        seen.update(look_at(str(tmp_path / "m"), None).digest for _ in range(500))
        return len(seen) > 1

    with again_and_again(come_and_go):
        eventually(has_changed, "a look sees another state")


def test_c27_with_a_marker_configured_a_directory_is_whole_when_it_is_at_its_top_whatever_a_manifest_says(model):
    (model / "deep" / MARKER).touch()
    sums(model, "model.py")
    without = f"it has no file '{MARKER}', which is to say that it is whole"
    assert says(model, MARKER) == (Completeness.INCOMPLETE, without)
    (model / MARKER).touch()
    assert says(model, MARKER) == (Completeness.COMPLETE, "")


def test_c27_a_manifest_of_sha256sum_is_whole_when_all_it_names_is_there_and_matches(model):
    odd = "b\\ack\nslash \r"
    (model / odd).write_text("odd")
    sums(model, "model.py", "./deep/er/weights.bin", odd)
    assert says(model) == (Completeness.COMPLETE, "")
    (model / "deep/er/weights.bin").write_bytes(bytes(99))
    assert says(model) == (Completeness.INCOMPLETE, "'./deep/er/weights.bin' has not the hash that SHA256SUMS gives")
    (model / "deep/er/weights.bin").unlink()
    assert says(model) == (Completeness.INCOMPLETE, "'./deep/er/weights.bin', which SHA256SUMS names, is missing")


ZEROS = "0" * 64
MANIFESTS = {
    "": "empty",
    f"{ZEROS}  model.py": "ends within a line",
    f"{ZEROS[1:]}  model.py\n": "not of sha256sum",
    f"{ZEROS}  ../model/model.py\n": "outside",
    f"{ZEROS}  /etc/passwd\n": "outside",
    f"{ZEROS}  model.py\n": "has not the hash",
    f"{ZEROS}  deep\n": "has not the hash",
    f"{ZEROS}  {'x' * (5 << 20)}\n": "too much",
}


@pytest.mark.parametrize(("text", "problem"), MANIFESTS.items(), ids=MANIFESTS.values())
def test_c27_a_manifest_that_is_not_right_is_incomplete_and_says_why(text, problem, model):
    (model / "SHA256SUMS").write_text(text)
    found, reason = says(model)
    assert found is Completeness.INCOMPLETE
    assert problem in reason


def test_hashes_are_kept_while_a_file_does_not_change(model, monkeypatch):
    monkeypatch.setattr(completeness, "RECENT_NS", 0)
    sums(model, "model.py", "deep/er/weights.bin")
    hashes = KnownHashes()
    read = []
    original = KnownHashes._read
    monkeypatch.setattr(KnownHashes, "_read", lambda self, file: read.append(file) or original(self, file))
    assert [says(model, None, hashes)[0] for _ in range(3)] == [Completeness.COMPLETE] * 3
    assert len(read) == 2
    times = os.stat(model / "model.py")
    (model / "model.py").write_text("x = 2")
    os.utime(model / "model.py", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert says(model, None, hashes)[0] is Completeness.INCOMPLETE
    assert len(read) == 3


def test_hashes_of_files_that_changed_just_now_are_not_kept_nor_any_after_a_stop(model, monkeypatch):
    monkeypatch.setattr(completeness, "RECENT_NS", 10**15)
    sums(model, "model.py")
    hashes = KnownHashes()
    assert says(model, None, hashes)[0] is Completeness.COMPLETE
    assert not hashes._known
    monkeypatch.setattr(completeness, "RECENT_NS", 0)
    monkeypatch.setattr(completeness, "_HASHES_KEPT", 1)
    hashes = KnownHashes()
    sums(model, "model.py", "deep/er/weights.bin")
    assert says(model, None, hashes)[0] is Completeness.COMPLETE
    assert len(hashes._known) == 1
    hashes = KnownHashes()
    hashes.stop()
    assert says(model, None, hashes)[0] is Completeness.INCOMPLETE, "no file is read any more"


@pytest.mark.parametrize(
    ("name", "suffix"), [("model.safetensors.index.json", "safetensors"), ("p.bin.index.json", "bin")]
)
@pytest.mark.parametrize("is_pretty", [True, False])
def test_c27_a_sharded_checkpoint_lacks_what_its_index_names(model, name, suffix, is_pretty):
    import json

    shards = [f"model-{number:05}-of-00003.{suffix}" for number in (1, 2, 3)]
    weights = {f"layers.{number}.weight": shards[number // 10_000] for number in range(30_000)}
    index = {"metadata": {"total_size": 1}, "weight_map": weights}
    (model / name).write_text(json.dumps(index, indent=2 if is_pretty else None))
    for shard in shards:
        assert says(model) == (Completeness.INCOMPLETE, f"'{shard}', which {name} names, is missing")
        (model / shard).touch()
    assert says(model) == (Completeness.UNKNOWN, "")


@pytest.mark.parametrize("offset", range(-15, 5))
def test_c27_a_shard_is_seen_wherever_the_chunks_of_an_index_end(model, offset):
    beginning = '{"weight_map": {"layer'
    text = beginning + " " * ((1 << 16) + offset - len(beginning)) + '": "last.bin"}}'
    (model / "x.bin.index.json").write_text(text)
    assert says(model)[1] == "'last.bin', which x.bin.index.json names, is missing"


CLOSED = """
    import os, sys
    from hostd.shell.repository.completeness import looking_at
    from hostd.shell.repository.fingerprint import done

    os.chmod(sys.argv[1], 0o333)
    if os.geteuid() == 0:  # no mode stops root
        os.setgroups([])
        os.setegid(65534)
        os.seteuid(65534)
    try:
        print(done(looking_at(sys.argv[1], None)))
    except OSError as error:
        print(error.strerror)
"""


def test_a_directory_that_may_not_be_listed_is_an_error_of_the_system_and_one_below_counts_as_such(model, monkeypatch):
    with tempfile.TemporaryDirectory() as base:  # pytest's own are closed to other users
        os.chmod(base, 0o755)
        closed = os.path.join(base, "closed")
        os.mkdir(closed)
        with program(CLOSED, closed) as process:
            assert line_of(process) == "Permission denied"
        os.chmod(closed, 0o755)
    entries, digests = completeness._entries, []
    for code in (errno.EACCES, errno.EIO, errno.ENOENT, errno.ENOTDIR):  # the last two: it has just gone

        def refuse(directory, code=code):
            if str(directory).endswith("er"):
                raise OSError(code, os.strerror(code))
            return entries(directory)

        monkeypatch.setattr(completeness, "_entries", refuse)
        digests.append(look_at(str(model), None).digest)
    assert len(set(digests)) == 3
    assert digests[2] == digests[3]


LONG_AGO_S = 1_000_000_000


def _version(place, files):
    """Write a version with its manifest, as old as a reproducible image makes it."""
    place.mkdir()
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items())
    for name, content in {**files, "SHA256SUMS": sums.encode()}.items():
        (place / name).write_bytes(content)
        os.utime(place / name, (LONG_AGO_S, LONG_AGO_S))
    return place


def _turn(link, target):
    """Exchange a link at once."""
    new = link.with_name("..new")
    new.symlink_to(target)
    new.replace(link)


@pytest.fixture
def volume(tmp_path):
    """A model as Kubernetes mounts a ConfigMap: links through `..data` into one of two versions."""
    model = tmp_path / "m"
    model.mkdir()
    _version(model / "..1", {"a": b"1", "b": b"same"})
    _version(model / "..2", {"a": b"2", "b": b"same"})
    (model / "..data").symlink_to("..1")
    for name in ("a", "b", "SHA256SUMS"):
        (model / name).symlink_to(f"..data/{name}")
    return model


def test_a_link_that_is_turned_to_a_file_of_the_same_size_and_time_is_a_change_and_no_quiet(tmp_path):
    old, new = (_version(tmp_path / name, {"weights": name.encode()}) / "weights" for name in ("1", "2"))
    model, stability = tmp_path / "m", Stability(2.0)
    model.mkdir()
    (model / "weights").symlink_to(old)
    before = walk(str(model))
    assert walk(str(model)).digest == before.digest
    assert stability.observe("m", look_at(str(model), None), 0.0, time.time()) is not None
    began_ns = time.time_ns() - 10**9
    _turn(model / "weights", new)
    after = walk(str(model))
    assert after.digest != before.digest
    assert after.files_changed_ns >= began_ns, "what failed is tried again"
    _turn(model / "weights", old)
    assert stability.observe("m", look_at(str(model), None), 2.0, time.time()) is not None, "it was turned since"
    assert stability.observe("m", look_at(str(model), None), 4.0, time.time()) is None


class _Swapping(KnownHashes):
    """Hashes files, and turns the volume to its second version after the first of them."""

    def __init__(self, volume):
        super().__init__()
        self._volume = volume

    def hashing(self, path):
        found = yield from super().hashing(path)
        _turn(self._volume / "..data", "..2")
        return found


def test_a_manifest_of_one_version_does_not_vouch_for_the_next(volume):
    assert look_at(str(volume), None).completeness is Completeness.COMPLETE
    (volume / "..2" / "a").write_bytes(b"half")
    look = look_at(str(volume), None, _Swapping(volume))
    assert look.completeness is Completeness.INCOMPLETE
    assert look.reason == "it changed while SHA256SUMS was checked"
    look = look_at(str(volume), None)
    assert look.completeness is Completeness.INCOMPLETE
    assert look.reason == "'a' has not the hash that SHA256SUMS gives"


def test_a_digest_is_of_one_version_or_none(volume, monkeypatch):
    first = digest_of(volume)
    _turn(volume / "..data", "..2")
    second = digest_of(volume)
    assert first != second
    _turn(volume / "..data", "..1")
    opened = os.open

    def swapping(path, *arguments):
        descriptor = opened(path, *arguments)
        _turn(volume / "..data", "..2")
        return descriptor

    for name in ("a", "b"):  # what is remembered is not read
        os.utime(volume / "..1" / name)
    monkeypatch.setattr(os, "open", swapping)
    with pytest.raises(AbortedError, match="was exchanged while it was read"):
        digest_of(volume)
    monkeypatch.undo()
    assert digest_of(volume) == second
