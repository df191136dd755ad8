"""The ways in which a process can go wrong, by name. Standard library alone: this runs inside of workers.

`commit(death, evidence)` first leaves a file at `evidence`, so that a test knows that it has come so far; grandchildren
add their process ids to `evidence` + ".pids". Kinds of death:

    DIES      the process ends, or the code that runs raises
    STALLS    it lives and does nothing any more
    GOES_ON   it does harm and then what it was asked to do
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

RAISES = ("raise", "raise-anything")
DIES = (*RAISES, "exit-0", "exit-1", "exit-beside-a-thread", "sigkill", "sigsegv")
STALLS = ("hang", "hang-holding-the-gil", "sigstop", "ignore-sigterm")
GOES_ON = ("grow", "flood", "garbage", "grandchildren")
DEATHS = (*DIES, *STALLS, *GOES_ON)

STAGES = ("spawn", "handshake", "load", "idle", "infer", "stream", "drain")

GROWN_BYTES = 96 << 20
GARBAGE = (b"", b"\0", b"\xff" * 15, b"\x12\x01\xff\xff" + b"\0" * 12, b"\x12\x63" + b"\0" * 14, os.urandom(4096))

_kept: list[object] = []


class Fault(Exception):
    """What `raise` raises."""


class AnyFault(BaseException):
    """What `raise-anything` raises, which no `except Exception` catches."""


def commit(death: str, evidence: str) -> None:
    """Go wrong in this way."""
    Path(evidence).touch()
    _COMMIT[death](evidence)


def _raise(_evidence: str) -> None:
    raise Fault("this model was told to fail")


def _raise_anything(_evidence: str) -> None:
    raise AnyFault("this model was told to fail")


def _exit_beside_a_thread(_evidence: str) -> None:
    """Exit while a thread lives on that Python itself would wait for."""
    if "hostd_workers" in sys.modules:  # before that it is not the worker's to end
        threading.Thread(target=threading.Event().wait).start()
    sys.exit(3)


def _segfault(_evidence: str) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _hang(_evidence: str) -> None:
    while True:
        time.sleep(3600)


def _hang_holding_the_gil(_evidence: str) -> None:
    while True:
        ctypes.PyDLL(None).pause()


def _ignore_sigterm(evidence: str) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if threading.current_thread() is threading.main_thread():
            signal.signal(number, signal.SIG_IGN)
    _hang(evidence)


def _grow(_evidence: str) -> None:
    _kept.append(b"\1" * GROWN_BYTES)


def _flood(_evidence: str) -> None:
    line = b"x" * 1023 + b"\n"

    def write() -> None:
        while True:
            os.write(1, line * 64)

    threading.Thread(target=write, daemon=True).start()


def _garbage(_evidence: str) -> None:
    """Send what is no message: over the worker's own socket if it has one, else over a connection of its own."""
    transport = sys.modules.get("hostd_workers.main")
    socket = _socket_of_the_worker() if transport else None
    if socket is None:
        _talk_nonsense()
        return
    from zmq import SNDMORE

    for frame in GARBAGE:
        for is_last in (True, False, False, True):
            socket.send(frame, 0 if is_last else SNDMORE)
    for kind in range(256):  # every kind of message, well formed in front and nonsense behind
        for body in (b"", b"\xc1", *_lies()):
            socket.send(bytes([kind, 1, 0, 0]) + b"\xff" * 12 + body)
            socket.send(bytes([kind, 1, 0, 0]) + b"\0" * 12 + body)


def _lies() -> list[bytes]:
    """Return bodies that are well formed and wrong in every part."""
    import msgpack

    nothing: dict[str, object] = {}
    methods = (nothing, {"x": nothing}, {"x": {"name": [], "streams": nothing}}, {1: {"name": "x"}}, {"x": 7}, [])
    loaded = [{"methods": some, "loader": "x", "default_method": None} for some in methods]
    errors = [[99, "NoSuchKind", "x", nothing], [-1, "", "", {"traceback": nothing}], [1, 2, 3, 4]]
    return [msgpack.packb(body) for body in (*loaded, *errors, {"versions": [99]}, {"status": [], "details": 7})]


def _socket_of_the_worker() -> object:
    import gc

    import zmq

    found = [thing for thing in gc.get_objects() if isinstance(thing, zmq.backend.Socket)]
    return found[0] if found else None


def _talk_nonsense() -> None:
    import socket

    path = os.environ["HOSTD_WORKER_ENDPOINT"].removeprefix("ipc://")
    for data in GARBAGE:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            connection.sendall(data)


def _grandchildren(evidence: str) -> None:
    """Start four that a kill of the worker, its group or its session does not reach, and one that ignores signals."""
    _start(evidence, daemonised=False)
    for _ in range(2):
        _start(evidence, daemonised=True)
    _start(evidence, daemonised=True, stubborn=True)


def _start(evidence: str, *, daemonised: bool, stubborn: bool = False) -> None:
    read, write = os.pipe()
    if os.fork() == 0:
        if daemonised:
            os.setsid()
            if os.fork():
                os._exit(0)
            os.setsid()
            os.chdir("/")
        if stubborn:
            for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
                signal.signal(number, signal.SIG_IGN)
        with open(evidence + ".pids", "a") as file:
            file.write(f"{os.getpid()}\n")
        os.write(write, b"\n")
        os.closerange(0, 64)
        while True:
            time.sleep(3600)
    os.read(read, 1)
    os.close(read)
    os.close(write)


_COMMIT = {
    "raise": _raise,
    "raise-anything": _raise_anything,
    "exit-beside-a-thread": _exit_beside_a_thread,
    "exit-0": lambda _: sys.exit(0),
    "exit-1": lambda _: sys.exit(1),
    "sigkill": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "sigsegv": _segfault,
    "hang": _hang,
    "hang-holding-the-gil": _hang_holding_the_gil,
    "sigstop": lambda _: os.kill(os.getpid(), signal.SIGSTOP),
    "ignore-sigterm": _ignore_sigterm,
    "grow": _grow,
    "flood": _flood,
    "garbage": _garbage,
    "grandchildren": _grandchildren,
}
