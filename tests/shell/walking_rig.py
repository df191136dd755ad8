"""Directories of models: with nothing but names, with a scanner, and such that come and go while a test walks over them."""

import contextlib
import os
import threading
from collections import Counter

from hostd.finders import find_spec
from hostd.shell.repository.completeness import looking_at
from hostd.shell.repository.fingerprint import digesting, done
from hostd.shell.repository.scanner import Scanner


def digest_of(path):
    return done(digesting(path))


def look_at(path, marker, hashes=None):
    return done(looking_at(path, marker, hashes))


@contextlib.contextmanager
def again_and_again(step):
    """Do a step in another thread, until the block ends."""
    is_over = threading.Event()

    def go_on():
        while not is_over.is_set():
            step()

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


class Rig:
    """A directory, its scanner, and how often it asked what is a model: whatever has "model" in a name at its top."""

    def __init__(self, path):
        self.path = path
        self.asked = Counter()
        self.scanner = Scanner(path, self._recognises)

    def _recognises(self, model_id, path):
        self.asked[model_id] += 1
        names = os.listdir(path) if os.path.isdir(path) else [path]
        return any("model" in os.path.basename(name) for name in names)

    def add(self, name, text="1"):
        directory = self.path / name
        directory.mkdir(parents=True)
        (directory / "model.py").write_text(text)
        return directory

    def scan(self, *loaded, retry_all=False, **elsewhere):
        """Scan with models that were loaded from the directory, and others by id and path."""
        paths = {name: str(self.path / name) for name in loaded}
        return self.scanner.scan({**paths, **elsewhere}, retry_all)

    def found(self, *loaded, retry_all=False):
        return sorted(name for name, _ in self.scan(*loaded, retry_all=retry_all).found)

    def fail(self, name, times=1):
        """Find and fail an entry, until it is not found any more."""
        for _ in range(times):
            assert name in self.found()
            self.scanner.note_failed(name)
        assert name not in self.found()


def made(directory, *names, yaml=None):
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).touch()
    if yaml is not None:
        (directory / "model.yaml").write_text(yaml)
    return str(directory)


def spec_of(directory, yaml):
    return find_spec("m", made(directory, yaml=yaml))
