"""A model whose files are links, and whose version is exchanged by turning one: as volumes and caches do it."""

import hashlib
import os
import time

import pytest

from hostd.core.files.stability import Completeness, Stability
from hostd.shell.repository.completeness import KnownHashes, look_at, walk
from hostd.shell.repository.fingerprint import digest_of
from hostd_workers.wire.errors import AbortedError

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


def test_a_link_that_is_turned_to_a_file_of_the_same_size_and_time_is_a_change(tmp_path):
    for name in ("1", "2"):
        _version(tmp_path / name, {"weights": name.encode()})
    model = tmp_path / "m"
    model.mkdir()
    (model / "weights").symlink_to(tmp_path / "1" / "weights")
    before = walk(str(model))
    assert walk(str(model)).digest == before.digest
    began_ns = time.time_ns() - 10**9
    _turn(model / "weights", tmp_path / "2" / "weights")
    after = walk(str(model))
    assert after.digest != before.digest
    assert after.files_changed_ns >= began_ns, "what failed is tried again"


def test_a_model_is_not_quiet_while_its_links_are_turned(tmp_path):
    old = _version(tmp_path / "1", {"weights": b"1"}) / "weights"
    model = tmp_path / "m"
    model.mkdir()
    (model / "weights").symlink_to(old)
    stability = Stability(2.0)
    assert stability.observe("m", look_at(str(model), None), 0.0, time.time()) is not None
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
