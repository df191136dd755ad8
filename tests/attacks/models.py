"""The models that the attacked host serves, as directories."""

SOURCE = '''"""Gives back what it gets, and as much as one likes."""


class Model:
    def echo(self, x):
        return x

    def size_of(self, x):
        return len(x)

    def sized(self, size):
        return bytes(size)

    def result(self):
        return bytes(10_000_000)

    def items(self):
        while True:
            yield bytes(1 << 16)


def load(path, **options):
    return Model()
'''

WAITING = '''"""Loads until a file is there."""

import pathlib
import time


def load(path, **options):
    while not pathlib.Path({gate!r}).exists():
        time.sleep(0.05)
    return lambda x: x
'''


def write_model(directory):
    """Write a model for whatever an attack needs; returns its directory."""
    return _write(directory, SOURCE)


def write_waiting(directory, gate):
    """Write a model that loads until `gate` is there; returns its directory."""
    return _write(directory, WAITING.format(gate=str(gate)))


def _write(directory, source):
    directory.mkdir(parents=True)
    (directory / "model.py").write_text(source)
    return directory
