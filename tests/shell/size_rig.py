"""A file of remembered sizes, and programs that use one."""

import logging

from helpers import line_of, program

from hostd.shell.sizes.store import Figures, SizeKey, SizeStore

KEY = SizeKey("content", "loader", "", "options", "environment")
FIGURES = Figures(4096, 2048, None, 8192, 1.5, 0.0)
LOST = "forgotten when the host ends"

PRELUDE = """
import os, pathlib, resource, shutil, signal, sys, tempfile
from hostd.shell.sizes import store as module
from hostd.shell.sizes.store import Figures, SizeStore, SizeKey

KEY = lambda name: SizeKey(str(name), "loader", "", "options", "environment")
FIGURES = Figures(4096, 2048, None, 8192, 1.5)
"""


def key(content):
    return KEY._replace(content=str(content))


def at(measured_s, **others):
    return FIGURES._replace(measured_s=measured_s, **others)


def recalled(file, content="content"):
    """Return what another host finds."""
    with SizeStore(file) as store:
        return store.recall(key(content))


def said(source, *arguments, lines=1):
    """Return what a program of its own says, which has what the prelude names."""
    with program(PRELUDE + source, *arguments) as running:
        return [line_of(running) for _ in range(lines)]


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
