"""The option `threads`, which several loaders share, and its default: what the host allots to the worker."""

from __future__ import annotations

import os

from hostd_workers.wire.errors import InvalidArgumentError

_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_ALLOTTED = "HOSTD_CPU_THREADS"


def checked_threads(threads: object) -> int:
    """Return the number of threads; InvalidArgumentError if it is not a number from 1 on."""
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InvalidArgumentError(f"the option threads must be a number from 1 on, got {threads!r}")
    return threads


def allotted_threads() -> int | None:
    """Return how many threads the host allots to this worker, None if it does not say."""
    return _number(os.environ.get(_ALLOTTED))


def openmp_threads(threads: object) -> int | None:
    """Return the number of threads for a library that uses OpenMP: as given, else what the host allots.

    None if the environment names another number for OpenMP: that was set on purpose, for this model or for all, and
    the library follows it by itself. Raises InvalidArgumentError if what is given is not a number from 1 on.
    """
    if threads is not None:
        return checked_threads(threads)
    allotted = allotted_threads()
    is_overruled = any(os.environ.get(variable, str(allotted)) != str(allotted) for variable in _VARIABLES)
    return None if is_overruled else allotted


def announce_threads(threads: int) -> None:
    """Tell libraries that are not imported yet how many threads to use; OpenMP and MKL read this once, at their start.

    Also for threads that the worker starts later: what a library is told by a call counts for the calling thread only.
    """
    for variable in _VARIABLES:
        os.environ[variable] = str(threads)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and int(text) > 0 else None
