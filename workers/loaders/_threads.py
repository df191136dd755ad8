"""The option `threads`, which several loaders share."""

from __future__ import annotations

import os

from workers.wire.errors import InvalidArgumentError

_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def checked_threads(threads: object) -> int:
    """Return the number of threads; InvalidArgumentError if it is not a number from 1 on."""
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InvalidArgumentError(f"the option threads must be a number from 1 on, got {threads!r}")
    return threads


def announce_threads(threads: int) -> None:
    """Tell libraries that are not imported yet how many threads to use; OpenMP and MKL read this once, at their start.

    Also for threads that the worker starts later: what a library is told by a call counts for the calling thread only.
    """
    for variable in _VARIABLES:
        os.environ[variable] = str(threads)
