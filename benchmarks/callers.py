"""Clients in processes of their own: each measures its lane when it is told to, and tells what it saw.

A round begins with the words `DEPTH SECONDS` on a client's standard input; it answers with two numbers (calls, seconds
in all) and the latencies, as doubles. Run as a program it is a client that sends 64 bytes: `python -m
benchmarks.callers unix PATH`, or `hostd ENDPOINT`. Imports the standard library only, because clients of other servers
run under those servers' interpreters.
"""

from __future__ import annotations

import struct
import subprocess
import sys
from array import array
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, BinaryIO

from benchmarks.floors.lane import ROOT, Shape, die_with_parent
from benchmarks.runner import Round, in_flight

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.floors.lane import Lane

SMALL = Shape(64)
READY = b"ready\n"
_HEAD = struct.Struct("dd")


class Callers:
    """Client processes that are told together when to call."""

    def __init__(self, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        self._processes = processes

    def measure(self, depth: int, duration_s: float) -> Round:
        """Have every client keep `depth` requests in flight; returns the calls of all of them."""
        for process in self._processes:
            _pipe(process.stdin).write(f"{depth} {duration_s}\n".encode())
            _pipe(process.stdin).flush()
        rounds = [_told(process) for process in self._processes]
        return together(rounds)


def together(rounds: Sequence[Round]) -> Round:
    """Return the rounds of clients that called at the same time as one."""
    latencies_s = [latency for round_ in rounds for latency in round_.latencies_s]
    return Round(latencies_s, max(round_.elapsed_s for round_ in rounds))


@contextmanager
def callers(
    count: int, module: str, *arguments: object, python: str = sys.executable, env: dict[str, str] | None = None
) -> Iterator[Callers]:
    """Start clients, `python -m module arguments...`; they are ready when the block begins."""
    command = [python, "-m", module, *map(str, arguments)]
    with ExitStack() as stack:
        processes = []
        for _ in range(count):
            process = subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            processes.append(stack.enter_context(process))
            stack.callback(process.kill)
        for process in processes:
            if _pipe(process.stdout).readline() != READY:
                raise RuntimeError(f"the client {process.args!r} was never ready")
        yield Callers(processes)


def serve(lane: Lane) -> None:
    """Measure a lane whenever that is asked for, until nobody asks any more."""
    out = sys.stdout.buffer
    out.write(READY)
    out.flush()
    for line in sys.stdin:
        depth, duration_s = int(line.split()[0]), float(line.split()[1])
        seen = in_flight(lane, depth, duration_s)
        out.write(_HEAD.pack(len(seen.latencies_s), seen.elapsed_s) + array("d", seen.latencies_s).tobytes())
        out.flush()


def _told(process: subprocess.Popen[bytes]) -> Round:
    calls, elapsed_s = _HEAD.unpack(_read(process, _HEAD.size))
    latencies_s = array("d", _read(process, int(calls) * array("d").itemsize))
    return Round(latencies_s, elapsed_s)


def _read(process: subprocess.Popen[bytes], size: int) -> bytes:
    told = _pipe(process.stdout).read(size)
    if len(told) < size:
        raise RuntimeError(f"the client {process.args!r} has ended with {process.wait()}")
    return told


def _pipe(pipe: object) -> BinaryIO:
    assert pipe is not None
    return pipe  # type: ignore[return-value]


def main() -> None:
    """Call 64 bytes of echo, as one of many."""
    die_with_parent()
    kind, address = sys.argv[1:]
    with ExitStack() as stack:
        if kind == "unix":
            from benchmarks.floors import unix_server  # noqa: PLC0415 - each kind imports its own

            serve(stack.enter_context(unix_server.open_lane(address, SMALL)))
        else:
            import hostd  # noqa: PLC0415 - as above
            from benchmarks.ours import HandleLane, echoed  # noqa: PLC0415 - as above

            client = stack.enter_context(hostd.connect(address))
            serve(HandleLane(client, echoed(SMALL)))


if __name__ == "__main__":
    main()
