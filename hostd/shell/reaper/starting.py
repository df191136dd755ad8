"""The entry: whose host this reaper keeps.

The argument is "served", shared:SEAT_FD:LOCK_FD:DIRECTORY for a host that several processes share, or
embedded:PID:TOLD_FD:ORDER_FD for that of the process PID. That one finds out meanwhile what it wants: it writes
DIRECTORY, a NUL and the configuration to the memfd ORDER_FD, and then counts the eventfd TOLD_FD up. DIRECTORY is the
runtime directory, removed in the end.
"""

from __future__ import annotations

import os
import select
import sys

from .keeping import keep, open_standard_descriptors
from .names import CONFIG_VARIABLE

SHARED, EMBEDDED = "shared", "embedded"
NO_PROCESS = (
    b'{"kind": [9, "FailedPreconditionError"], "error": "the system gives it no process: REASON. Raise the limits on '
    b'processes and threads (ulimit -u, TasksMax=, --pids-limit)"}'
)
"""What a supervisor would say (`hostd.shell.main`), where there is none."""


def hear(embedder_fd: int, told_fd: int, order_fd: int) -> list[str]:
    """Return what the embedding process wants, as soon as it has said so; nothing if it ends before."""
    poller = select.poll()
    for fd in (embedder_fd, told_fd):
        poller.register(fd, select.POLLIN)
    if told_fd not in [fd for fd, _ in poller.poll()]:
        return []
    order = os.pread(order_fd, os.fstat(order_fd).st_size, 0)
    os.close(told_fd)
    os.close(order_fd)
    return os.fsdecode(order).split("\0")


def keep_embedded(pid: int, told_fd: int, order_fd: int) -> int | None:
    """Keep the host of an embedding process; see `keep`."""
    try:
        embedder_fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return 1
    if os.getppid() != pid or not (said := hear(embedder_fd, told_fd, order_fd)):
        return 1
    directory, os.environ[CONFIG_VARIABLE] = said
    return keep(directory, embedder_fd)


def keep_shared(seat_fd: int, lock_fd: int, directory: str) -> int | None:
    """Keep a host that several processes share; see `keep`."""
    try:
        if os.fork():  # the starter may end before the others do: it must not have a child to reap
            return 0
    except OSError as error:
        os.write(seat_fd, NO_PROCESS.replace(b"REASON", os.fsencode(os.strerror(error.errno or 0))))
        return 1
    from .door import Door  # noqa: PLC0415 - most reapers have none, and are the smaller for it

    return keep(directory, door=Door(seat_fd, lock_fd, directory))


def main(whose: str) -> int | None:
    """Keep the host of one embedding process, or of those that share it, or of none; see `keep`."""
    kind, _, about = whose.partition(":")
    if kind == SHARED:
        seat_fd, lock_fd, directory = about.split(":", 2)
        return keep_shared(int(seat_fd), int(lock_fd), directory)
    return keep_embedded(*map(int, about.split(":"))) if kind == EMBEDDED else keep("")


def run() -> None:
    """Be the reaper that the command line describes (`hostd.hosts.launch`); return in its supervisor only."""
    open_standard_descriptors()
    status = main(*sys.argv[1:])
    if status is not None:
        sys.exit(status)
    # What an interpreter of the supervisor's own would not have; a plugin may have the name of this package.
    del sys.argv[1:], sys.path[0]
    for name in [name for name in sys.modules if name.partition(".")[0] == __package__]:
        del sys.modules[name]
