"""Programs of another user, who is no friend of whoever runs the tests. Only root can start them."""

import contextlib
import itertools
import os
import subprocess
import sys
import textwrap

import pytest
from helpers import REPOSITORY, stop
from odd_places import AS_STRANGER

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")

_count = itertools.count()


def new_user():
    """Return the number of a user that no password database knows, and no other test."""
    return 2_000_000 + (os.getpid() * 64 + next(_count)) % 1_000_000


@contextlib.contextmanager
def program_of(user, source, *arguments):
    """Run a Python program as another user, who can import what is tested; its output is for `line_of`."""
    program = subprocess.Popen(
        [*(word.format(user=user) for word in AS_STRANGER), sys.executable, "-c", textwrap.dedent(source)]
        + [str(argument) for argument in arguments],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"},
        cwd="/",
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield program
    finally:
        stop(program)
