"""How a supervisor's process is started: the command and environment of its reaper.

The one seam between what starts hosts (`hostd serve`, `hostd.Host`) and the shell, which neither of them imports.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from hostd_workers.wire.errors import FailedPreconditionError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from hostd.config.settings import HostConfig

# Not pathlib, which takes as long to import as what is here (see `hostd.embed`).
_PACKAGE = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120
_SHELL = os.path.join(_PACKAGE, "shell")  # noqa: PTH118
_KEEP = f"import sys; sys.path[:] = [{_SHELL!r}, *filter(None, sys.path)]; from reaper.starting import run; run()\n"
"""Goes on in the supervisor, the reaper's fork, with what an interpreter has that was started with `-S`. The reaper is
imported and not run by its path: of what is run by its path Python keeps no byte code, and compiles it each time. With
`-c` the current directory comes first on the path, as "", and a `queue.py` there would be executed. The option against
that (`-P`) is new in Python 3.11. What PYTHONPATH names stays."""
_SUPERVISE = (
    "import gc; gc.disable(); import site; site.main(); "
    "from hostd.shell.processes.early import begin; begun = begin(); from hostd.shell.main import run; run(begun)"
)
"""What is imported is not garbage, and to look for that meanwhile takes a tenth of the time."""
_NOT_PASSED_ON = ("PYTHONINSPECT", "HOSTD_SUPERVISOR_READY_FD", "HOSTD_SUPERVISOR_LOCK_FD")
"""With the first an interpreter waits for a person when its program has ended; the others would be another host's."""

AT_ONCE = signal.SIGQUIT
"""What to send to a reaper if its supervisor does not end: it kills that and everything that it leaves behind."""


def reaper_command(
    *,
    embedded: tuple[int, int, int] | None = None,
    shared: tuple[int, int, Path] | None = None,
    supervise: str = _SUPERVISE,
) -> list[str]:
    """Return the command of a reaper with its supervisor.

    Both end with the process that has `embedded` them: its id, and the descriptors of an `Order`. A host that several
    processes share has `shared`: the descriptors of the starter's seat and of the lock, and the runtime directory,
    which is removed in the end. `supervise` is the source of the supervisor.
    """
    kind, about = ("embedded", embedded) if embedded else ("shared", shared) if shared else ("served", ())
    whose = ":".join((kind, *map(str, about)))
    # Without site packages, which may start threads: it must be small and quick, and forks.
    return [sys.executable, "-S", "-c", _KEEP + supervise, whose]


class Order:
    """What an embedding process tells its reaper when that has started: `told_fd` says that it is in `order_fd`.

    Neither end waits for the other, and none is hurt by its end, as by a pipe's (SIGPIPE).
    """

    def __init__(self) -> None:
        self.told_fd = above_standard(os.eventfd(0, os.EFD_CLOEXEC))
        self.order_fd = above_standard(os.memfd_create("hostd-order", os.MFD_CLOEXEC))

    def tell(self, config: HostConfig) -> None:
        """Have the host start with this configuration; its runtime directory is removed in the end.

        Raises FailedPreconditionError if the system refuses it.
        """
        with told_of_start(), open(self.order_fd, "wb", closefd=False) as file:
            file.write(os.fsencode(config.runtime_dir) + b"\0" + config.to_json().encode())
        os.eventfd_write(self.told_fd, 1)

    def close(self) -> None:
        """Close both."""
        os.close(self.told_fd)
        os.close(self.order_fd)


def ready_pipe() -> tuple[int, int]:
    """Return the reading and the writing end of a pipe for `ready_fd`.

    None is a standard descriptor, also where these are closed: what the host prints would be taken for what it says.
    """
    read, write = os.pipe2(os.O_CLOEXEC)
    return above_standard(read), above_standard(write)


def above_standard(fd: int) -> int:
    """Return the same as a descriptor that is none of the standard ones; the one that was given is closed."""
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)


def supervisor_environment(
    config: HostConfig | None,
    ready_fd: int | None = None,
    *,
    kind: str = "serve",
    lock_fd: int | None = None,
    sources: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Return the environment of a supervisor; it says on the descriptor `ready_fd` what became of its start.

    The reaper is told the configuration later if it is None (`Order`). `kind` is that of `HostInfo`; `lock_fd` has
    the lock of the runtime directory, if it was taken before.
    `sources` are the `file` and the `arguments` from which the configuration came, to be read again while it runs.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_PASSED_ON}
    environment["HOSTD_SUPERVISOR_KIND"] = kind
    if config is not None:
        environment["HOSTD_SUPERVISOR_CONFIG"] = config.to_json()
    if sources is not None:
        import json  # noqa: PLC0415 - see `hostd.embed`

        environment["HOSTD_SUPERVISOR_SOURCES"] = json.dumps(sources, default=str)
    for name, fd in (("HOSTD_SUPERVISOR_READY_FD", ready_fd), ("HOSTD_SUPERVISOR_LOCK_FD", lock_fd)):
        if fd is not None:
            environment[name] = str(fd)
    return environment


def exec_host(config: HostConfig, ready_fd: int | None = None, *, sources: Mapping[str, Any] | None = None) -> NoReturn:
    """Become the host of this configuration: this process goes on as its reaper.

    `sources` are as for `supervisor_environment`. The host says in words on standard output that it is
    ready, or as JSON on `ready_fd` (1 is standard output). Raises FailedPreconditionError if the system does not start
    it.
    """
    sys.stdout.flush()
    command = reaper_command()
    with told_of_start():
        os.execve(  # noqa: S606 - our own command
            command[0], command, supervisor_environment(config, ready_fd, sources=sources)
        )
    raise AssertionError("execve returns only by raising")


@contextmanager
def told_of_start() -> Iterator[None]:
    """Raise FailedPreconditionError where the system does not start a reaper."""
    try:
        yield
    except OSError as error:
        words = f"the system does not start the host's process: {error.strerror}"
        if error.errno == errno.E2BIG:
            words += " (the environment, or the configuration, which is passed in it; one variable may have 128 KiB)"
        if error.errno == errno.EFBIG:
            words += " (this process may write files of so few bytes; raise the limit: ulimit -f, LimitFSIZE=)"
        raise FailedPreconditionError(words) from None
