"""What a host takes from its surroundings before it starts, and what it cannot live with, told in a sentence.

Covers the limits and the umask that a process inherits. Does not cover what `reaper` puts right.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys

from hostd.shell.work.threads import LEAST_THREADS, may_start, too_few_threads
from hostd.units import format_size
from hostd_workers.wire.errors import FailedPreconditionError

FILES_VARIABLE = "HOSTD_OPEN_FILES"
"""The limit on open files that this process began with, for workers."""

PR_SET_CHILD_SUBREAPER = 36

LEAST_FILES = 64
"""An idle host has some 40 open, and some five more for each worker. A worker needs one to connect."""

LEAST_FILE_BYTES = 1 << 20
"""Of a log, and of the sizes that are remembered."""

SWITCH_S = 0.0005
"""How long a thread that computes keeps the loop waiting, each time that this comes back from the system; Python's
default is ten times that, and a pass over the memory of 200 workers takes 10 ms."""


def check() -> None:
    """Raise FailedPreconditionError if this process cannot be a host. Call it while there is one thread."""
    os.umask(umask := os.umask(0))
    if umask & 0o700:
        raise FailedPreconditionError(
            f"the umask {umask:04o} takes away this user's rights to files of the host; set it with: umask 0022"
        )
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if files != resource.RLIM_INFINITY and files < LEAST_FILES:
        raise FailedPreconditionError(
            f"this process may have {files} open files; a host needs {LEAST_FILES}, and five more for each model. "
            "Raise the hard limit (ulimit -Hn, LimitNOFILE=, --ulimit nofile=)"
        )
    size_bytes = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if size_bytes != resource.RLIM_INFINITY and size_bytes < LEAST_FILE_BYTES:
        raise FailedPreconditionError(
            f"this process may write files of {size_bytes} bytes; a host needs {format_size(LEAST_FILE_BYTES)} for "
            "each log. Raise the limit (ulimit -f, LimitFSIZE=)"
        )
    if not may_start(LEAST_THREADS):
        raise too_few_threads()


def prepare() -> None:
    """Raise the limit on descriptors, adopt what workers leave (prctl(2), FACTS), and put the loop before threads."""
    sys.setswitchinterval(SWITCH_S)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.environ[FILES_VARIABLE] = str(soft)  # for workers: their libraries may count on it (select(2))
    if soft < hard:
        # Every client and every worker takes some.
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
