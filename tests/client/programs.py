"""Programs that use a client in ways that a test process cannot: they fork, are collected, or end."""

from __future__ import annotations

import subprocess
import sys
import textwrap

from helpers import REPOSITORY


def run(code: str, *arguments: str) -> str:
    """Run a program to its end, which must be a good one, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout
