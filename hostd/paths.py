"""Where a host keeps its files, and the endpoint at which clients find it.

Covers names and the rules for private directories, with the standard library alone: every client imports this. Does not
cover settings (`hostd.config`) or the lock on a runtime directory, which belongs to the supervisor.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from hostd_workers.wire.errors import FailedPreconditionError, InvalidArgumentError

DEFAULT_NAME = "default"
CLIENT_SOCKET = "client.ipc"
WORKER_SOCKET = "workers.ipc"

# sockaddr_un.sun_path holds 108 bytes with the final NUL (unix(7)); libzmq refuses a longer ipc path.
SOCKET_PATH_MAX_BYTES = 107


def runtime_dir(name: str = DEFAULT_NAME) -> Path:
    """Return the runtime directory of the host called `name`: sockets and the lock; it need not exist.

    It is `$XDG_RUNTIME_DIR/hostd/<name>`, or a directory of this user's under the system's temporary directory where
    that variable is unset or, against the XDG specification, relative.
    """
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(base):  # noqa: PTH117 - an empty string must stay distinguishable from "."
        return Path(base, "hostd", name)
    return Path(tempfile.gettempdir(), f"hostd-{os.getuid()}", name)


def state_dir(name: str = DEFAULT_NAME) -> Path:
    """Return the state directory of the host called `name`: what outlives the host, such as logs; it need not exist."""
    base = os.environ.get("XDG_STATE_HOME", "")
    home = Path(base) if os.path.isabs(base) else Path.home() / ".local" / "state"  # noqa: PTH117 - see runtime_dir
    return home / "hostd" / name


def client_endpoint(runtime_directory: str | os.PathLike[str]) -> str:
    """Return the endpoint at which clients reach the host that has this runtime directory.

    Raises InvalidArgumentError if the socket's path would be too long for the operating system.
    """
    return _endpoint(runtime_directory, CLIENT_SOCKET)


def worker_endpoint(runtime_directory: str | os.PathLike[str]) -> str:
    """Return the endpoint at which workers reach the host of this runtime directory; errors as `client_endpoint`."""
    return _endpoint(runtime_directory, WORKER_SOCKET)


def default_endpoint(name: str | None = None) -> str:
    """Return the endpoint that a client means who gives none.

    `HOSTD_ENDPOINT` wins. Else it is the host called `name`, or without a name the one that `hostd serve` starts in
    this environment (`HOSTD_RUNTIME_DIR`, `HOSTD_NAME`).
    """
    if endpoint := os.environ.get("HOSTD_ENDPOINT"):
        return endpoint
    if name is None:
        if directory := os.environ.get("HOSTD_RUNTIME_DIR"):
            return client_endpoint(Path(directory).expanduser().absolute())
        name = os.environ.get("HOSTD_NAME") or DEFAULT_NAME
    return client_endpoint(runtime_dir(name))


def check_socket_paths(runtime_directory: str | os.PathLike[str]) -> None:
    """Raise InvalidArgumentError if the sockets of this runtime directory would have a path that is too long."""
    client_endpoint(runtime_directory)
    worker_endpoint(runtime_directory)


def make_private(directory: Path) -> None:
    """Create `directory` and its parents for this user alone, mode 0700; one that is private already stays as it is.

    Raises FailedPreconditionError if it is not private (somebody else's, a link, open to others), or if others could
    replace it because they own or may write the directory that it is in.
    """
    directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.mkdir(mode=0o700, exist_ok=True)
    if problem := why_not_private(directory):
        raise FailedPreconditionError(problem)


def why_not_private(directory: Path) -> str | None:
    """Return why others could tamper with `directory`, with what to do about it; None if it is this user's alone."""
    found, above = directory.lstat(), directory.parent.stat()
    if stat.S_ISLNK(found.st_mode) or not stat.S_ISDIR(found.st_mode):
        return f"{directory} is not a directory; remove it or choose another runtime directory"
    if found.st_uid != os.geteuid():
        return (
            f"{directory} belongs to user {found.st_uid}, not to you ({os.geteuid()}); choose another runtime directory"
        )
    if found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        return f"{directory} is open to other users (mode {mode:04o}); close it with: chmod 0700 {directory}"
    # In a shared /tmp another user can make the directory above before us, and then rename ours and put up his own.
    is_anybodys = above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX
    if above.st_uid not in (0, os.geteuid()) or is_anybodys:
        return f"{directory.parent} is under the control of other users; choose another runtime directory"
    return None


def _endpoint(directory: str | os.PathLike[str], socket_name: str) -> str:
    path = os.path.join(directory, socket_name)  # noqa: PTH118 - bytes are counted on this very string
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_MAX_BYTES:
        raise InvalidArgumentError(
            f"the socket {path} has a path of {length} bytes and the operating system allows {SOCKET_PATH_MAX_BYTES}; "
            "choose a shorter runtime directory (--runtime-dir, HOSTD_RUNTIME_DIR)"
        )
    return f"ipc://{path}"
