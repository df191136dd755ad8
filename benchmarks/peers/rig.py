"""Finding peers, starting and ending them, and what can be seen of them from outside: start time and memory."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.floors.lane import ROOT
from benchmarks.outside import Process, children_of, is_there, pss_of, tree_of
from benchmarks.peers.servers import Place

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.peers.http import HttpLane
    from benchmarks.peers.servers import Peer

# MLServer took 25 s on a loaded machine.
START_TIMEOUT_S = 180.0
END_TIMEOUT_S = 20.0
LOOK_AGAIN_S = 0.01
PORTS = 3
_LAST_WORDS = 300

_ABOUT = """
import json, sys, sysconfig
from importlib.metadata import version
python_version = "%d.%d" % sys.version_info[:2]
paths = sysconfig.get_path("purelib"), sysconfig.get_config_var("LIBDIR")
print(json.dumps([version(sys.argv[1]), python_version, *paths]))
"""
_WRITE_MODEL = """
import sys
from pathlib import Path
from benchmarks.models import write_digits
write_digits(Path(sys.argv[1]))
"""


class PeerError(Exception):
    """A peer that is installed does not serve; says why."""


class Started(NamedTuple):
    """A server that has answered: how long that took, and the processes that were started for it."""

    start_s: float
    roots: list[Process]

    @property
    def memory_bytes(self) -> int:
        """Return the memory of all its processes, shared pages divided among those that share them (PSS)."""
        return sum(pss_of(process.pid) for root in self.roots for process in (root, *tree_of(root.pid)))


class StartTimer:
    """Sees which processes are started for a server, and when it is ready."""

    def __init__(self) -> None:
        self._before = set(children_of(os.getpid()))
        self._begun_s = time.perf_counter()

    def started(self) -> Started:
        """Return what there is now."""
        return Started(
            time.perf_counter() - self._begun_s, [p for p in children_of(os.getpid()) if p not in self._before]
        )


def find(peer: Peer, directory: Path | None, scratch: Path) -> Place | None:
    """Return where a peer is installed: in its own environment below `directory`, or in this one; None: nowhere."""
    own = directory / peer.folder / "bin" / "python" if directory is not None else None
    python = str(own.absolute()) if own is not None and own.exists() else sys.executable
    told = subprocess.run([python, "-c", _ABOUT, peer.package], env=_environment(), capture_output=True, check=False)
    if told.returncode != 0:
        return None
    version, python_version, site, lib = json.loads(told.stdout)
    place = scratch / peer.folder
    place.mkdir()
    # By its own scikit-learn, which need not be ours: a pickle is for the version that wrote it.
    subprocess.run([python, "-c", _WRITE_MODEL, str(place)], cwd=ROOT, env=_environment(), check=True)
    model = place / "digits.joblib"
    return Place(python, version, python_version, Path(site), Path(lib), place, model, _free_ports(PORTS))


def _environment() -> dict[str, str]:
    """Return what a peer inherits: packages that were put on the path of this interpreter are not its own."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def _free_ports(count: int) -> tuple[int, ...]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return tuple(each.getsockname()[1] for each in sockets)


@contextmanager
def serving(peer: Peer, place: Place, expected: Any) -> Iterator[tuple[HttpLane, Started]]:
    """Start a server and wait for its first answer; it and all that it started are gone after the block.

    Raises `PeerError` if it does not serve, or if the answer is not what is expected.
    """
    command, env = peer.start(place)
    lane = peer.lane(place)
    log = place.directory / "log"
    with log.open("wb") as out:
        timer = StartTimer()
        # Not here: a server may take what lies in its working directory for its own.
        server = subprocess.Popen(
            command, cwd=place.directory, env=_environment() | env, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        _await_answer(peer, lane, server, log, expected)
        yield lane, timer.started()
    finally:
        lane.close()
        _end(server)


def _await_answer(peer: Peer, lane: HttpLane, server: subprocess.Popen[bytes], log: Path, expected: Any) -> None:
    give_up_s = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            answer: Any = lane.call()
        except (OSError, ValueError) as failed:
            lane.close()
            trouble = str(failed)
        else:
            if answer == expected:
                return
            raise PeerError(f"{peer.name} answers {answer!r} in place of {expected!r}")
        if server.poll() is not None or time.monotonic() > give_up_s:
            raise PeerError(f"{peer.name} does not serve ({trouble}); its log says: {_last_error(log)}")
        time.sleep(LOOK_AGAIN_S)


def _last_error(log: Path) -> str:
    """Return the last line that tells of an error, as the last of a traceback does; the last of all if none does."""
    lines = log.read_text(errors="replace").splitlines() or [""]
    return next((line for line in reversed(lines) if "Error" in line), lines[-1])[:_LAST_WORDS]


def _end(server: subprocess.Popen[bytes]) -> None:
    below = tree_of(server.pid)
    server.send_signal(signal.SIGTERM)
    try:
        server.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    for process in below:
        _kill(process)


def _kill(process: Process) -> None:
    """Kill what a server left; a number that means another process now is not touched."""
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        if is_there(process):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        os.close(fd)
