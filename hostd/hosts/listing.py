"""Which hosts of this user run, and why the one that is meant does not answer.

Hosts are found by their sockets in the directory of all hosts; a socket on which nobody listens is what a crash left.
With the standard library alone: every client imports this. What hosts say of themselves is asked for by clients.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from hostd import paths, trust
from hostd.hints import closest
from hostd.hosts import lock as runtime_lock
from hostd_workers.wire.errors import HostError, UnavailableError
from hostd_workers.wire.light_dataclass import dataclass


@dataclass(frozen=True)
class FoundHost:
    """A host by its directory: `pid` is what it wrote down, `trouble` why it cannot be reached, None if it runs."""

    name: str
    endpoint: str
    pid: int | None
    trouble: str | None


def find_hosts() -> list[FoundHost]:
    """Return the hosts that have a socket, those that run and those that crashed, by name."""
    found, places = [], set(_places())
    if directory := os.environ.get("HOSTD_RUNTIME_DIR"):
        places.add(Path(directory).absolute())
    for place in sorted(places):
        if (place / paths.CLIENT_SOCKET).is_socket():
            endpoint = f"ipc://{place / paths.CLIENT_SOCKET}"
            trouble = why_unreachable(endpoint)
            found.append(FoundHost(place.name, endpoint, runtime_lock.holder_of(place), trouble))
    return found


def running_hosts() -> list[FoundHost]:
    """Return the hosts of this user that run, by name."""
    return [host for host in find_hosts() if host.trouble is None]


def why_unreachable(endpoint: str) -> str | None:  # noqa: PLR0911 - one line a reason
    """Return why nobody listens at an ipc endpoint; None if somebody does, or if only trying can tell."""
    if not endpoint.startswith("ipc://"):
        return None
    path = Path(endpoint.removeprefix("ipc://"))
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return f"{path} is not a socket"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            probe.connect(str(path))
    except BlockingIOError:
        return None  # its queue of connections is full: somebody is there, and busy
    except FileNotFoundError:
        return f"there is no socket at {path}"
    except ConnectionRefusedError:
        return f"the socket at {path} is stale: the host that made it is gone"
    except PermissionError:
        return f"the socket at {path} belongs to another user"
    except OSError as error:
        return f"{path} cannot be reached: {errno.errorcode.get(error.errno or 0, error)}"
    return None


def unreachable(endpoint: str, waited_s: float) -> UnavailableError:
    """Return the error for a host that does not answer: why, which others run, and the commands that help."""
    why, name = why_unreachable(endpoint), _name_of(endpoint)
    others = [host for host in running_hosts() if host.endpoint != endpoint]
    meant = closest(name, [host.name for host in others]) if name else None
    what = f"no host called {name!r} runs" if name and why else f"no host answers at {endpoint}"
    waited = f"; waited {waited_s:g} s" if waited_s else ""
    question = f"did you mean {meant!r}? Else start" if meant else "start"
    wait = "" if waited_s else ", or wait for it to come up with --wait (wait_s=30)"
    known = "".join(f"\n  {host.name}  {host.endpoint}  process {host.pid}" for host in others)
    return UnavailableError(
        f"{what} ({why or 'nothing there answers as a host'}{waited}): {question} one with "
        f"`{_command_for(endpoint, name)}`, or name another with -e or HOSTD_ENDPOINT{wait}. "
        f"{f'Your hosts that run:{known}' if known else 'No other host of yours runs.'}",
        details={"endpoint": endpoint, "hosts": [asdict(host) for host in others]},
    )


def _places() -> list[Path]:
    try:
        directory = paths.hosts_dir()
        return [] if trust.why_not_ours(directory) else list(directory.iterdir())
    except (OSError, HostError):  # it is not there, not ours, or there is no place for it
        return []


def _name_of(endpoint: str) -> str | None:
    """Return the name of the host that has this endpoint; None if it is found by its place alone."""
    place = Path(endpoint.removeprefix("ipc://")).parent
    with suppress(HostError):  # there is no place for hosts with names
        if endpoint == f"ipc://{place / paths.CLIENT_SOCKET}" and place.parent == paths.hosts_dir():
            return place.name
    return None


def _command_for(endpoint: str, name: str | None) -> str:
    if name is not None:
        return "hostd serve" if name == paths.DEFAULT_NAME else f"hostd serve --name {name}"
    if endpoint.startswith("ipc://") and endpoint != paths.default_endpoint():
        return f"hostd serve --runtime-dir {Path(endpoint.removeprefix('ipc://')).parent}"
    return "hostd serve"
