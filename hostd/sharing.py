"""One host for several processes: joining it, starting it, leaving it.

Three things tell which processes are there. Each belongs to the operating system, so none can be stale:

* the lock of the runtime directory, held from before anything is started until nothing is left (`hostd.hosts.lock`);
* the door, a socket at which the reaper lets processes in (`shell/reaper/door`, where the rules of seats are);
* the seat of each process: a connection to the reaper, which also watches the process itself.

| lock | door | clients' socket | what that is | what a process does that joins ||
|---|---|---|---|---|
| free | any | any | no host, or what is left of one | takes the lock and starts one |
| held | none | none | one that starts, or a `hostd serve` that ends | waits |
| held | open | any | one that is shared, running or starting | sits down, hears how the start went |
| held | none | open, of kind "serve" | a `hostd serve` | uses it without a seat, and never ends it |
| held | none | open, of kind "shared" | one that has lost its last seat: it ends | waits for the lock |

Only the holder of the lock starts a host, so there is one. The starter's seat is there before the reaper is, so no
moment is without one. A process that was told nothing at the door looks again at the lock.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from hostd import paths
from hostd.hosts import lock as runtime_lock
from hostd.hosts.launch import above_standard, reaper_command, supervisor_environment, told_of_start
from hostd.hosts.listing import why_unreachable
from hostd_workers.wire.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    UnavailableError,
    from_wire,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hostd.config.settings import HostConfig
    from hostd.config.sources import Gathered

LOG_FILE = paths.HOST_LOG
"""In the state directory: what a shared host logs, which outlives the terminal and the pipes of its starter."""

QUIET = "warning"
"""How much an embedded host logs, if it is not told."""

_RETRY_S = 0.05
"""How often to look whether a host that starts or ends has done so."""

_NOT_COMPARED = ("name", "runtime_dir", "state_dir")
_STAYS, _ENDED, _LEAVE, _NOW = b"stays", b"ended", b"leave", b"now"
_MESSAGE_BYTES = 1 << 18

_taken: set[Seat] = set()
"""A seat that is dropped and not given back stays taken as long as its process lives, as a private host does."""


class Seat:
    """The part of this process in a host that others use too; `info` is what the host said when it was ready."""

    def __init__(self, connection: socket.socket | None, info: Mapping[str, Any]) -> None:
        """Take the connection to the reaper; a guest of a `hostd serve` has none."""
        self.info = dict(info)
        self._connection = connection
        self._supervisor_fd = -1
        if connection is not None:
            with suppress(OSError):  # it has just ended
                self._supervisor_fd = os.pidfd_open(info["pid"])
            _taken.add(self)

    def give_back(self, patience_s: float) -> None:
        """Leave the host; the last one waits until nothing of it is left. An orderly end gets `patience_s`."""
        _taken.discard(self)
        connection, self._connection = self._connection, None
        if connection is None:
            return
        with connection:
            answer = _ask_to_leave(connection, _LEAVE, patience_s)
            if answer is None:
                answer = _ask_to_leave(connection, _NOW, None)
        if answer == b"":  # it was shut down, or somebody has killed the reaper
            see_it_end(self._supervisor_fd, patience_s)
            runtime_lock.remove_if_free(Path(self.info["runtime_dir"]))
        if self._supervisor_fd >= 0:
            os.close(self._supervisor_fd)


def take_seat(name: str, settings: Mapping[str, Any], timeout_s: float) -> Seat:
    """Join the host called `name`, or start it with these settings.

    Raises `InvalidArgumentError` for settings that are not right, `FailedPreconditionError` if the host that runs has
    others, what the supervisor says when it does not start, and `DeadlineExceededError`.
    """
    # Imported here, because clients that never start a host need no pydantic (a fifth of a second).
    from hostd.config.sources import DEFAULT, gather  # noqa: PLC0415

    directory = paths.runtime_dir(name)
    wanted = gather({**settings, "name": name, "runtime_dir": directory}, file=None, environment=True)
    config = wanted.config
    if wanted.origins["log_level"] == DEFAULT:
        config = config.model_copy(update={"log_level": QUIET})
    deadline_s = time.monotonic() + timeout_s
    while True:
        with paths.told(directory, "runtime"):
            lock_fd = runtime_lock.take(directory)
        if lock_fd is not None:
            return _start(config, directory, lock_fd, deadline_s)
        if (seat := _join(directory, deadline_s) or _be_a_guest(config)) is not None:
            _check_settings(seat, wanted)
            return seat
        if time.monotonic() > deadline_s:
            raise DeadlineExceededError(
                f"the host {name!r} could not be joined within {timeout_s:g} s: {directory} belongs to process "
                f"{runtime_lock.holder_of(directory)}, which neither serves nor ends; `hostd hosts` shows what runs",
                details={"runtime_dir": str(directory)},
            )
        time.sleep(_RETRY_S)


def is_readable(fd: int, timeout_s: float | None) -> bool:
    """Wait until a descriptor is readable; False if it is not in time."""
    # Not select(2), which takes no descriptor above 1023; a server may have more.
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(None if timeout_s is None else timeout_s * 1000))


def see_it_end(process_fd: int, patience_s: float) -> None:
    """Wait until a process has ended, and kill it if that takes longer; -1 is one that has."""
    if process_fd >= 0 and not is_readable(process_fd, patience_s):
        signal.pidfd_send_signal(process_fd, signal.SIGKILL)
        is_readable(process_fd, None)


def info_of_start(said: bytes) -> dict[str, Any]:
    """Return what a supervisor said when it was ready; raises the error that it said instead."""
    record = json.loads(said)
    if "error" in record:
        message = f"the host did not start: {record['error']}"
        raise from_wire([*record["kind"], message, {}]) if record["kind"] else UnavailableError(message)
    return dict(record["ready"])


def _start(config: HostConfig, directory: Path, lock_fd: int, deadline_s: float) -> Seat:
    try:
        connection = _start_reaper(config, directory, lock_fd)
    except BaseException:  # raised again
        runtime_lock.remove_if_free(directory)
        raise
    seat = _sit_down(connection, deadline_s)
    if seat is None:
        raise UnavailableError(
            f"the host ended while it was starting; what it said is in {config.state_dir / LOG_FILE}"
        )
    return seat


def _start_reaper(config: HostConfig, directory: Path, given_lock_fd: int) -> socket.socket:
    """Start a reaper, which takes over the lock, and return our end of the connection to it."""
    with ExitStack() as stack:
        # None of what is handed on may be a standard descriptor, also where these are closed.
        lock_fd = above_standard(given_lock_fd)
        stack.callback(os.close, lock_fd)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        kept = stack.enter_context(ExitStack())
        kept.enter_context(ours)
        seat_fd = above_standard(theirs.detach())
        stack.callback(os.close, seat_fd)
        log = stack.enter_context(_open_log(config))
        with told_of_start():
            subprocess.run(  # noqa: S603 - our own command; what it leaves running is nobody's child
                reaper_command(shared=(seat_fd, lock_fd, directory)),
                env=supervisor_environment(config, kind="shared", lock_fd=lock_fd),
                pass_fds=[seat_fd, lock_fd],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # a pipe of the starter's would be held open as long as the host lives
                stderr=log,
                start_new_session=True,
                check=False,
            )
        kept.pop_all()
    return ours


def _open_log(config: HostConfig) -> BinaryIO:
    paths.make_state(config.state_dir)
    with paths.told(config.state_dir, "state"):
        lock_fd = runtime_lock.take_state(config.state_dir)
        how = "ab" if lock_fd is None else "wb"  # the log of a host that still runs is not begun anew
        if lock_fd is not None:
            os.close(lock_fd)
        return cast("BinaryIO", open(config.state_dir / LOG_FILE, how, opener=_private))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_APPEND | os.O_NOFOLLOW, 0o600)


def _join(directory: Path, deadline_s: float) -> Seat | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.setblocking(False)
    try:
        connection.connect(str(directory / paths.DOOR_SOCKET))
    except OSError:  # there is none, or nobody listens, or its queue is full
        connection.close()
        return None
    return _sit_down(connection, deadline_s)


def _sit_down(connection: socket.socket, deadline_s: float) -> Seat | None:
    """Wait for what the reaper says of the start; None if it hangs up instead."""
    with ExitStack() as stack:
        stack.enter_context(connection)
        said = _hear(connection, deadline_s - time.monotonic())
        if said is None:
            raise DeadlineExceededError("the host did not start in time")
        if not said:
            return None
        info = info_of_start(said)
        stack.pop_all()
    return Seat(connection, info)


def _be_a_guest(config: HostConfig) -> Seat | None:
    """Return a seat in a host that is somebody else's; None if there is none that answers."""
    if why_unreachable(config.endpoint) is not None:
        return None
    from hostd.client._sync.client import Client  # noqa: PLC0415 - a private host needs it later, if at all

    with suppress(UnavailableError, DeadlineExceededError), Client(config.endpoint) as client:
        info = client.host_info()
        if info.kind != "shared":
            return Seat(None, info.to_dict())
    return None


def _check_settings(seat: Seat, wanted: Gathered) -> None:
    """Give the seat back and raise if the host runs with other settings than this process asks for."""
    with ExitStack() as stack:
        stack.callback(seat.give_back, 0)
        if different := _differences(seat, wanted):
            raise FailedPreconditionError(
                f"the host {wanted.config.name!r} runs already (process {seat.info['pid']}) with other settings than "
                f"this process asks for: {'; '.join(different)}. Give all that share it the same settings, leave these "
                f"out here, or choose another name",
                details={"settings": different},
            )
        stack.pop_all()


def _differences(seat: Seat, wanted: Gathered) -> list[str]:
    from hostd.client._sync.client import Client  # noqa: PLC0415 - as above
    from hostd.config.sources import DEFAULT, flat  # noqa: PLC0415 - see take_seat

    asked = {
        key: value
        for where, value in flat(wanted.config.model_dump(mode="json"))
        if wanted.origins.get(key := ".".join(where), DEFAULT) != DEFAULT and where[0] not in _NOT_COMPARED
    }
    if not asked:
        return []
    with Client(seat.info["endpoint"]) as client:
        found = {".".join(where): value for where, value in flat(client.host_settings())}
    return [
        f"{key} is {found.get(key)!r} there and {value!r} here ({wanted.origins[key]})"
        for key, value in asked.items()
        if found.get(key) != value
    ]


def _ask_to_leave(connection: socket.socket, words: bytes, timeout_s: float | None) -> bytes | None:
    """Return the reaper's answer, b"" if it has hung up, None if there is none in time."""
    with suppress(OSError):  # the host has ended already, which is then what is heard
        connection.send(words, socket.MSG_NOSIGNAL)
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        answer = _hear(connection, None if deadline_s is None else deadline_s - time.monotonic())
        if answer is None or answer in (_STAYS, _ENDED, b""):  # and not what a host says that is ready only now
            return answer


def _hear(connection: socket.socket, timeout_s: float | None) -> bytes | None:
    if not is_readable(connection.fileno(), None if timeout_s is None else max(0.0, timeout_s)):
        return None
    with suppress(OSError):  # it was reset
        return connection.recv(_MESSAGE_BYTES)
    return b""
