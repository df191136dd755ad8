"""Where a host keeps its files, and the endpoint at which clients find it.

Covers names and the rules for private directories, with the standard library alone: every client imports this. Does not
cover settings (`hostd.config.settings`), the lock on a runtime directory (`hostd.hosts.lock`) or what runs
(`hostd.hosts.listing`).
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hostd import trust
from hostd_workers.wire.errors import FailedPreconditionError, InvalidArgumentError
from hostd_workers.wire.light import pattern

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_NAME = "default"
CLIENT_SOCKET = "client.ipc"
WORKER_SOCKET = "workers.ipc"
DOOR_SOCKET = "members.ipc"
"""Where processes join a host that they share; see `hostd.sharing`."""
LANE_SOCKETS = "lane-"
"""What the names of the sockets of workers begin with."""

LOGS = "logs"
HOST_LOG = "host.log"
STATE_LOCK = "hostd.lock"
SIZES = "sizes.sqlite"
STATE_NAMES = frozenset((LOGS, HOST_LOG, STATE_LOCK, SIZES, f"{SIZES}-journal"))
"""What a host keeps in its state directory."""

# sockaddr_un.sun_path holds 108 bytes with the final NUL (unix(7)); libzmq refuses a longer ipc path.
SOCKET_PATH_MAX_BYTES = 107


PRIVATE: Final = pattern(r"-(\d+)-[0-9a-f]{8}$")
"""What makes the name of a private host unlike all others: the number of the process that embeds it, and chance."""


def private_name(name: str | None) -> str:
    """Return a name for a host that this process embeds, which no other has."""
    return f"{name or 'embedded'}-{os.getpid()}-{os.urandom(4).hex()}"


def runtime_dir(name: str = DEFAULT_NAME) -> Path:
    """Return the runtime directory of the host called `name`: sockets and the lock; it need not exist.

    It is `$XDG_RUNTIME_DIR/hostd/<name>`, or a directory of this user's under the system's temporary directory where
    that variable is unset or, against the XDG specification, relative.
    """
    return hosts_dir() / name


def hosts_dir() -> Path:
    """Return the directory in which the runtime directories of this user's hosts are; it need not exist."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(base):  # noqa: PTH117 - an empty string must stay distinguishable from "."
        return Path(base, "hostd")
    try:
        return Path(_temporary_dir(), f"hostd-{os.getuid()}")
    except FileNotFoundError as error:
        raise FailedPreconditionError(
            f"there is no place for a runtime directory: {error.strerror or error}; set XDG_RUNTIME_DIR or TMPDIR to a "
            "directory that you can write, or choose a runtime directory (--runtime-dir, HOSTD_RUNTIME_DIR)"
        ) from None


def _temporary_dir() -> str:
    """Return what `tempfile` takes, without that where it is plain: it imports compression and random numbers."""
    first = next(filter(None, map(os.environ.get, ("TMPDIR", "TEMP", "TMP"))), "/tmp")  # noqa: S108 - as it does
    if "tempfile" not in sys.modules and os.path.isdir(first) and os.access(first, os.R_OK | os.W_OK | os.X_OK):  # noqa: PTH112
        return os.path.abspath(first)  # noqa: PTH100 - as it does
    import tempfile  # noqa: PLC0415 - as said

    return tempfile.gettempdir()


def state_dir(name: str, runtime_directory: str | os.PathLike[str]) -> Path:
    """Return the state directory of the host called `name`: what outlives the host, such as logs; it need not exist.

    It is `$XDG_STATE_HOME/hostd/<name>`, or below `~/.local/state` where that variable is unset or relative. For a user
    without a home, as in many containers, it is in the host's runtime directory, which is private.
    """
    base = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(base):  # noqa: PTH117 - see runtime_dir
        return Path(base, "hostd", name)
    home = _home()
    return Path(runtime_directory, "state") if home is None else home / ".local" / "state" / "hostd" / name


def _home() -> Path | None:
    """Return this user's home, None if there is none: nobody says where, nothing is there, or it is the root."""
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - that of Path raises
    is_there = home.is_absolute() and os.path.isdir(home)  # noqa: PTH112 - that of Path raises if it may not look
    return home if is_there and (home != Path("/") or os.access(home, os.W_OK)) else None


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path in which `~` is a home directory. Raises InvalidArgumentError if there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InvalidArgumentError(
            f"{os.fspath(path)!r}: no home directory is known that ~ stands for; give the whole path, or set HOME"
        ) from None


def shared_state_dir(runtime_directory: str | os.PathLike[str]) -> Path:
    """Return the directory of what outlives all hosts of this user and that they share; it need not exist.

    No host's name begins with a dot, so it is no host's own. For a user without a home see `state_dir`.
    """
    return state_dir(".shared", runtime_directory)


def client_endpoint(runtime_directory: str | os.PathLike[str]) -> str:
    """Return the endpoint at which clients reach the host that has this runtime directory.

    Raises InvalidArgumentError if the socket's path would be too long for the operating system.
    """
    return _endpoint(runtime_directory, CLIENT_SOCKET)


def worker_endpoint(runtime_directory: str | os.PathLike[str]) -> str:
    """Return the endpoint at which workers reach the host of this runtime directory; errors as `client_endpoint`."""
    return _endpoint(runtime_directory, WORKER_SOCKET)


def default_endpoint(name: str | None = None) -> str:
    """Return the endpoint that a client means if it gives none.

    `HOSTD_ENDPOINT` wins, an endpoint or a host's name. Else it is the host called `name`, or without a name the one
    that `hostd serve` starts in this environment (`HOSTD_RUNTIME_DIR`, `HOSTD_NAME`).
    """
    if endpoint := os.environ.get("HOSTD_ENDPOINT"):
        return endpoint_of(endpoint)
    if name is None:
        if directory := os.environ.get("HOSTD_RUNTIME_DIR"):
            return client_endpoint(expanded(directory).absolute())
        name = os.environ.get("HOSTD_NAME") or DEFAULT_NAME
    return client_endpoint(runtime_dir(name))


def endpoint_of(host: str) -> str:
    """Return the endpoint of a host, which is given by its name or by its endpoint; only an endpoint has a "://".

    Raises InvalidArgumentError for what is neither, such as a path.
    """
    if "://" in host:
        return host
    if "/" in host or host in (".", ".."):
        raise InvalidArgumentError(
            f"{host!r} is neither the name of a host, such as {DEFAULT_NAME}, nor an endpoint, such as "
            f"ipc://{os.path.abspath(host)} or tcp://host:port"  # noqa: PTH100 - resolve follows links
        )
    return client_endpoint(runtime_dir(host))


def check_socket_paths(runtime_directory: str | os.PathLike[str]) -> None:
    """Raise InvalidArgumentError if the sockets of this runtime directory would have a path that is too long."""
    client_endpoint(runtime_directory)
    worker_endpoint(runtime_directory)


def make_private(directory: Path) -> None:
    """Create `directory` and its parents for this user alone, mode 0700; one that is private already stays as it is.

    Raises FailedPreconditionError if it cannot be made, if it is not private (somebody else's, a link, open to others),
    or if others could replace it because they own or may write the directory that it is in.
    """
    _make(directory, "runtime")
    if problem := trust.why_not_private(directory):
        raise FailedPreconditionError(problem)


def make_state(directory: Path) -> None:
    """Create the state directory and its parents for this user alone, mode 0700.

    One that is there and that others may look into is closed, if nothing but a host's own things are in it. Raises
    FailedPreconditionError if it cannot be made or written, or if it is not this user's alone.
    """
    _make(directory, "state")
    if not directory.is_dir():
        raise unusable(directory, "state", "it is not a directory")
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise unusable(directory, "state", f"user {os.geteuid()} may not write there")
    with told(directory, "state"):
        if problem := trust.why_not_ours(directory):
            raise FailedPreconditionError(f"the state directory is not safe: {problem} (--state-dir, HOSTD_STATE_DIR)")
        if directory.stat().st_mode & 0o077:
            others = sorted(entry.name for entry in directory.iterdir() if entry.name not in STATE_NAMES)
            if others:
                raise FailedPreconditionError(
                    f"the state directory {directory} is open to other users and not the host's alone: it holds "
                    f"{others[0]}; choose one in it, such as {directory / 'hostd'} (--state-dir, HOSTD_STATE_DIR), or "
                    f"close it with: chmod 0700 {directory}"
                )
            directory.chmod(0o700)


def make_own(directory: Path) -> None:
    """Create a directory of the host's own in its state directory, mode 0700, or close one that is there.

    Raises FailedPreconditionError if that is a link, or somebody else's.
    """
    _make(directory, "state")
    with told(directory, "state"):
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(fd)
            if found.st_uid != os.geteuid():
                raise unusable(directory, "state", f"it belongs to user {found.st_uid}, not to you ({os.geteuid()})")
            if found.st_mode & 0o077:
                os.fchmod(fd, 0o700)
        finally:
            os.close(fd)


def make_parents(path: Path) -> None:
    """Create the directories that lead to a path for this user alone. Raises OSError."""
    # With parents=True, Path.mkdir would leave the mode of those above to the umask.
    for part in reversed(path.parents):
        if not part.is_dir():
            with suppress(FileExistsError):  # another process has just made it
                part.mkdir(mode=0o700)


def _make(directory: Path, purpose: str) -> None:
    with told(directory, purpose):
        make_parents(directory / "_")


@contextmanager
def told(directory: Path, purpose: str) -> Iterator[None]:
    """Raise `unusable` for what the system says of a directory."""
    try:
        yield
    except OSError as error:
        raise unusable(directory, purpose, error.strerror or str(error)) from None


def unusable(directory: Path, purpose: str, why: str) -> FailedPreconditionError:
    """Return the error for a directory of this purpose: why it is of no use, where it comes from, and what to do."""
    below = {"runtime": ("XDG_RUNTIME_DIR", "TMPDIR"), "state": ("XDG_STATE_HOME", "HOME")}[purpose]
    given = [name for name in below if (base := os.environ.get(name)) and directory.is_relative_to(base)]
    source = f" ({given[0]} is {os.environ[given[0]]})" if given else ""
    change = f"set {given[0]} to one of yours, or " if given else ""
    if (umask := _umask()) & 0o700:
        why += f" (the umask {umask:04o} takes away this user's own rights; set it with: umask 0022)"
    return FailedPreconditionError(
        f"the {purpose} directory {directory}{source} cannot be used: {why}; {change}choose another with "
        f"--{purpose}-dir or HOSTD_{purpose.upper()}_DIR"
    )


def _umask() -> int:
    """Return the umask of this process; to ask with umask(2) would change it for other threads."""
    with suppress(OSError):
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next((int(line.split()[1], 8) for line in lines if line.startswith("Umask:")), 0)
    return 0


def is_local(endpoint: str) -> bool:
    """Say whether what listens at an endpoint is on this machine."""
    return endpoint.startswith("ipc:")


def _endpoint(directory: str | os.PathLike[str], socket_name: str) -> str:
    path = os.path.join(directory, socket_name)  # noqa: PTH118 - bytes are counted on this very string
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_MAX_BYTES:
        raise InvalidArgumentError(
            f"the socket {path} has a path of {length} bytes and the operating system allows {SOCKET_PATH_MAX_BYTES}; "
            "choose a shorter runtime directory (--runtime-dir, HOSTD_RUNTIME_DIR)"
        )
    return f"ipc://{path}"
